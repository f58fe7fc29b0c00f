//! An etcd on a host of the lab: the store of agents that are processes of their own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use privnet::store::{self, EtcdOptions, Key, Prefix, Store as _, Transaction};
use rustix::process::Signal;

use super::ground::Ground;
use super::space::Space;
use super::wait::wait_until;
use super::{process, say};

/// A running etcd, reached at [`Etcd::url`] from every host; dropping it kills it.
pub struct Etcd {
    space: Space,
    url: String,
    child: Option<Child>,
    /// Last: the leak check must not come before the process has ended.
    ground: Ground,
}

impl Etcd {
    /// Prepares one in the namespace of host `number` of [`super::Lab::underlay`]; it does not run yet.
    #[must_use]
    pub fn new(space: Space, number: u8) -> Self {
        let url = format!("http://{}:2379", super::underlay_address(number));
        Self { space, url, child: None, ground: Ground::join() }
    }

    /// Where its clients find it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts it with the data that it had, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_with("");
    }

    /// Starts it with further arguments, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start_with(&mut self, further: &str) {
        let (url, peer) = (&self.url, "http://127.0.0.1:2380");
        let line = format!(
            "etcd --name one --data-dir {} --listen-client-urls {url} --advertise-client-urls {url} --listen-peer-urls {peer} \
             --initial-advertise-peer-urls {peer} --initial-cluster one={peer} --logger zap --unsafe-no-fsync {further}",
            self.data().display()
        );
        say(&format!("[etcd] {line}"));
        let log = File::create(self.ground.directory().join("log")).expect("its log");
        let mut command = self.space.command(&line);
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().expect("nsenter starts"));
        // One that is full says that it is not healthy, and answers.
        let fails = if further.is_empty() { "f" } else { "" };
        let health = format!("curl -s{fails} -m 5 {url}/health");
        wait_until("etcd answers (Debian's package etcd-server)", || self.space.succeeds(&health));
    }

    /// Kills it, as a crash would.
    ///
    /// # Panics
    /// When it cannot.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            say("[etcd] kill -9");
            child.kill().expect("kill -9");
            child.wait().expect("its end");
        }
    }

    /// Stops it where it is: it holds its connections and answers nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends every lease, as if no host had kept it alive.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn end_leases(&self) {
        let ask = |path: &str, body: &str| self.space.run(&format!("curl -sf {}{path} -d {body}", self.url));
        let listed: serde_json::Value = serde_json::from_str(&ask("/v3/lease/leases", "{}")).expect("JSON of etcd");
        for lease in listed["leases"].as_array().into_iter().flatten() {
            let id = lease["ID"].as_str().expect("its number");
            ask("/v3/lease/revoke", &format!("{{\"ID\":\"{id}\"}}"));
        }
    }

    /// Takes back that it is full: it says so until it is told.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn is_full_no_more(&self) {
        let ask = |body: &str| self.space.run(&format!("curl -sf {}/v3/maintenance/alarm -d {body}", self.url));
        let listed: serde_json::Value = serde_json::from_str(&ask("{}")).expect("JSON of etcd");
        for alarm in listed["alarms"].as_array().into_iter().flatten() {
            let member = alarm["memberID"].as_str().expect("its number");
            ask(&format!("{{\"action\":\"DEACTIVATE\",\"memberID\":\"{member}\",\"alarm\":\"NOSPACE\"}}"));
        }
    }

    /// The keys of privnet and their values, without the parts that begin with one of `without`.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn records(&self, without: &[&str]) -> BTreeMap<String, String> {
        let listing = self.ask(async |store| store.list(&Prefix::all()).await.expect("a listing"));
        let records = listing
            .entries
            .into_iter()
            .map(|entry| (entry.key.to_string(), String::from_utf8(entry.value.to_vec()).expect("a record is text")));
        records.filter(|(key, _)| !without.iter().any(|prefix| key.starts_with(prefix))).collect()
    }

    /// Deletes the keys that begin with one of `prefixes`, all in one transaction, as an operator's mistake does.
    ///
    /// # Panics
    /// When it does not.
    pub fn delete(&self, prefixes: &[&str]) {
        say(&format!("[etcd] del --prefix {}", prefixes.join(" ")));
        let all = self.records(&[]);
        let lost = all.into_keys().filter(|key| prefixes.iter().any(|prefix| key.starts_with(prefix)));
        let lost: Vec<Key> = lost.map(|key| key.parse().expect("a key")).collect();
        assert!(!lost.is_empty(), "there is nothing to delete");
        let transaction = lost.into_iter().fold(Transaction::new(), Transaction::delete);
        self.ask(async move |store| store.commit(transaction).await.expect("deleted"));
    }

    /// Does something with the store, from the host's namespace.
    fn ask<T: Send + 'static>(&self, act: impl AsyncFnOnce(&store::Etcd) -> T + Send + 'static) -> T {
        let url = self.url.clone();
        self.space.inside(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { act(&store::Etcd::new(&EtcdOptions::new(vec![url])).expect("a URL")).await })
        })
    }

    /// Copies its data while it does not run: a backup.
    ///
    /// # Panics
    /// When it cannot.
    pub fn back_up_data(&self) {
        let (data, aside) = (self.data(), self.ground.directory().join("aside"));
        super::run(&format!("cp -r {} {}", data.display(), aside.display()));
    }

    /// Puts its data aside while it does not run: it will begin anew.
    ///
    /// # Panics
    /// When it cannot.
    pub fn put_data_aside(&self) {
        std::fs::rename(self.data(), self.ground.directory().join("aside")).expect("its data");
    }

    /// Puts back what was put aside, in place of what it has.
    ///
    /// # Panics
    /// When it cannot.
    pub fn put_data_back(&self) {
        std::fs::remove_dir_all(self.data()).expect("its newer data");
        std::fs::rename(self.ground.directory().join("aside"), self.data()).expect("its data");
    }

    fn data(&self) -> PathBuf {
        self.ground.directory().join("data")
    }

    fn signal(&self, signal: Signal) {
        say(&format!("[etcd] {signal:?}"));
        let child = self.child.as_ref().expect("it runs");
        process::kill(i32::try_from(child.id()).expect("a process id"), signal);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
