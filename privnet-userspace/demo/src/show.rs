//! Builds the two hosts, shows every step, and removes everything.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use privnet::agent::{ControlError, ErrorCode};
use privnet::cli::args::Format;
use privnet::cli::runtime::{no_runtime, wait};
use privnet::cli::{beside, output};

use crate::args::DemoArgs;
use crate::claim::Claim;
use crate::frame::VXLAN_PORT;
use crate::http::{self, Server};
use crate::lab::{self, Lab};
use crate::name::Name;
use crate::privileges::require_privileges;
use crate::report::{Kept, Report, World};
use crate::signals::{Signals, interrupted};
use crate::walk::{self, Taps};
use crate::{isolation, teardown};

/// How long what was being built may take to stop before it is removed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

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
    let privnet = find_privnet()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| no_runtime(&error))?;
    let mut report = Report::new(format);
    let (outcome, claim) = runtime.block_on(async {
        // Before anything is made: from here on a signal ends the demo in order.
        let mut signals = Signals::listen()?;
        let claim = Claim::take(&name)?;
        let outcome = tokio::select! {
            biased;
            signal = signals.next() => Err(interrupted(signal)),
            outcome = walk_all(&name, &privnet, arguments, &mut report) => outcome.map_err(|error| explain(&error)),
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
async fn walk_all(name: &Name, privnet: &Path, arguments: &DemoArgs, report: &mut Report) -> Result<Shown> {
    let lab = Lab::build(name, privnet, arguments).await?;
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
    report.add("the canary was seen nowhere outside", isolation::canary(&mut taps, &canary))?;
    let world = World { datapath: lab.status.datapath.to_string(), wireguard: lab.status.wireguard.to_string() };
    Ok(Shown { world, kept: how_to_look(name, privnet, &lab) })
}

fn introduction(lab: &Lab) -> String {
    let Lab { status, shop, other, hosts: [one, two], .. } = lab;
    let rows = [
        ("datapath", status.datapath.to_string()),
        ("wireguard", status.wireguard.to_string()),
        ("host one", format!("{}: web 1 {}, web 2 {}, stranger {}", one.vtep, lab.web1, lab.web2, lab.stranger)),
        ("host two", format!("{}: backend 1 {}", two.vtep, lab.backend)),
        ("network shop", format!("{}, VNI {}: web 1, web 2, backend 1", shop.subnet, shop.vni)),
        ("network other", format!("{}, VNI {}: stranger", other.subnet, other.vni)),
    ];
    output::fields(&rows)
}

fn how_to_look(name: &Name, privnet: &Path, lab: &Lab) -> Kept {
    let url = format!("http://{}/", http::on(lab.backend.address()));
    let host = &lab.hosts[0].config;
    let network = privnet::topology::ownership::network_netns(&host.netns_prefix, lab.shop.id);
    let mut look = vec![
        format!(
            "ip netns exec {} dig @{} +short {}",
            name.netns("web-1"),
            privnet::dns::DEFAULT_ADDRESS,
            lab.backend_name
        ),
        format!("ip netns exec {} curl {url}", name.netns("web-1")),
        format!("ip netns exec {} ping -c 3 {}", name.netns("web-1"), lab.web2.address()),
        format!("ip netns exec {} ip -s address", lab.web1.binding_name),
        format!("ip netns exec {} ip -d link", network),
        format!("ip netns exec {} tcpdump -ni {} port {VXLAN_PORT}", name.netns("host-one"), lab::UNDERLAY),
    ];
    if lab.is_ebpf() {
        look.push(format!("nsenter --net={} bpftool net", host.netns_path(&network).display()));
        look.push(format!("ls {}", host.pins_of(lab.shop.id).display()));
    }
    Kept { name: name.to_string(), look, remove: format!("{} demo --remove {name}", privnet.display()) }
}

/// `privnet demo --remove NAME`. What is gone already is done.
fn remove_kept(name: &Name, format: Format) -> Result<(), ControlError> {
    let was_there = teardown::is_there(name);
    let claim = if name.run_dir().exists() { Some(Claim::lock(name)?) } else { None };
    remove(name)?;
    drop(claim);
    let removed = serde_json::json!({ "name": name.to_string(), "removed": was_there });
    output::print(format, &removed, |_| if was_there { "removed\n" } else { "nothing was left\n" }.to_owned())
}

fn remove(name: &Name) -> Result<(), ControlError> {
    let problems = wait(async { Ok(teardown::remove(name).await) })?;
    if problems.is_empty() {
        return Ok(());
    }
    let message = format!("not all of {name} could be removed: {}", problems.join("; "));
    Err(ControlError::new(ErrorCode::Internal, message, format!("try again: privnet demo --remove {name}")))
}

/// The `privnet` whose userspace WireGuard and DNS processes the demo runs.
fn find_privnet() -> Result<PathBuf, ControlError> {
    beside::find("privnet").ok_or_else(|| beside::missing("privnet", "the demo runs processes of"))
}

/// The agent's own words, where it has some.
fn explain(error: &anyhow::Error) -> ControlError {
    let known = error.chain().find_map(|cause| cause.downcast_ref::<ControlError>());
    known.cloned().unwrap_or_else(|| {
        ControlError::new(ErrorCode::Internal, format!("{error:#}"), "`privnet doctor` says what this host lacks")
    })
}
