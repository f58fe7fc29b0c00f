//! What the agent and its host can and cannot do, one check a line, each with what to do about it. Changes nothing that a pass
//! would not change, but for a key of this host in the store, to see that it can be written.

use std::cmp::Ordering;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use super::error::ControlError;
use super::explain::explain;
use super::host_checks::{Viewed, check, host_checks, of_error, vxlan_port};
use super::names_check;
use super::service_checks::{network_managers, service};
use super::views::{Check, CheckStatus};
use crate::agent::adoption;
use crate::agent::config;
use crate::agent::host::places::is_writable;
use crate::agent::host::state_dir::room;
use crate::agent::host::underlay;
use crate::agent::network::handle::Report;
use crate::agent::shared::Shared;
use crate::model::{DEFAULT_VXLAN_PORT, Mtu, counted};
use crate::netns::{self, Netns};
use crate::store::records::FleetRecord;
use crate::store::{CommitError, Expected, Transaction, claims, keys};

/// How long the networks may take to be observed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The checks that need no agent, and why there is none.
pub async fn without_agent(why: &ControlError) -> Vec<Check> {
    let viewed = Viewed {
        bpffs: Path::new(config::DEFAULT_BPFFS),
        netns_dir: Path::new(netns::DEFAULT_DIR),
        answers_names: true,
        wireguard: None,
    };
    let mut checks = host_checks(&viewed);
    if let Ok(netns) = Netns::current() {
        checks.push(vxlan_port(&netns, DEFAULT_VXLAN_PORT.get()).await);
    }
    checks.push(check("agent", CheckStatus::Fail, &why.message, &why.remedy));
    checks
}

pub(in crate::agent) async fn with_agent(shared: &Shared) -> Vec<Check> {
    // First of all, since it mends what it can.
    let is_observed = observe_now(shared).await;
    let config = &shared.host.config;
    let viewed = Viewed {
        bpffs: &config.bpffs_dir,
        netns_dir: &config.netns_dir,
        answers_names: config.names.is_some(),
        wireguard: Some(shared.host.facts.wireguard),
    };
    let mut checks = host_checks(&viewed);
    checks.push(vxlan_port(&shared.host.netns.netns, shared.fleet.vxlan_port().get()).await);
    checks.extend(service());
    checks.push(network_managers(Path::new("/")));
    checks.push(state_dir(shared));
    checks.push(match adoption::refusal(shared) {
        Some(error) => of_error("members_adopted", error),
        None => check("members_adopted", CheckStatus::Ok, "the members of this host are this agent's", ""),
    });
    let troubles = underlay::troubles(shared).await;
    checks.push(mtu(shared).await);
    checks.extend(vtep(shared.host.facts.vtep, troubles));
    let (reached, written) = tokio::join!(store(shared), store_write(shared));
    checks.extend([reached, written, fleet(shared).await]);
    checks.push(names_check::names(shared).await);
    checks.push(last_pass(shared, is_observed));
    checks
}

/// Whether packets can come from other hosts and go to them, as far as this host alone can tell.
fn vtep(vtep: Ipv4Addr, troubles: Vec<ControlError>) -> Vec<Check> {
    if vtep.is_loopback() {
        let detail = "the VTEP is on the loopback: no other host can be reached";
        return vec![check("vtep", CheckStatus::Warn, detail, "give the agent --vtep ADDRESS")];
    }
    if troubles.is_empty() {
        return vec![check("vtep", CheckStatus::Ok, format!("{vtep} on the underlay"), "")];
    }
    troubles.into_iter().map(|trouble| of_error("vtep", trouble)).collect()
}

/// Whether the underlay is still as it was when the agent started: its MTU is that of every interface that was made since.
async fn mtu(shared: &Shared) -> Check {
    let mtu = shared.host.facts.mtu;
    let used = format!("underlay {}, carrier {}, wireguard {}", mtu.underlay, mtu.carrier, mtu.wireguard);
    let now = match shared.host.underlay().await {
        Ok(now) => now,
        Err(error) => return of_error("mtu", explain(&error)),
    };
    // One that leaves no room at all is smaller, too.
    let left = Mtu::from_underlay(now.mtu).map_or(now.mtu, |mtu| mtu.underlay);
    let interface = now.interface.unwrap_or_default();
    match left.cmp(&mtu.underlay) {
        Ordering::Equal => check("mtu", CheckStatus::Ok, used, ""),
        Ordering::Less => check(
            "mtu",
            CheckStatus::Fail,
            format!("{used}; the MTU of {interface} is {left} by now, and larger packets are lost"),
            format!("set it to {} again: ip link set {interface} mtu {}", mtu.underlay, mtu.underlay),
        ),
        Ordering::Greater => check(
            "mtu",
            CheckStatus::Warn,
            format!("{used}; the MTU of {interface} is {left} by now, and new networks do not use it"),
            "restart the agent, once all hosts have the larger MTU",
        ),
    }
}

