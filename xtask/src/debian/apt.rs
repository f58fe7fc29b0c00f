//! What apt knows: the candidates of this machine's lists of packages, and fetching the lists.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};

use crate::shell;

/// Whether this run has fetched the lists.
static UPDATED: AtomicBool = AtomicBool::new(false);

/// The version that would be installed, if the package is available.
///
/// Fetches the lists when those that are here do not know the package.
pub fn candidate(package: &str) -> Option<String> {
    let present = policy(package);
    if present.is_some() || update().is_err() {
        return present;
    }
    policy(package)
}

/// Whether the lists that are here know the package.
pub fn is_known(package: &str) -> bool {
    policy(package).is_some()
}

/// Fetches the lists once in a run; a source of the machine that does not answer is none of our business, as long as
/// the packages are found.
///
/// # Errors
/// Root cannot be reached.
pub fn update() -> Result<()> {
    if UPDATED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    if !shell::can_be_root() {
        bail!("the lists of packages are missing or old: run as root: apt-get update");
    }
    shell::say("the lists of packages are missing or old: apt-get update");
    let mut command = apt_get()?;
    if let Err(error) = shell::run(command.args(["update", "-q"])) {
        eprintln!("    {error:#}; going on with what there is");
    }
    Ok(())
}

/// Whether this run has fetched the lists.
pub fn is_updated() -> bool {
    UPDATED.load(Ordering::Relaxed)
}

/// apt-get as root, which asks nothing.
///
/// # Errors
/// Root cannot be reached.
pub fn apt_get() -> Result<Command> {
    let set = [("DEBIAN_FRONTEND", "noninteractive".into()), ("NEEDRESTART_MODE", "l".into())];
    shell::as_root(Path::new("apt-get"), &set)
}

fn policy(package: &str) -> Option<String> {
    let mut command = Command::new("apt-cache");
    candidate_in(&shell::output(command.args(["policy", package]).env("LC_ALL", "C")).ok()?)
}

fn candidate_in(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_a_candidate_is_not_available_and_one_with_a_candidate_is() {
        assert_eq!(candidate_in("jq:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_in(""), None);
        assert_eq!(candidate_in("jq:\n  Installed: (none)\n  Candidate: 1.6-2.1\n"), Some("1.6-2.1".to_owned()));
    }
}
