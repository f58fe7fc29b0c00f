//! `privnet demo`: two hosts in throw-away namespaces, and one request along the whole path.
//!
//! What it shows is measured, never narrated: each step has its evidence, and each refusal its passing twin. It needs
//! nothing but this binary. Whatever happens, it leaves nothing behind, unless it is asked to.
//!
//! | module | what it owns |
//! |---|---|
//! | [`args`], [`name`] | what is asked for; what everything is called |
//! | [`lab`] | building the two hosts and their containers |
//! | [`teardown`] | removing all of it, found by its name |
//! | [`walk`], [`naming`], [`isolation`] | the steps |
//! | [`capture`], [`frame`], [`measure`] | how they are seen |
//! | [`http`] | the processes in the containers |
//! | [`report`] | how they are told |

pub mod args;
pub mod capture;
pub mod frame;
pub mod http;
pub mod isolation;
pub mod lab;
pub mod measure;
pub mod name;
pub mod naming;
pub mod report;
pub mod teardown;
pub mod walk;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::Format;
use crate::agent::{ControlError, ErrorCode};
use args::DemoArgs;
use http::Server;
use lab::Lab;
use name::Name;
use report::{Kept, Report, World};
use walk::Taps;

/// How long what was being built may take to stop before it is removed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How long a lock may outlive its demo: in a process that it had forked, and that had not become another program yet.
const LOCK_PATIENCE: Duration = Duration::from_millis(100);

/// Runs the demo, or removes what one left; succeeds only when all that it shows held.
///
/// # Errors
/// When it cannot be built, was told to end, or something of it could not be removed.
pub fn run(arguments: &DemoArgs, format: Format) -> Result<ExitCode, ControlError> {
    require_privileges()?;
    match &arguments.remove {
        Some(name) => remove_kept(name, format).map(|()| ExitCode::SUCCESS),
        None => show(arguments, format),
    }
}

fn show(arguments: &DemoArgs, format: Format) -> Result<ExitCode, ControlError> {
    let start = Instant::now();
    let name = Name::own();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| super::no_runtime(&error))?;
    let mut report = Report::new(format);
    let (outcome, claim) = runtime.block_on(async {
        // Before anything is made: from here on a signal ends the demo in order.
        let mut signals = Signals::listen()?;
        let claim = Claim::take(&name)?;
        let outcome = tokio::select! {
            biased;
            signal = signals.next() => Err(interrupted(signal)),
            outcome = walk_all(&name, arguments, &mut report) => outcome.map_err(|error| explain(&error)),
        };
        Ok::<_, ControlError>((outcome, claim))
    })?;
    // What still runs may be making something: it is removed when nothing runs any more.
    runtime.shutdown_timeout(STOP_PATIENCE);
    let kept = outcome.as_ref().ok().filter(|_| arguments.keep).map(|shown| &shown.kept);
    let removed = if kept.is_some() { Ok(()) } else { remove(&name) };
    drop(claim);
    let shown = match (&outcome, &removed) {
        (Ok(shown), _) => shown,
        (Err(error), Ok(())) => return Err(error.clone()),
        (Err(error), Err(left)) => {
            let message = format!("{}; and {}", error.message, left.message);
            return Err(ControlError::new(error.code, message, left.remedy.clone()));
        }
    };
    report.conclude(&shown.world, start.elapsed(), kept)?;
    removed?;
    Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is to be told when all was shown.
struct Shown {
    world: World,
    kept: Kept,
}

/// Builds the lab and shows everything; returns whether or not it held.
async fn walk_all(name: &Name, arguments: &DemoArgs, report: &mut Report) -> Result<Shown> {
    let lab = Lab::build(name, arguments).await?;
    let mut backend = Server::start(&lab.backend.app, &lab.backend.pin, lab.backend.address()).await?;
    let mut neighbour = Server::start(&lab.web2.app, &lab.web2.pin, lab.web2.address()).await?;
    let mut taps = Taps::open(&lab).await?;
    report.say(&introduction(&lab))?;
    let canary = format!("canary-{}", uuid::Uuid::new_v4().simple());
    if let Err(error) = walk::walk(&lab, &mut taps, &mut backend, &canary, report).await {
        report.add("one request from web 1 to backend", Err(error))?;
    }
    report.add("a request to web 2 stayed on host one", isolation::same_host(&lab, &mut taps, &mut neighbour).await)?;
    report.add("the other network was refused", isolation::other_network(&lab, &mut taps).await)?;
    report.add("the canary was seen by nobody outside", isolation::canary(&mut taps, &canary))?;
    let world = World { datapath: lab.status.datapath.clone(), wireguard: lab.status.wireguard.clone() };
    Ok(Shown { world, kept: how_to_look(name, &lab) })
}

fn introduction(lab: &Lab) -> String {
    let Lab { status, shop, other, hosts: [one, two], .. } = lab;
    let rows = [
        ("datapath", status.datapath.clone()),
        ("wireguard", status.wireguard.clone()),
        ("host one", format!("{}: web 1 {}, web 2 {}, stranger {}", one.vtep, lab.web1, lab.web2, lab.stranger)),
        ("host two", format!("{}: backend 1 {}", two.vtep, lab.backend)),
        ("network shop", format!("{}, VNI {}: web 1, web 2, backend 1", shop.subnet, shop.vni)),
        ("network other", format!("{}, VNI {}: stranger", other.subnet, other.vni)),
    ];
    super::output::fields(&rows)
}

