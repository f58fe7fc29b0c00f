//! An etcd of a test's own: on a free loopback port, in a directory that goes with it.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::Rng as _;
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use tokio::time::Instant;

use crate::store::Store as _;
use crate::store::etcd::Etcd;

/// How long an etcd may take to begin, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// A running etcd; dropping it kills it.
pub(in crate::store) struct Server {
    directory: tempfile::TempDir,
    url: String,
    name: String,
    peer_url: String,
    /// All members of its cluster, as etcd wants them named; itself alone where there are none.
    members: Option<String>,
    /// What else it is told.
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts one; it may not answer yet.
    pub(in crate::store) fn start() -> Self {
        Self::start_with("http", Vec::new())
    }

    /// Starts one that is reached by `scheme`, and told `arguments`.
    pub(super) fn start_with(scheme: &str, arguments: Vec<String>) -> Self {
        let url = format!("{scheme}://127.0.0.1:{}", free_port());
        let peer_url = format!("http://127.0.0.1:{}", free_port());
        let directory = tempfile::tempdir().expect("a directory");
        let name = "one".to_owned();
        let mut server = Self { directory, url, name, peer_url, members: None, arguments, child: None };
        server.start_again();
        server
    }

    /// Starts the members of one cluster.
    pub(super) fn start_cluster<const N: usize>() -> [Self; N] {
        let peers: [String; N] = std::array::from_fn(|_| format!("http://127.0.0.1:{}", free_port()));
        let members: Vec<String> = peers.iter().enumerate().map(|(index, url)| format!("m{index}={url}")).collect();
        std::array::from_fn(|index| {
            let mut server = Self {
                directory: tempfile::tempdir().expect("a directory"),
                url: format!("http://127.0.0.1:{}", free_port()),
                name: format!("m{index}"),
                peer_url: peers[index].clone(),
                members: Some(members.join(",")),
                arguments: Vec::new(),
                child: None,
            };
            server.start_again();
            server
        })
    }

    /// Starts it with the data that it had.
    pub(super) fn start_again(&mut self) {
        let log = std::fs::File::create(self.directory.path().join("log")).expect("a log");
        let (url, peer_url) = (&self.url, &self.peer_url);
        let members = self.members.clone().unwrap_or_else(|| format!("{}={peer_url}", self.name));
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .args(["--name", &self.name, "--logger", "zap"])
            .args(&self.arguments)
            .args(["--listen-client-urls", url, "--advertise-client-urls", url])
            .args(["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url])
            .args(["--initial-cluster", &members])
            // Nothing here needs to outlive a crash of the machine.
            .arg("--unsafe-no-fsync")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        let child = command.spawn().expect("the program etcd, of Debian's package etcd-server");
        self.child = Some(child);
    }

    pub(in crate::store) fn url(&self) -> &str {
        &self.url
    }

    pub(in crate::store) async fn wait_until_ready(&self, store: &Etcd) {
        let end = Instant::now() + SOON;
        while let Err(error) = store.check().await {
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < end, "{error}\n{log}");
        }
    }

    /// Kills it, as a crash would.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("its end");
        }
    }

    /// Kills it and starts it with its data at another port, and returns the URL that it had.
    pub(super) fn move_away(&mut self) -> String {
        let elsewhere = format!("http://127.0.0.1:{}", free_port());
        let home = self.url.clone();
        self.move_to(elsewhere);
        home
    }

    /// Kills it and starts it with its data at `url`.
    pub(super) fn move_to(&mut self, url: String) {
        self.kill();
        self.url = url;
        self.start_again();
    }

    /// Copies its data, as a backup does, and returns where the copy is. It is started anew for that.
    pub(super) fn back_up(&mut self) -> PathBuf {
        self.kill();
        let copy = self.directory.path().join("copy");
        Self::copy(&self.directory.path().join("data"), &copy);
        self.start_again();
        copy
    }

    /// Kills it, and gives it the data of a backup; it does not run then.
    pub(super) fn restore(&mut self, copy: &Path) {
        self.kill();
        let data = self.directory.path().join("data");
        std::fs::remove_dir_all(&data).expect("its data");
        Self::copy(copy, &data);
    }

    fn copy(from: &Path, to: &Path) {
        let status = Command::new("cp").arg("-a").args([from, to]).status().expect("cp");
        assert!(status.success());
    }

    /// Kills it and starts another one, empty, in its place.
    pub(super) fn lose_everything(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.directory.path().join("data")).expect("its data");
        // The identity of a cluster is made of its first members' URLs.
        self.peer_url = format!("http://127.0.0.1:{}", free_port());
        self.start_again();
    }

    /// Stops it where it is: it holds its connections and answers nothing.
    pub(super) fn pause(&self) {
        self.signal(Signal::STOP);
        // The signal is on its way; an answer may be as well.
        let pid = Pid::from_child(self.child.as_ref().expect("it runs"));
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).expect("its state").expect("it stops");
        assert!(status.stopped(), "{status:?}");
    }

    pub(super) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        rustix::process::kill_process(Pid::from_child(child), signal).expect("a signal");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody has, below those that the kernel gives to who connects.
fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(10_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
