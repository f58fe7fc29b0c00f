//! Debian's packages: which are available, installing them, and unpacking one without installing it.
//!
//! Never removes or upgrades a package by itself.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};

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
/// The package is not available, or could not be fetched or unpacked.
pub fn unpack(package: &str, directory: &Path) -> Result<()> {
    if candidate(package).is_none() {
        bail!("the package {package} is not available");
    }
    // apt-get download writes into the present directory, and the file's name holds the version.
    let downloads = directory.join("deb");
    if downloads.exists() {
        fs::remove_dir_all(&downloads).with_context(|| format!("cannot empty {}", downloads.display()))?;
    }
    fs::create_dir_all(&downloads).with_context(|| format!("cannot make {}", downloads.display()))?;
    let mut download = environment::foreign(Path::new("apt-get"));
    // Fetching as the user _apt would need a directory that this user may write into.
    download.args(["download", "-q", "-o", "APT::Sandbox::User=root", package]).current_dir(&downloads);
    if shell::run(&mut download).is_err() {
        update()?;
        shell::run(&mut download)?;
    }
    let entries = fs::read_dir(&downloads).with_context(|| format!("cannot read {}", downloads.display()))?;
    for entry in entries {
        let file = entry.with_context(|| format!("cannot read {}", downloads.display()))?.path();
        shell::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(directory))?;
    }
    fs::remove_dir_all(&downloads).with_context(|| format!("cannot remove {}", downloads.display()))
}

/// The libraries that a package depends on.
///
/// # Errors
/// `apt-cache` does not know the package.
pub fn libraries_of(package: &str) -> Result<Vec<String>> {
    let depends = shell::output(Command::new("apt-cache").args(["depends", package]).env("LC_ALL", "C"))?;
    Ok(libraries_in(&depends))
}

fn libraries_in(depends: &str) -> Vec<String> {
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.filter(|name| name.starts_with("lib")).map(str::to_owned).collect()
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
    fn the_libraries_of_a_package_are_those_that_it_cannot_do_without() {
        let depends = "unbound\n  PreDepends: init-system-helpers\n  Depends: adduser\n  Depends: libevent-2.1-7\n    \
                       libelogind0\n  Depends: <libvirtual>\n  Recommends: libother\n";
        assert_eq!(libraries_in(depends), ["libevent-2.1-7"]);
    }

    #[test]
    fn a_package_without_a_candidate_is_not_available_and_one_with_a_candidate_is() {
        assert_eq!(candidate_in("jq:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_in(""), None);
        assert_eq!(candidate_in("jq:\n  Installed: (none)\n  Candidate: 1.6-2.1\n"), Some("1.6-2.1".to_owned()));
    }
}
