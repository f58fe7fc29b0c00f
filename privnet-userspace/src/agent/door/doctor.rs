//! What the host can and cannot do, one check a line, each with what to do about it. Changes a key of this host in
//! the store, to see that it can, and nothing else.

use std::path::Path;
use std::time::Duration;

use super::error::ControlError;
use super::problems::of_names;
use super::views::{Check, CheckStatus};
use crate::agent::config;
use crate::agent::shared::Shared;
use crate::datapath;
use crate::link::{self, Links};
use crate::model::DEFAULT_VXLAN_PORT;
use crate::netns::Netns;
use crate::store::records::FleetRecord;
use crate::store::{CommitError, Expected, Transaction, claims, keys};
use crate::wireguard::{self, Support};

/// How long the networks may take to be observed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The checks that need no agent, and why there is none.
pub async fn without_agent(why: &ControlError) -> Vec<Check> {
    let mut checks = host_checks(Path::new(config::DEFAULT_BPFFS));
    if let Ok(netns) = Netns::current() {
        checks.push(vxlan_port(&netns, DEFAULT_VXLAN_PORT.get()).await);
    }
    checks.push(check("agent", CheckStatus::Fail, &why.message, &why.remedy));
    checks
}

pub(in crate::agent) async fn with_agent(shared: &Shared) -> Vec<Check> {
    let mut checks = host_checks(&shared.host.config.bpffs_dir);
    checks.push(vxlan_port(&shared.host.netns.netns, shared.fleet.vxlan_port().get()).await);
    let mtu = shared.host.facts.mtu;
    checks.push(check(
        "mtu",
        CheckStatus::Ok,
        format!("underlay {}, carrier {}, wireguard {}", mtu.underlay, mtu.carrier, mtu.wireguard),
        "",
    ));
    checks.push(if shared.host.facts.vtep.is_loopback() {
        check(
            "vtep",
            CheckStatus::Warn,
            "the VTEP is on the loopback: no other host can be reached",
            "give the agent --vtep ADDRESS",
        )
    } else {
        check("vtep", CheckStatus::Ok, format!("{} on the underlay", shared.host.facts.vtep), "")
    });
    let (reached, written) = tokio::join!(store(shared), store_write(shared));
    checks.extend([reached, written, fleet(shared).await]);
    let is_observed = observe_now(shared).await;
    let problems: usize = shared
        .workers
        .all()
        .values()
        .map(|handle| {
            let report = handle.reports().borrow().clone();
            report.problems.len() + report.failed.len() + report.in_the_way.len()
        })
        .sum();
    checks.push(names(shared));
    checks.push(match problems {
        0 if is_observed => check("agent", CheckStatus::Ok, "every network is in its desired state", ""),
        0 => check(
            "agent",
            CheckStatus::Warn,
            format!("the last pass had no problems; a new observation took more than {} s", PATIENCE.as_secs()),
            "run it again when this host is less busy",
        ),
        n => {
            check("agent", CheckStatus::Fail, format!("the last pass had {n} problems"), "`privnet status` lists them")
        }
    });
    checks
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

/// Whether every container on this host can ask for names.
fn names(shared: &Shared) -> Check {
    match of_names(shared).as_slice() {
        _ if shared.host.config.names.is_none() => {
            check("names", CheckStatus::Ok, "off: the agent was started with --dns-address off", "")
        }
        [] => check("names", CheckStatus::Ok, "every container on this host can ask for names", ""),
        problems => check("names", CheckStatus::Fail, problems.join("; "), "`privnet status` says when it is over"),
    }
}

/// Whether the store answers now, and is that of this host's fleet.
async fn store(shared: &Shared) -> Check {
    match shared.fleet.recognize().await {
        Ok(()) => check("store", CheckStatus::Ok, format!("{}, reachable", shared.store.kind()), ""),
        Err(error) => {
            let error = ControlError::from(error);
            check("store", CheckStatus::Fail, error.message, error.remedy)
        }
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
            "see the check of the store",
        ),
        Err(error) => {
            let error = ControlError::from(error);
            check("store_write", CheckStatus::Fail, error.message, error.remedy)
        }
    }
}

