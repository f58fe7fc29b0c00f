//! The servers that are compared: each in a namespace of its own, on one core, with the same 10,000 names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use privnet::dns::{DEFAULT_ADDRESS, DnsProcess, PORT, ProcessSpec, Sockets, stub};
use privnet::model::{ContainerRef, NetworkId};
use privnet::names::{Catalogue, Difference, DnsClient, MemberNames, NetworkHead, NetworkNames, of_member};
use privnet::netns::Netns;
use rustix::process::Signal;
use rustix::thread::CpuSet;
use tokio::runtime::Runtime;

use super::super::place::{Place, Workspace};
use crate::lab::{binary, process};

/// What ours is called in the rows.
pub const OURS: &str = "privnet";
/// The one that there is a target for.
pub const UNBOUND: &str = "unbound";
/// How many names there are.
const NAMES: usize = 10_000;
/// How many containers of a type an app has.
const NUMBERS: usize = 10;
const NETWORK: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of /proc/<pid>/stat (proc_pid_stat(5)); a constant of the kernel's ABI.
const TICKS_PER_SECOND: f64 = 100.0;

/// One of the servers.
pub struct Server {
    /// What it is called in the rows.
    pub name: &'static str,
    /// Where it and its client are.
    pub netns: Netns,
    /// Where it answers.
    pub address: Ipv4Addr,
    process: Process,
}

enum Process {
    /// Ended with the workspace.
    Ours(u32),
    /// Ended with this value.
    Theirs(Child),
}

/// All containers, with their names and addresses.
pub fn names() -> impl Iterator<Item = (ContainerRef, String, Ipv4Addr)> {
    let network: NetworkId = NETWORK.parse().expect("the constant is an id");
    (0..NAMES).map(move |number| {
        let (app, rest) = (number / (2 * NUMBERS), number % (2 * NUMBERS));
        let kind = if rest < NUMBERS { "web" } else { "worker" };
        let container = format!("{}.{kind}.ap-a71da13f-7c70-4c00-a644-{app:012x}", rest % NUMBERS + 1);
        let container: ContainerRef = container.parse().expect("a number, a type and an app");
        let name = of_member(network, &container).to_string();
        let offset = u32::try_from(number).expect("ten thousand") + 2;
        (container, name.trim_end_matches('.').to_owned(), Ipv4Addr::from(0x0af0_0000 + offset))
    })
}

impl Server {
    /// Starts all of them; returns when they answer.
    pub fn start_all(runtime: &Runtime, workspace: &Workspace, core: usize) -> Result<Vec<Self>> {
        let mut servers = vec![Self::start_ours(runtime, workspace, core)?];
        let files = workspace.files().join("dns-others");
        fs::create_dir(&files).context("cannot make a directory")?;
        for (name, command) in [(UNBOUND, unbound(&files)?), ("nsd", nsd(&files)?), ("dnsmasq", dnsmasq(&files)?)] {
            let place = runtime.block_on(Place::new())?;
            let mut bound = Command::new("taskset");
            bound.arg("-c").arg(core.to_string()).args(command);
            bound.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let child =
                place.netns.run_blocking(move || bound.spawn())?.with_context(|| format!("cannot start {name}"))?;
            servers.push(Self {
                name,
                netns: place.netns,
                address: Ipv4Addr::LOCALHOST,
                process: Process::Theirs(child),
            });
        }
        for server in &mut servers {
            server.wait_until_it_answers()?;
        }
        Ok(servers)
    }

    /// Ours, as the agent starts it, with the socket of one container.
    fn start_ours(runtime: &Runtime, workspace: &Workspace, core: usize) -> Result<Self> {
        let (netns, path) = workspace.pinned("dns")?;
        let place = runtime.block_on(Place::of(netns))?;
        let network: NetworkId = NETWORK.parse()?;
        let head = NetworkHead::new("bench".parse()?, "10.240.0.0/16".parse()?);
        let members = names().map(|(container, _, address)| {
            (container.clone(), MemberNames { container, address, ports: BTreeSet::new(), further: false })
        });
        let catalogue = Catalogue::from([(network, NetworkNames { head, members: members.collect() })]);
        let process = DnsProcess::new(&workspace.files().join("dns-ours"));
        let spec = ProcessSpec {
            binary: binary(),
            threads: 1,
            max_age: Duration::from_secs(3600),
            resolv_conf: workspace.files().join("no-resolv.conf"),
        };
        let client = DnsClient { networks: [network].into(), server: Some(DEFAULT_ADDRESS), ..DnsClient::default() };
        let pid = runtime.block_on(async {
            process.start(&spec).await?;
            process.tell(true, Difference::between(&Catalogue::new(), &catalogue)).await?;
            let sockets = Sockets::open(&place.netns, DEFAULT_ADDRESS).await?;
            process.serve(place.netns.id(), &path, &client, &sockets).await?;
            let state = process.observe().await?.context("it has ended")?;
            anyhow::Ok(state.identity.pid)
        })?;
        bind_to(pid, core)?;
        Ok(Self { name: OURS, netns: place.netns, address: DEFAULT_ADDRESS, process: Process::Ours(pid) })
    }