/// What the networks' last passes led to.
fn last_pass(shared: &Shared, is_observed: bool) -> Check {
    let reports: Vec<Report> = shared.workers.all().values().map(|handle| handle.reports().borrow().clone()).collect();
    let (warnings, faults): (Vec<_>, Vec<_>) =
        reports.iter().flat_map(|report| report.in_the_way.values()).partition(|fault| fault.is_warning);
    let failed: usize = reports.iter().map(|report| report.problems.len() + report.failed.len()).sum();
    let listed = "`privnet status` lists them";
    match (failed + faults.len(), warnings.len()) {
        (0, 0) if is_observed => check("agent", CheckStatus::Ok, "every network is in its desired state", ""),
        (0, 0) => check(
            "agent",
            CheckStatus::Warn,
            format!("the last pass had no problems; a new observation took more than {} s", PATIENCE.as_secs()),
            "run it again when this host is less busy",
        ),
        (0, n) => {
            let warnings = counted(n, "warning");
            check("agent", CheckStatus::Warn, format!("every member can send; {warnings} of containers"), listed)
        }
        (n, _) => check("agent", CheckStatus::Fail, format!("the last pass had {}", counted(n, "problem")), listed),
    }
}

/// Whether the records and keys of this host's members are where the agent put them, and there is room for more.
fn state_dir(shared: &Shared) -> Check {
    /// A new network grows the state file by less.
    const SCARCE_BYTES: u64 = 1 << 20;
    let path = &shared.host.config.state_dir;
    let shown = path.display();
    if let Err(error) = shared.host.state_dir.check().and_then(|()| is_writable(path)) {
        return of_error("state_dir", error);
    }
    let free = format!("free space on the file system of {shown} (`df -h` and `df -i` show how full it is)");
    match room(path) {
        Some((0, _) | (_, 0)) => check("state_dir", CheckStatus::Fail, format!("the disk of {shown} is full"), free),
        Some((bytes, _)) if bytes < SCARCE_BYTES => {
            let detail = format!("the disk of {shown} has {} KiB left", bytes >> 10);
            check("state_dir", CheckStatus::Warn, detail, free)
        }
        Some(_) | None => check("state_dir", CheckStatus::Ok, format!("{shown} can be written"), ""),
    }
}

/// Has every network observed, and repaired, before anything is said of it; false when that took too long.
async fn observe_now(shared: &Shared) -> bool {
    let asked = shared.workers.all().into_values().map(|handle| {
        let number = handle.wake_and_observe();
        (handle.reports(), number)
    });
    let answered = asked.map(|(mut reports, number)| async move {
        // A worker that ended has nothing left.
        drop(reports.wait_for(|report| report.answered >= number).await);
    });
    tokio::time::timeout(PATIENCE, futures::future::join_all(answered)).await.is_ok()
}

/// Whether the store answers now, and is that of this host's fleet.
async fn store(shared: &Shared) -> Check {
    match shared.fleet.recognize().await {
        Ok(()) => check("store", CheckStatus::Ok, format!("{}, reachable", shared.store.kind()), ""),
        Err(error) => of_error("store", error.into()),
    }
}

/// Whether the store takes changes: one that is full answers reads. Writes a key of this host's own.
async fn store_write(shared: &Shared) -> Check {
    let host = &shared.host.config.host;
    let write = Transaction::new().require(keys::host(host), Expected::Exists).put(keys::write_check(host), []);
    match shared.store.commit(write).await {
        Ok(_) => check("store_write", CheckStatus::Ok, format!("{} takes changes", shared.store.kind()), ""),
        Err(CommitError::Conflict { .. }) => check(
            "store_write",
            CheckStatus::Fail,
            format!("not tried: the store does not know host {host}"),
            if shared.mark().is_some() { "see the check members_adopted" } else { "see the check of the store" },
        ),
        Err(error) => of_error("store_write", error.into()),
    }
}

/// Which fleet the host belongs to, and whether all of its hosts use the same VXLAN port.
async fn fleet(shared: &Shared) -> Check {
    let (FleetRecord { id, epoch, vxlan_port, .. }, _) = shared.fleet.record();
    let known = format!("{id}, epoch {epoch}, VXLAN port {vxlan_port}");
    if vxlan_port == DEFAULT_VXLAN_PORT {
        return check("fleet", CheckStatus::Ok, known, "");
    }
    match claims::hosts_of_earlier_builds(&*shared.store).await {
        Ok(hosts) if hosts.is_empty() => check("fleet", CheckStatus::Ok, known, ""),
        Ok(hosts) => {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            check(
                "fleet",
                CheckStatus::Fail,
                format!("{known}; the agents of {} know port {DEFAULT_VXLAN_PORT} alone", hosts.join(", ")),
                "upgrade privnet there, and start these agents again",
            )
        }
        Err(error) => {
            let error = ControlError::from(error);
            check("fleet", CheckStatus::Warn, format!("{known}; {}", error.message), error.remedy)
        }
    }
}