fn host_checks(bpffs: &Path) -> Vec<Check> {
    let features = datapath::features();
    vec![
        match features.missing_capabilities.as_slice() {
            [] => check("capabilities", CheckStatus::Ok, "all present", ""),
            missing => {
                check("capabilities", CheckStatus::Fail, format!("missing: {}", missing.join(", ")), "run as root")
            }
        },
        check("kernel", CheckStatus::Ok, features.kernel.clone(), ""),
        match features.jit {
            Some(false) => check(
                "bpf_jit",
                CheckStatus::Warn,
                "the kernel interprets eBPF programs instead of compiling them to machine code",
                "sysctl -w net.core.bpf_jit_enable=1",
            ),
            Some(true) | None => check("bpf_jit", CheckStatus::Ok, "eBPF programs are compiled to machine code", ""),
        },
        if features.tcx {
            check("tcx", CheckStatus::Ok, "programs on vxlan0 are attached by TCX", "")
        } else {
            check("tcx", CheckStatus::Ok, "no TCX (Linux 6.6): clsact is used", "")
        },
        if features.redirect_peer_scrubs {
            check("redirect_peer", CheckStatus::Ok, "bpf_redirect_peer scrubs packets and is used", "")
        } else {
            check(
                "redirect_peer",
                CheckStatus::Warn,
                "bpf_redirect_peer does not scrub packets on this kernel (CVE-2025-37959): the slower bpf_redirect is used",
                "use Linux 6.1.139, 6.6.91, 6.12.29, 6.15 or later",
            )
        },
        if datapath::is_bpffs(bpffs) {
            check("bpffs", CheckStatus::Ok, format!("mounted on {}", bpffs.display()), "")
        } else {
            check(
                "bpffs",
                CheckStatus::Warn,
                format!("{} is not a BPF file system; the agent mounts one", bpffs.display()),
                format!("mount -t bpf bpf {}", bpffs.display()),
            )
        },
        kernel_wireguard(),
        match wireguard::userspace_support() {
            Support::Present => check("wireguard_userspace", CheckStatus::Ok, "TUN devices can be created", ""),
            Support::Missing { reason, remedy } => check("wireguard_userspace", CheckStatus::Warn, reason, remedy),
        },
    ]
}

fn kernel_wireguard() -> Check {
    match (wireguard::kernel_support(), wireguard::userspace_support()) {
        (Support::Present, _) => check("wireguard_kernel", CheckStatus::Ok, "the kernel has WireGuard", ""),
        (Support::Missing { reason, remedy }, Support::Present) => check(
            "wireguard_kernel",
            CheckStatus::Warn,
            format!("{reason}: a userspace process per member is used"),
            remedy,
        ),
        (Support::Missing { reason, remedy }, Support::Missing { .. }) => {
            check("wireguard_kernel", CheckStatus::Fail, reason, remedy)
        }
    }
}

/// Whether the VXLAN port can be had in a namespace, which is the host's.
async fn vxlan_port(netns: &Netns, port: u16) -> Check {
    let name = format!("udp_{port}");
    let holder = async {
        let links = Links::open(netns).await.ok()?;
        link::udp_port_holder(netns, &links, port).await.ok()?
    };
    match holder.await {
        Some(holder) if holder.excludes_vxlan() => check(
            &name,
            CheckStatus::Fail,
            format!("taken by {holder}"),
            format!("stop it, or give it another port: VXLAN uses port {port}"),
        ),
        Some(holder) => check(&name, CheckStatus::Ok, format!("shared with {holder}"), ""),
        None => check(&name, CheckStatus::Ok, "free", ""),
    }
}

/// Which fleet the host belongs to, and whether all of its hosts use the same VXLAN port.
async fn fleet(shared: &Shared) -> Check {
    let (FleetRecord { id, epoch, vxlan_port }, _) = shared.fleet.record();
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

fn check(name: &str, status: CheckStatus, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { check: name.to_owned(), status, detail: detail.into(), remedy: remedy.into() }
}
