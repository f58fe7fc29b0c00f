//! Containers with a DNS process beside them: a namespace each, with nothing in it but the loopback.

#![expect(clippy::print_stdout, reason = "the transcript")]
#![allow(dead_code, reason = "each test file uses its part of the lab")]

pub mod host;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use privnet::dns::{DEFAULT_ADDRESS, DnsProcess, ProcessSpec, Sockets};
use privnet::names::{Asker, Catalogue, Difference, MemberNames, NetworkHead, NetworkNames};
use privnet::netns::{DEFAULT_DIR, Netns};

pub const SHOP: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
pub const BANK: &str = "pn-bd0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
pub const APP: &str = "ap-a71da13f-7c70-4c00-a644-eee8558d8053";
pub const SUFFIX: &str = "private-network.internal";
/// How long a named condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

pub fn wait_until(condition: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {condition}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The namespaces and processes of one test. Dropped, it removes them.
pub struct Lab {
    pub prefix: String,
    pub directory: tempfile::TempDir,
    pub dns: DnsProcess,
    names: Vec<String>,
}

/// A container that is served.
pub struct Container {
    pub name: String,
    pub netns: Netns,
    pub path: PathBuf,
}

impl Lab {
    /// A lab without a process.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("names-{}-{}-", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::Builder::new().prefix("privnet-names-").tempdir().expect("a directory");
        let dns = DnsProcess::new(&directory.path().join("dns"));
        Self { prefix, directory, dns, names: Vec::new() }
    }

    /// A lab whose process runs and knows the names of [`catalogue`].
    pub fn serving(members: u8) -> Self {
        let lab = Self::new();
        let difference = Difference::between(&Catalogue::new(), &catalogue(members));
        runtime().block_on(async {
            lab.dns.start(&lab.spec()).await.expect("it starts");
            lab.dns.tell(true, difference).await.expect("it is told");
        });
        lab
    }

    pub fn spec(&self) -> ProcessSpec {
        ProcessSpec {
            binary: env!("CARGO_BIN_EXE_dns_process").into(),
            threads: 1,
            max_age: Duration::from_secs(3600),
            resolv_conf: self.directory.path().join("resolv.conf"),
        }
    }

    /// A second process's place, for a successor.
    pub fn another(&self, name: &str) -> DnsProcess {
        DnsProcess::new(&self.directory.path().join(name))
    }

    /// A pinned namespace with its loopback up.
    pub fn container(&mut self, name: &str) -> Container {
        let name = format!("{}{name}", self.prefix);
        let netns = Netns::create(Path::new(DEFAULT_DIR), &name).expect("a namespace");
        self.names.push(name.clone());
        ok(&format!("ip -n {name} link set lo up"));
        Container { path: Path::new(DEFAULT_DIR).join(&name), netns, name }
    }

    /// A container that is served.
    pub fn served(&mut self, name: &str, networks: &[&str]) -> Container {
        let container = self.container(name);
        runtime().block_on(self.serve(&container, networks)).expect("it is served");
        container
    }

    pub async fn serve(&self, container: &Container, networks: &[&str]) -> Result<(), privnet::dns::Error> {
        let sockets = Sockets::open(&container.netns, DEFAULT_ADDRESS).await?;
        self.dns.serve(container.netns.id(), &container.path, &asker(networks), &sockets).await
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let entries = fs::read_dir(self.directory.path()).into_iter().flatten().flatten();
        let run_dirs: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        // On a thread of its own: the test itself may be inside a runtime.
        let stop = || run_dirs.iter().for_each(|run_dir| drop(runtime().block_on(DnsProcess::new(run_dir).stop())));
        std::thread::scope(|scope| scope.spawn(stop).join().is_ok());
        for name in &self.names {
            let _ = Netns::remove(Path::new(DEFAULT_DIR), name);
        }
    }
}

impl Container {
    /// Runs a command in the container, with a `resolv.conf` that names the process.
    pub fn run(&self, line: &str) -> Output {
        let script = "mount --bind \"$0\" /etc/resolv.conf && shift 0 && exec \"$@\"";
        let conf = std::env::temp_dir().join(format!("{}.resolv.conf", self.name));
        fs::write(&conf, format!("nameserver {DEFAULT_ADDRESS}\noptions timeout:2 attempts:2\n")).expect("written");
        println!("{}$ {line}", self.name);
        let net = format!("--net={}", self.path.display());
        let output = Command::new("nsenter")
            .args([&net, "unshare", "--mount", "sh", "-c", script])
            .arg(&conf)
            .args(line.split_whitespace())
            .output()
            .expect("nsenter starts");
        let _ = fs::remove_file(conf);
        output
    }

    /// What a command prints, trimmed; it must succeed.
    pub fn prints(&self, line: &str) -> String {
        let output = self.run(line);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {stdout}{stderr}");
        stdout.trim().to_owned()
    }
}

/// Runs a command of the transcript and insists on its success.
pub fn ok(line: &str) {
    println!("$ {line}");
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a command")).args(words).output().expect("it starts");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether a tool is here; the name of one that is not is printed.
pub fn has(tool: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().expect("sh starts");
    if !found.status.success() {
        println!("not exercised, since {tool} is not installed");
    }
    found.status.success()
}

pub fn asker(networks: &[&str]) -> Asker {
    Asker { networks: networks.iter().map(|id| id.parse().expect("an id")).collect(), server: Some(DEFAULT_ADDRESS) }
}

/// `shop` with that many web containers that declare `http=80`, and `bank` with one.
pub fn catalogue(members: u8) -> Catalogue {
    let network = |name: &str, third: u8, members: u8| {
        let subnet = format!("10.240.{third}.0/24").parse().expect("a subnet");
        let head = NetworkHead::new(name.parse().expect("a name"), subnet);
        let member = |number: u8| {
            let container = format!("{number}.web.{APP}").parse().expect("a container");
            let address = Ipv4Addr::new(10, 240, third, number + 1);
            MemberNames { container, address, ports: ["http=80".parse().expect("a port")].into() }
        };
        let members: BTreeMap<_, _> =
            (1..=members).map(member).map(|member| (member.container.clone(), member)).collect();
        NetworkNames { head, members }
    };
    Catalogue::from([
        (SHOP.parse().expect("an id"), network("shop", 0, members)),
        (BANK.parse().expect("an id"), network("bank", 4, 1)),
    ])
}
