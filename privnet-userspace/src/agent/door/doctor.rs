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
use crate::link::{self, Links, PortHolder};
use crate::netns::Netns;
use crate::store::{CommitError, Expected, Transaction, keys};
use crate::wireguard::{self, Support};

/// How long the networks may take to be observed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The checks that need no agent, and why there is none.
pub async fn without_agent(why: &ControlError) -> Vec<Check> {
    let mut checks = host_checks(Path::new(config::DEFAULT_BPFFS)).await;
    checks.push(check("agent", CheckStatus::Fail, &why.message, &why.remedy));
    checks
}

pub(in crate::agent) async fn with_agent(shared: &Shared) -> Vec<Check> {
    let mut checks = host_checks(&shared.host.config.bpffs_dir).await;
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
    checks.extend([reached, written]);
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

/// Whether the store answers now, and is the one that knows this host.
async fn store(shared: &Shared) -> Check {
    let kind = shared.store.kind();
    match shared.presence.is_ours().await {
        Ok(true) => check("store", CheckStatus::Ok, format!("{kind}, reachable"), ""),
        Ok(false) => check(
            "store",
            CheckStatus::Fail,
            format!(
                "the {kind} store does not know host {}: it is another store, or lost its data",
                shared.host.config.host
            ),
            "configure the right store, or restore its data; members stay attached meanwhile",
        ),
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

async fn host_checks(bpffs: &Path) -> Vec<Check> {
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
        vxlan_port().await,
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

async fn vxlan_port() -> Check {
    let holder = async {
        let netns = Netns::current().ok()?;
        let links = Links::open(&netns).await.ok()?;
        link::udp_port_holder(&netns, &links, crate::agent::network::objects::vtep::VXLAN_PORT).await.ok()?
    };
    match holder.await {
        Some(holder @ (PortHolder::Process { .. } | PortHolder::Vxlan { external: true, .. })) => check(
            "udp_4789",
            CheckStatus::Fail,
            format!("taken by {holder}"),
            "stop it, or give it another port: VXLAN uses port 4789",
        ),
        Some(holder) => check("udp_4789", CheckStatus::Ok, format!("shared with {holder}"), ""),
        None => check("udp_4789", CheckStatus::Ok, "free", ""),
    }
}

fn check(name: &str, status: CheckStatus, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { check: name.to_owned(), status, detail: detail.into(), remedy: remedy.into() }
}
