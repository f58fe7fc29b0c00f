//! Containers with a DNS process beside them: a namespace each, with nothing in it but the loopback.

#![allow(dead_code, reason = "each test file uses its part of the lab")]

pub mod host;
pub mod upstream;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use privnet::dns::{DEFAULT_ADDRESS, DnsProcess, ProcessSpec, Sockets};
use privnet::names::{Catalogue, Difference, DnsClient, Forwarding, MemberNames, NetworkHead, NetworkNames};
use privnet::netns::Netns;
use privnet_tests::lab::{Ground, runtime, say, wait_until};
use rustix::process::{Pid, Signal, kill_process};

pub const SHOP: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
pub const BANK: &str = "pn-bd0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
pub const APP: &str = "ap-a71da13f-7c70-4c00-a644-eee8558d8053";
pub const SUFFIX: &str = "private-network.internal";

/// The DNS process of one test, and its ground. Dropped, it ends the process.
pub struct Lab {
    pub dns: DnsProcess,
    /// Behind everything that must be gone when it is checked.
    pub ground: Ground,
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
        let ground = Ground::join();
        Self { dns: DnsProcess::new(&ground.directory().join("dns")), ground }
    }

    /// A lab whose process runs and knows the names of [`catalogue`].
    pub fn serving(members: u8) -> Self {
        Self::forwarding(members, &Forwarding::Host)
    }

    /// As [`Lab::serving`], with networks that say where other names are asked.
    pub fn forwarding(members: u8, forwarding: &Forwarding) -> Self {
        let lab = Self::new();
        let mut catalogue = catalogue(members);
        catalogue.values_mut().for_each(|network| network.head.options.forwarding = forwarding.clone());
        let difference = Difference::between(&Catalogue::new(), &catalogue);
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
            resolv_conf: self.ground.directory().join("resolv.conf"),
        }
    }

    /// A second process's place, for a successor.
    pub fn another(&self, name: &str) -> DnsProcess {
        DnsProcess::new(&self.ground.directory().join(name))
    }

    /// A pinned namespace with its loopback up.
    pub fn container(&self, name: &str) -> Container {
        let space = self.ground.space(name);
        let netns = Netns::open(&space.path()).expect("a namespace");
        Container { name: space.pin().to_owned(), path: space.path(), netns }
    }

    /// A container that is served.
    pub fn served(&self, name: &str, networks: &[&str]) -> Container {
        let container = self.container(name);
        runtime().block_on(self.serve(&container, networks)).expect("it is served");
        container
    }

    pub async fn serve(&self, container: &Container, networks: &[&str]) -> Result<(), privnet::dns::Error> {
        let sockets = Sockets::open(&container.netns, DEFAULT_ADDRESS).await?;
        self.dns.serve(container.netns.id(), &container.path, &client(networks), &sockets).await
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let entries = fs::read_dir(self.ground.directory()).into_iter().flatten().flatten();
        stop_all(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
}

/// Ends the DNS processes of these directories, should a test have failed before it did.
pub fn stop_all(run_dirs: impl Iterator<Item = PathBuf> + Send) {
    let stop = || run_dirs.for_each(|run_dir| drop(runtime().block_on(DnsProcess::new(&run_dir).stop())));
    // On a thread of its own: the test itself may be inside a runtime.
    std::thread::scope(|scope| scope.spawn(stop).join().is_ok());
}

/// `dnsperf`, which asks a container's server until it is told to end.
pub struct Asking {
    dnsperf: Child,
}

impl Asking {
    /// Asks these questions, a line each, a thousand times a second.
    pub fn start(container: &Container, ground: &Ground, questions: &str) -> Self {
        let queries = ground.directory().join("queries");
        fs::write(&queries, questions).expect("written");
        let dnsperf = Command::new("nsenter")
            .arg(format!("--net={}", container.path.display()))
            .args(["dnsperf", "-s", &DEFAULT_ADDRESS.to_string(), "-d"])
            .arg(&queries)
            // For longer than any run: it is told when to end.
            .args(["-l", "1000000", "-Q", "1000", "-t", "5"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Self { dnsperf: dnsperf.expect("nsenter starts") }
    }

    /// Ends it, asserts that every question was answered and none with a failure, and returns its report.
    pub fn all_are_answered(self) -> String {
        kill_process(Pid::from_child(&self.dnsperf), Signal::INT).expect("it asks until now");
        let output = self.dnsperf.wait_with_output().expect("dnsperf ends");
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = |what: &str| report.lines().find(|line| line.contains(what)).unwrap_or_default().trim().to_owned();
        let [sent, lost, codes] = ["Queries sent", "Queries lost", "Response codes"].map(line);
        say(&format!("{sent}, {lost}, {codes}"));
        assert!(lost.contains(" 0 (") && codes.contains("NOERROR") && !codes.contains("SERVFAIL"), "{report}");
        report
    }
}

/// A ping twenty times a second, of which every packet comes back.
pub struct Ping(Child, u32);

impl Ping {
    /// Starts it once the two reach each other: the other host may not have heard of a new member yet.
    pub fn start(from: &Container, to: Ipv4Addr, count: u32) -> Self {
        let reaches = || from.run(&format!("ping -q -n -c 1 -W 1 {to}")).status.success();
        wait_until(format!("{} reaches {to}", from.name), reaches);
        say(&format!("[{}] ping {to}", from.name));
        let (address, packets) = (to.to_string(), count.to_string());
        let net = format!("--net={}", from.path.display());
        let ping = Command::new("nsenter")
            .args([&net, "ping", "-q", "-n", "-i", "0.05", "-c", &packets, "-W", "10", &address])
            .stdout(Stdio::piped())
            .spawn();
        Self(ping.expect("nsenter starts"), count)
    }

    pub fn loses_nothing(self) {
        let output = self.0.wait_with_output().expect("it ends");
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected = format!("{0} packets transmitted, {0} received", self.1);
        assert!(report.contains(&expected), "{report}");
    }
}

impl Container {
    /// Runs a command in the container, with a `resolv.conf` that names the process.
    pub fn run(&self, line: &str) -> Output {
        let script = "mount --bind \"$0\" /etc/resolv.conf && shift 0 && exec \"$@\"";
        let conf = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&conf, format!("nameserver {DEFAULT_ADDRESS}\noptions timeout:2 attempts:2\n")).expect("written");
        say(&format!("[{}] {line}", self.name));
        let net = format!("--net={}", self.path.display());
        Command::new("nsenter")
            .args([&net, "unshare", "--mount", "sh", "-c", script])
            .arg(conf.path())
            .args(line.split_whitespace())
            .output()
            .expect("nsenter starts")
    }

    /// What a command prints, trimmed; it must succeed.
    pub fn prints(&self, line: &str) -> String {
        let output = self.run(line);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {stdout}{stderr}");
        stdout.trim().to_owned()
    }
}

pub fn client(networks: &[&str]) -> DnsClient {
    DnsClient {
        networks: networks.iter().map(|id| id.parse().expect("an id")).collect(),
        server: Some(DEFAULT_ADDRESS),
        apps: vec![APP.parse().expect("an id")],
        ..DnsClient::default()
    }
}

/// `shop` with that many web containers that declare `http=80`, and `bank` with one.
pub fn catalogue(members: u8) -> Catalogue {
    let network = |name: &str, third: u8, members: u8| {
        let subnet = format!("10.240.{third}.0/24").parse().expect("a subnet");
        let head = NetworkHead::new(name.parse().expect("a name"), subnet);
        let member = |number: u8| {
            let container = format!("{number}.web.{APP}").parse().expect("a container");
            let address = Ipv4Addr::new(10, 240, third, number + 1);
            MemberNames { container, address, ports: ["http=80".parse().expect("a port")].into(), further: false }
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
