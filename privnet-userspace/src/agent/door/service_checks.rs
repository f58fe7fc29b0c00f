//! What the service manager and the network managers of the host do to the agent and its devices: checks of `doctor`.

use std::fs;
use std::path::{Path, PathBuf};

use super::host_checks::check;
use super::views::{Check, CheckStatus};

/// A program that configures whatever interface appears: its name, what is there while it runs, and where the package says
/// that it leaves privnet's devices alone.
const MANAGERS: [(&str, &str, &str); 2] = [
    ("NetworkManager", "run/NetworkManager", "NetworkManager/conf.d/90-privnet.conf"),
    ("systemd-networkd", "run/systemd/netif", "systemd/network/10-privnet.network"),
];
/// Where settings are, those that win first.
const SETTINGS: [&str; 4] = ["etc", "run", "usr/lib", "lib"];

/// Whether the unit leaves the agent in the host's mount namespace; nothing where systemd did not start the agent.
pub(super) fn service() -> Option<Check> {
    std::env::var_os("NOTIFY_SOCKET")?;
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    Some(mount_namespace(of("self"), of("1")))
}

fn mount_namespace(own: Option<PathBuf>, of_host: Option<PathBuf>) -> Check {
    if own == of_host {
        return check("service", CheckStatus::Ok, "the unit leaves the agent in the host's mount namespace", "");
    }
    check(
        "service",
        CheckStatus::Fail,
        "the unit gives the agent a mount namespace of its own: what the agent pins is hidden from the host and from the \
         next agent, and ends with the unit",
        "take out the directive that does: privnet.service lists them (`systemctl cat privnet`)",
    )
}

/// Whether the network managers that run below `root` are told to leave privnet's devices alone.
pub(super) fn network_managers(root: &Path) -> Check {
    let is_told = |file: &str| SETTINGS.iter().any(|place| root.join(place).join(file).is_file());
    let (mut running, mut untold) = (Vec::new(), Vec::new());
    for (name, sign, file) in MANAGERS {
        if root.join(sign).is_dir() {
            running.push(name);
            if !is_told(file) {
                untold.push((name, file));
            }
        }
    }
    if untold.is_empty() {
        let detail = match running.as_slice() {
            [] => "none runs that configures interfaces by itself".to_owned(),
            [one] => format!("{one} leaves privnet's devices alone"),
            some => format!("{} leave privnet's devices alone", some.join(" and ")),
        };
        return check("network_managers", CheckStatus::Ok, detail, "");
    }
    let names: Vec<&str> = untold.iter().map(|(name, _)| *name).collect();
    let files: Vec<String> = untold.iter().map(|(_, file)| format!("/etc/{file}")).collect();
    check(
        "network_managers",
        CheckStatus::Warn,
        format!("{} may configure a device on its way into a container", names.join(" and ")),
        format!("write {} as the package has it", files.join(" and ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_runs_is_to_be_told() {
        let root = tempfile::tempdir().expect("a directory");
        let make = |path: &str| fs::create_dir_all(root.path().join(path)).expect("made");
        assert_eq!(network_managers(root.path()).status, CheckStatus::Ok);
        make("run/NetworkManager");
        make("run/systemd/netif");
        let untold = network_managers(root.path());
        assert_eq!(untold.status, CheckStatus::Warn);
        assert!(untold.detail.contains("NetworkManager and systemd-networkd"), "{untold:?}");
        make("usr/lib/NetworkManager/conf.d");
        fs::write(root.path().join("usr/lib").join(MANAGERS[0].2), "").expect("written");
        let one = network_managers(root.path());
        assert!(one.status == CheckStatus::Warn && !one.detail.contains("NetworkManager"), "{one:?}");
        make("etc/systemd/network");
        fs::write(root.path().join("etc").join(MANAGERS[1].2), "").expect("written");
        assert_eq!(network_managers(root.path()).status, CheckStatus::Ok);
    }
}
