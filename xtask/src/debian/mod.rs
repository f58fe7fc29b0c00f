//! Debian's packages: which are available, installing them, and unpacking one without installing it.
//!
//! Never removes or upgrades a package by itself.

mod apt;
mod lists;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use self::apt::apt_get;
pub use self::apt::{candidate, is_known, update};
pub use self::lists::Lists;
use crate::environment;
use crate::shell;

/// Whether this is Debian or one of its descendants.
pub fn is_here() -> bool {
    environment::which("apt-get").is_some() && environment::which("dpkg-deb").is_some()
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
    if first.is_ok() || apt::is_updated() {
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
