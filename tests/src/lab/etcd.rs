//! An etcd on a host of the lab: the store of agents that are processes of their own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use privnet::store::{self, EtcdOptions, Expected, Key, Prefix, Store as _, Transaction};
use rustix::process::Signal;

use super::ground::Ground;
use super::space::Space;
use super::wait::wait_until;
use super::{process, say};

/// A running etcd, reached at [`Etcd::url`] from every host; dropping it kills it.
pub struct Etcd {
    space: Space,
    name: String,
    url: String,
    /// Where the other members of its cluster find it.
    peer_url: String,
    /// All members of its cluster, as etcd wants them named.
    members: String,
    child: Option<Child>,
    /// The program, whose version is another one after an upgrade.
    program: &'static str,
    /// Last: the leak check must not come before the process has ended.
    ground: Ground,
}

impl Etcd {
    /// Prepares one in the namespace of host `number` of [`super::Lab::underlay`]; it does not run yet.
    #[must_use]
    pub fn new(space: Space, number: u8) -> Self {
        let [one] = Self::cluster(&space, number);
        one
    }

    /// Prepares the members of one cluster in the namespace of host `number`; none of them runs yet.
    #[must_use]
    pub fn cluster<const N: usize>(space: &Space, number: u8) -> [Self; N] {
        // Each has a port for its clients and the next one for its peers.
        let port = |index: usize| 2379 + 10 * index;
        let name = |index: usize| format!("m{index}");
        let peer_url = |index: usize| format!("http://127.0.0.1:{}", port(index) + 1);
        let members: Vec<String> = (0..N).map(|index| format!("{}={}", name(index), peer_url(index))).collect();
        std::array::from_fn(|index| Self {
            space: space.clone(),
            name: name(index),
            url: format!("http://{}:{}", super::underlay_address(number), port(index)),
            peer_url: peer_url(index),
            members: members.join(","),
            child: None,
            program: "etcd",
            ground: Ground::join(),
        })
    }

