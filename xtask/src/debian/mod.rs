//! Debian's packages: which are available, installing them, and unpacking one without installing it.
//!
//! Never removes or upgrades a package by itself.

mod lists;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};

pub use self::lists::Lists;
use crate::environment;
use crate::shell;

/// Whether this run has fetched the lists.
static UPDATED: AtomicBool = AtomicBool::new(false);

/// Whether this is Debian or one of its descendants.
pub fn is_here() -> bool {
    environment::which("apt-get").is_some() && environment::which("dpkg-deb").is_some()
}

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

/// Installs `packages` as root, saying `why`.
///
/// # Errors
/// Root cannot be reached, or apt-get failed twice, the second time with fresh lists; names the command to run by hand.
pub fn install(packages: &[&str], why: &str) -> Result<()> {
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !shell::can_be_root() {
        bail!("{why}: run as root: {by_hand}");
    }
    shell::say(&format!("{why}: {by_hand}"));
    if packages.iter().any(|package| candidate(package).is_none()) {
        bail!("{why}: not all of these packages are in the lists of this machine: {}", packages.join(" "));
    }
    let install = || {
        let mut command = apt_get()?;
        shell::run(
            command.args(["install", "-y", "-qq", "-o", "Dpkg::Use-Pty=0", "--no-install-recommends"]).args(packages),
        )
    };
    let first = install();
    if first.is_ok() || UPDATED.load(Ordering::Relaxed) {
        return first;
    }
    update()?;
    install().with_context(|| format!("{why}: cannot install {}", packages.join(" ")))
}

/// Unpacks the files of `package` into `directory` without installing it: no script of it runs, no service starts.
///
/// # Errors
/// The package is not available, or could not be fetched or unpacked, the second time with fresh lists.
pub fn unpack(package: &str, directory: &Path) -> Result<()> {
    if candidate(package).is_none() {
        bail!("the package {package} is not available");
    }
    let lists = Lists::of_machine();
    if lists.unpack(&[package], directory).is_err() {
        update()?;
        lists.unpack(&[package], directory)?;
    }
    Ok(())
}

/// The libraries that a package depends on.
///
/// # Errors
/// `apt-cache` does not know the package.
pub fn libraries_of(package: &str) -> Result<Vec<String>> {
    let mut libraries = Lists::of_machine().dependencies(package)?;
    libraries.retain(|name| name.starts_with("lib"));
    Ok(libraries)
}

/// Whether a package is installed.
pub fn is_installed(package: &str) -> bool {
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat=${db:Status-Status}", package]);
    shell::output(&mut command).is_ok_and(|status| status == "installed")
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

fn policy(package: &str) -> Option<String> {
    let mut command = Command::new("apt-cache");
    candidate_in(&shell::output(command.args(["policy", package]).env("LC_ALL", "C")).ok()?)
}

fn candidate_in(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

fn apt_get() -> Result<Command> {
    let set = [("DEBIAN_FRONTEND", "noninteractive".into()), ("NEEDRESTART_MODE", "l".into())];
    shell::as_root(Path::new("apt-get"), &set)
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