    /// How much of a core it and its children have used.
    pub fn cpu_seconds(&self) -> f64 {
        let root = match &self.process {
            Process::Ours(pid) => *pid,
            Process::Theirs(child) => child.id(),
        };
        let processes = processes();
        let mut family = BTreeSet::from([root]);
        loop {
            let more: Vec<u32> = processes
                .iter()
                .filter(|(pid, (parent, _))| family.contains(parent) && !family.contains(pid))
                .map(|(pid, _)| *pid)
                .collect();
            if more.is_empty() {
                break;
            }
            family.extend(more);
        }
        family.iter().filter_map(|pid| processes.get(pid)).map(|(_, ticks)| ticks / TICKS_PER_SECOND).sum()
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let (server, start) = (SocketAddrV4::new(self.address, PORT), Instant::now());
        let (_, name, address) = names().last().context("there are names")?;
        loop {
            let asked = name.clone();
            let told = self.netns.run_blocking(move || stub::ask(server, &asked, Duration::from_millis(200)))?;
            if told.is_ok_and(|told| told.addresses.first().is_some_and(|(first, _)| *first == address)) {
                return Ok(());
            }
            if let Process::Theirs(child) = &mut self.process
                && let Some(status) = child.try_wait().context("cannot wait")?
            {
                anyhow::bail!("{} has ended: {status}", self.name);
            }
            ensure!(start.elapsed() < PATIENCE, "{} does not answer", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Process::Theirs(child) = &mut self.process {
            // NSD ends its children when it is told to end.
            if let Ok(pid) = i32::try_from(child.id()) {
                process::kill(pid, Signal::TERM);
            }
            let _ = child.wait();
        }
    }
}

/// Binds all threads of a process to a core, as `taskset` does before a process has any.
fn bind_to(pid: u32, core: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(core);
    let threads = process::threads(i32::try_from(pid)?);
    ensure!(!threads.is_empty(), "process {pid} has ended");
    for thread in threads {
        rustix::thread::sched_setaffinity(Some(thread), &only)
            .with_context(|| format!("cannot bind to core {core}"))?;
    }
    Ok(())
}

/// Every process's parent, and the ticks that it has used.
fn processes() -> BTreeMap<u32, (u32, f64)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let read = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let text = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The second field is a name in parentheses, with anything in it.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        Some((pid, (fields.get(1)?.parse().ok()?, ticks)))
    };
    entries.filter_map(read).collect()
}

type Words = Vec<String>;

fn words<const N: usize>(words: [&str; N]) -> Words {
    words.map(str::to_owned).into()
}

fn written(path: PathBuf, text: &str) -> Result<String> {
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.display().to_string())
}

fn unbound(files: &Path) -> Result<Words> {
    let mut data = String::from(
        "local-zone: \"private-network.internal.\" static\nlocal-data: \"private-network.internal. 5 IN SOA ns. hm. 1 2 3 4 5\"\n",
    );
    for (_, name, address) in names() {
        writeln!(data, "local-data: \"{name}. 5 IN A {address}\"")?;
    }
    let data = written(files.join("unbound.data"), &data)?;
    let conf = format!(
        "server:\n interface: 127.0.0.1@53\n username: \"\"\n chroot: \"\"\n directory: \"{}\"\n pidfile: \"\"\n use-syslog: no\n \
         num-threads: 1\n do-daemonize: no\n module-config: \"iterator\"\n access-control: 127.0.0.0/8 allow\n include: \"{data}\"\n\
         remote-control:\n control-enable: no\n",
        files.display()
    );
    Ok(words(["unbound", "-d", "-c", &written(files.join("unbound.conf"), &conf)?]))
}

fn nsd(files: &Path) -> Result<Words> {
    let mut zone = String::from("$ORIGIN private-network.internal.\n@ 5 IN SOA ns hm 1 2 3 4 5\n@ 5 IN NS ns\n");
    for (_, name, address) in names() {
        writeln!(zone, "{name}. 5 IN A {address}")?;
    }
    let zone = written(files.join("zone"), &zone)?;
    let dir = files.display();
    let conf = format!(
        "server:\n ip-address: 127.0.0.1@53\n username: \"\"\n server-count: 1\n zonesdir: \"{dir}\"\n pidfile: \"\"\n database: \"\"\n \
         xfrdfile: \"{dir}/xfrd\"\n zonelistfile: \"{dir}/zones\"\n rrl-ratelimit: 0\nremote-control:\n control-enable: no\n\
         zone:\n name: private-network.internal\n zonefile: {zone}\n"
    );
    Ok(words(["nsd", "-d", "-c", &written(files.join("nsd.conf"), &conf)?]))
}

fn dnsmasq(files: &Path) -> Result<Words> {
    let mut hosts = String::new();
    for (_, name, address) in names() {
        writeln!(hosts, "{address} {name}")?;
    }
    let hosts = written(files.join("hosts"), &hosts)?;
    Ok(words([
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--listen-address=127.0.0.1",
        "--local-ttl=5",
        "--local=/private-network.internal/",
        &format!("--addn-hosts={hosts}"),
    ]))
}