    /// The namespace of its host.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
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
        self.launch(further);
        // One that is full says that it is not healthy, and answers.
        self.wait_until_it_answers(further.is_empty());
    }

    /// Waits until it has a leader and answers.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_until_healthy(&self) {
        self.wait_until_it_answers(true);
    }

    #[track_caller]
    fn wait_until_it_answers(&self, is_healthy: bool) {
        let fails = if is_healthy { "f" } else { "" };
        let health = format!("curl -s{fails} -m 5 {}/health", self.url);
        wait_until("etcd answers (Debian's package etcd-server)", || self.space.succeeds(&health));
    }

    /// Starts it as [`Etcd::start_with`], and waits for nothing: a member alone has no majority to answer with.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn launch(&mut self, further: &str) {
        let (url, peer) = (&self.url, &self.peer_url);
        let line = format!(
            "{} --name {} --data-dir {} --listen-client-urls {url} --advertise-client-urls {url} --listen-peer-urls {peer} \
             --initial-advertise-peer-urls {peer} --initial-cluster {} --logger zap --unsafe-no-fsync {further}",
            self.program,
            self.name,
            self.data().display(),
            self.members,
        );
        say(&format!("[etcd] {line}"));
        let log = File::create(self.ground.directory().join("log")).expect("its log");
        let mut command = self.space.command(&line);
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().expect("nsenter starts"));
    }

    /// Kills it and starts another version on the data that it had.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn upgrade(&mut self, program: &'static str) {
        self.kill();
        self.program = program;
        self.start();
    }

    /// Its version.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn version(&self) -> String {
        let answer = self.space.run(&format!("curl -sf {}/version", self.url));
        let version: serde_json::Value = serde_json::from_str(&answer).expect("JSON of etcd");
        version["etcdserver"].as_str().expect("its version").to_owned()
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
        for lease in self.post("/v3/lease/leases", "{}")["leases"].as_array().into_iter().flatten() {
            let id = lease["ID"].as_str().expect("its number");
            self.post("/v3/lease/revoke", &format!("{{\"ID\":\"{id}\"}}"));
        }
    }

    /// Forgets the history of everything: a watch can go on from the present revision only.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn compact(&self) {
        let head = self.post("/v3/kv/range", "{\"key\":\"Lw==\"}");
        let revision = head["header"]["revision"].as_str().expect("its revision");
        self.post("/v3/kv/compaction", &format!("{{\"revision\":\"{revision}\",\"physical\":true}}"));
    }

    /// Answers from now on only to clients that say who they are.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn ask_for_names(&self) {
        self.post("/v3/auth/user/add", "{\"name\":\"root\",\"password\":\"secret\"}");
        self.post("/v3/auth/user/grant", "{\"user\":\"root\",\"role\":\"root\"}");
        self.post("/v3/auth/enable", "{}");
    }

    /// Makes a user who may read and write the keys of privnet.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn add_user(&self, user: &str, password: &str) {
        // All keys from "/privnet/" on.
        let keys = r#""key":"L3ByaXZuZXQv","range_end":"L3ByaXZuZXQw""#;
        for (path, body) in [
            ("user/add", format!(r#"{{"name":"{user}","password":"{password}"}}"#)),
            ("role/add", format!(r#"{{"name":"{user}"}}"#)),
            ("role/grant", format!(r#"{{"name":"{user}","perm":{{"permType":"READWRITE",{keys}}}}}"#)),
            ("user/grant", format!(r#"{{"user":"{user}","role":"{user}"}}"#)),
        ] {
            self.post(&format!("/v3/auth/{path}"), &body);
        }
    }

    /// Gives a user another password, by the word of root.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn change_password(&self, user: &str, password: &str) {
        self.post_as_root("user/changepw", &format!(r#"{{"name":"{user}","password":"{password}"}}"#));
    }

    /// Answers to every client again.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn ask_for_no_names(&self) {
        self.post_as_root("disable", "{}");
    }

    fn post_as_root(&self, path: &str, body: &str) {
        let token = self.post("/v3/auth/authenticate", "{\"name\":\"root\",\"password\":\"secret\"}");
        let token = token["token"].as_str().expect("a token");
        self.space.run(&format!("curl -sf {}/v3/auth/{path} -d {body} -H Authorization:{token}", self.url));
    }

    /// What it answers to a question in JSON.
    fn post(&self, path: &str, body: &str) -> serde_json::Value {
        let answer = self.space.run(&format!("curl -sf {}{path} -d {body}", self.url));
        serde_json::from_str(&answer).expect("JSON of etcd")
    }

    /// Takes back that it is full: it says so until it is told.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn is_full_no_more(&self) {
        let ask = |body: &str| self.post("/v3/maintenance/alarm", body);
        for alarm in ask("{}")["alarms"].as_array().into_iter().flatten() {
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

    /// Writes values under keys, all in one transaction, as whoever can write there does.
    ///
    /// # Panics
    /// When it does not.
    pub fn overwrite(&self, records: &BTreeMap<String, Vec<u8>>) {
        let put = |transaction: Transaction, (key, value): (&String, &Vec<u8>)| {
            transaction.put(key.parse().expect("a key"), value.clone())
        };
        let transaction = records.iter().fold(Transaction::new(), put);
        self.ask(async move |store| store.commit(transaction).await.expect("written"));
    }

    /// Writes the next form of a record, under the lease that it has, as whoever can write there does.
    ///
    /// # Panics
    /// When there is none, or it cannot be written.
    pub fn rewrite(&self, key: &str, change: impl FnOnce(&mut serde_json::Value) + Send + 'static) {
        say(&format!("[etcd] {key} is written again"));
        let key: Key = key.parse().expect("a key");
        self.ask(async move |store| {
            let held = store.get(&key).await.expect("an answer").expect("a record");
            let mut record: serde_json::Value = serde_json::from_slice(&held.value).expect("JSON");
            record["serial"] = (record["serial"].as_u64().unwrap_or_default() + 1).into();
            change(&mut record);
            let (value, same) = (record.to_string().into_bytes(), Expected::Revision(held.revision));
            let writing = Transaction::new().require(key.clone(), same);
            let writing = match held.lease {
                Some(lease) => writing.put_leased(key, value, lease),
                None => writing.put(key, value),
            };
            store.commit(writing).await.expect("written");
        });
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
        let _ = std::fs::remove_dir_all(self.aside());
        super::run(&format!("cp -r {} {}", self.data().display(), self.aside().display()));
    }

    /// Puts its data aside while it does not run: it will begin anew. What was aside before is gone.
    ///
    /// # Panics
    /// When it cannot.
    pub fn put_data_aside(&self) {
        let _ = std::fs::remove_dir_all(self.aside());
        std::fs::rename(self.data(), self.aside()).expect("its data");
    }

    /// Puts back what was put aside, in place of what it has, which is aside then.
    ///
    /// # Panics
    /// When it cannot.
    pub fn put_data_back(&self) {
        let newer = self.ground.directory().join("newer");
        for (from, to) in [(self.data(), &newer), (self.aside(), &self.data()), (newer.clone(), &self.aside())] {
            std::fs::rename(from, to).expect("its data");
        }
    }

    fn aside(&self) -> PathBuf {
        self.ground.directory().join("aside")
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