fn how_to_look(name: &Name, lab: &Lab) -> Kept {
    let url = format!("http://{}/", http::on(lab.backend.address()));
    let host = &lab.hosts[0].config;
    let network = crate::topology::ownership::network_netns(&host.netns_prefix, lab.shop.id);
    let mut look = vec![
        format!(
            "ip netns exec {} dig @{} +short {}",
            name.netns("web-1"),
            crate::dns::DEFAULT_ADDRESS,
            lab.backend_name
        ),
        format!("ip netns exec {} curl {url}", name.netns("web-1")),
        format!("ip netns exec {} ping -c 3 {}", name.netns("web-1"), lab.web2.address()),
        format!("ip netns exec {} ip -s address", lab.web1.binding_name),
        format!("ip netns exec {} ip -d link", network),
        format!("ip netns exec {} tcpdump -ni {} port 4789", name.netns("host-one"), lab::UNDERLAY),
    ];
    if lab.is_ebpf() {
        look.push(format!("nsenter --net={} bpftool net", host.netns_path(&network).display()));
        look.push(format!("ls {}", host.pins_of(lab.shop.id).display()));
    }
    // This very binary, which need not be on the PATH.
    let binary = std::env::current_exe().map_or_else(|_| "privnet".to_owned(), |path| path.display().to_string());
    Kept { name: name.to_string(), look, remove: format!("{binary} demo --remove {name}") }
}

/// Says that this process uses the name. The directory is made by nobody else; the lock ends with the process.
struct Claim {
    _lock: fs::File,
}

impl Claim {
    fn take(name: &Name) -> Result<Self, ControlError> {
        let dir = name.run_dir();
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|error| {
            let message = format!("cannot make the demo's directory {}: {error}", dir.display());
            ControlError::new(ErrorCode::Internal, message, format!("if it is left over: privnet demo --remove {name}"))
        })?;
        Self::lock(name).inspect_err(|_| drop(fs::remove_dir_all(&dir)))
    }

    fn lock(name: &Name) -> Result<Self, ControlError> {
        let failed = |error: io::Error| {
            let message = format!("cannot lock {}: {error}", name.lock_file().display());
            ControlError::new(ErrorCode::Internal, message, "if the demo is running, end it first")
        };
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(name.lock_file());
        let file = file.map_err(failed)?;
        let start = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _lock: file }),
                Err(Errno::AGAIN) if start.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_PATIENCE / 10),
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }
}

/// `privnet demo --remove NAME`. What is gone already is done.
fn remove_kept(name: &Name, format: Format) -> Result<(), ControlError> {
    let was_there = teardown::is_there(name);
    let claim = if name.run_dir().exists() { Some(Claim::lock(name)?) } else { None };
    remove(name)?;
    drop(claim);
    let removed = serde_json::json!({ "name": name.to_string(), "removed": was_there });
    super::output::print(format, &removed, |_| if was_there { "removed\n" } else { "nothing was left\n" }.to_owned())
}

fn remove(name: &Name) -> Result<(), ControlError> {
    let problems = super::wait(async { Ok(teardown::remove(name).await) })?;
    if problems.is_empty() {
        return Ok(());
    }
    let message = format!("not all of {name} could be removed: {}", problems.join("; "));
    Err(ControlError::new(ErrorCode::Internal, message, format!("try again: privnet demo --remove {name}")))
}

/// The signals that end the demo. Once listened to, none of them ends the process by itself any more.
struct Signals([(&'static str, Signal); 3]);

impl Signals {
    fn listen() -> Result<Self, ControlError> {
        let listen = |name, kind| signal(kind).map(|signal| (name, signal));
        let all = || {
            Ok([
                listen("SIGINT", SignalKind::interrupt())?,
                listen("SIGTERM", SignalKind::terminate())?,
                listen("SIGHUP", SignalKind::hangup())?,
            ])
        };
        all().map(Self).map_err(|error: io::Error| {
            let message = format!("cannot listen to signals: {error}");
            ControlError::new(ErrorCode::Internal, message, "see how many files this user may have")
        })
    }

    async fn next(&mut self) -> &'static str {
        let [(a, int), (b, term), (c, hup)] = &mut self.0;
        tokio::select! {
            _ = int.recv() => a,
            _ = term.recv() => b,
            _ = hup.recv() => c,
        }
    }
}

fn interrupted(signal: &str) -> ControlError {
    ControlError::new(ErrorCode::Internal, format!("ended by {signal}; nothing is left"), "run it again")
}

/// What namespaces, links, programs and captures take.
fn require_privileges() -> Result<(), ControlError> {
    let refuse = |message: String| Err(ControlError::new(ErrorCode::PermissionDenied, message, "run it as root"));
    if !rustix::process::geteuid().is_root() {
        return refuse("an ordinary user cannot make the demo's namespaces".to_owned());
    }
    let needed = [
        ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
        ("CAP_NET_RAW", CapabilitySet::NET_RAW),
    ];
    let Ok(held) = capabilities(None) else { return Ok(()) };
    let lacking: Vec<&str> =
        needed.iter().filter(|(_, set)| !held.effective.contains(*set)).map(|(name, _)| *name).collect();
    if lacking.is_empty() { Ok(()) } else { refuse(format!("this root lacks {}", lacking.join(", "))) }
}

/// The agent's own words, where it has some.
fn explain(error: &anyhow::Error) -> ControlError {
    let known = error.chain().find_map(|cause| cause.downcast_ref::<ControlError>());
    known.cloned().unwrap_or_else(|| {
        ControlError::new(ErrorCode::Internal, format!("{error:#}"), "`privnet doctor` says what this host lacks")
    })
}
