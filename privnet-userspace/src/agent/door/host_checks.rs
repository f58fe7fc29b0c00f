//! What the host can and cannot do: the checks of `doctor` that need no agent. Changes nothing.

use std::path::Path;

use super::error::ControlError;
use super::views::{Check, CheckStatus};
use crate::agent::host::{capabilities, places};
use crate::datapath;
use crate::link::{self, Links};
use crate::netns::Netns;
use crate::wireguard::{self, Backend, Support};

/// What is looked at: what the agent uses, or what one that is started without flags would use.
pub(super) struct Viewed<'a> {
    /// The directory of the pinned programs and maps.
    pub bpffs: &'a Path,
    /// The directory of the pinned namespaces.
    pub netns_dir: &'a Path,
    /// Whether names are answered.
    pub answers_names: bool,
    /// The WireGuard in use; none before an agent chose one.
    pub wireguard: Option<Backend>,
}

/// The checks, in the order in which they are shown.
pub(super) fn host_checks(viewed: &Viewed<'_>) -> Vec<Check> {
    let features = datapath::features();
    vec![
        capabilities(viewed),
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
        bpffs(viewed.bpffs),
        netns_dir(viewed.netns_dir),
        kernel_wireguard(viewed.wireguard),
        userspace_wireguard(viewed.wireguard),
    ]
}

fn capabilities(viewed: &Viewed<'_>) -> Check {
    let held = capabilities::held();
    match (capabilities::check(held, viewed.answers_names), capabilities::lacking_for_some(held)) {
        (Err(error), _) => of_error("capabilities", error),
        (Ok(()), Some(lacking)) => check("capabilities", CheckStatus::Warn, lacking.message, lacking.remedy),
        (Ok(()), None) => check("capabilities", CheckStatus::Ok, "all present", ""),
    }
}

fn bpffs(dir: &Path) -> Check {
    let shown = dir.display();
    if places::is_on_bpffs(dir) {
        let is_usable = if dir.exists() { places::is_writable(dir) } else { Ok(()) };
        return match is_usable {
            Ok(()) => check("bpffs", CheckStatus::Ok, format!("mounted on {shown}"), ""),
            Err(error) => of_error("bpffs", error),
        };
    }
    match places::has_room_for_bpffs(dir) {
        Ok(()) => check(
            "bpffs",
            CheckStatus::Warn,
            format!("{shown} is not a BPF file system; the agent mounts one"),
            format!("mount -t bpf bpf {shown}"),
        ),
        Err(error) => of_error("bpffs", error),
    }
}

fn netns_dir(dir: &Path) -> Check {
    let shown = dir.display();
    if !dir.exists() {
        return check("netns_dir", CheckStatus::Ok, format!("the agent makes {shown} with the first namespace"), "");
    }
    match places::is_writable(dir) {
        Ok(()) => check("netns_dir", CheckStatus::Ok, format!("namespaces can be pinned in {shown}"), ""),
        Err(error) => of_error("netns_dir", error),
    }
}

/// The kernel's WireGuard, for an agent that uses `used`, or for one that is still to choose.
fn kernel_wireguard(used: Option<Backend>) -> Check {
    let (Support::Missing { reason, remedy }, name) = (wireguard::kernel_support(), "wireguard_kernel") else {
        return check("wireguard_kernel", CheckStatus::Ok, "the kernel has WireGuard", "");
    };
    match used {
        Some(Backend::Kernel) => check(name, CheckStatus::Fail, format!("{reason}, and the agent uses it"), remedy),
        Some(Backend::Userspace) => {
            check(name, CheckStatus::Warn, format!("{reason}: a userspace process per member is used"), remedy)
        }
        None if wireguard::userspace_support() == Support::Present => {
            check(name, CheckStatus::Warn, format!("{reason}: a userspace process per member is used"), remedy)
        }
        None => check(name, CheckStatus::Fail, reason, remedy),
    }
}

fn userspace_wireguard(used: Option<Backend>) -> Check {
    match (wireguard::userspace_support(), used) {
        (Support::Present, _) => check("wireguard_userspace", CheckStatus::Ok, "TUN devices can be created", ""),
        (Support::Missing { reason, remedy }, Some(Backend::Userspace)) => {
            check("wireguard_userspace", CheckStatus::Fail, format!("{reason}, and the agent uses it"), remedy)
        }
        (Support::Missing { reason, remedy }, Some(Backend::Kernel) | None) => {
            check("wireguard_userspace", CheckStatus::Warn, reason, remedy)
        }
    }
}

/// Whether the VXLAN port can be had in a namespace, which is the host's.
pub(super) async fn vxlan_port(netns: &Netns, port: u16) -> Check {
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

/// A line of `doctor`.
pub(super) fn check(name: &str, status: CheckStatus, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { check: name.to_owned(), status, detail: detail.into(), remedy: remedy.into() }
}

/// The line of a check that failed.
pub(super) fn of_error(name: &str, error: ControlError) -> Check {
    check(name, CheckStatus::Fail, error.message, error.remedy)
}
