//! The lists of packages that apt reads: those of this machine, or those of a suite that it does not install from.
//!
//! The lists of such a suite are in a folder of their own, and come from the mirror that this machine's own sources
//! name. Nothing of the machine's apt changes, and packages are unpacked, never installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::environment;
use crate::shell;

/// Signs Debian's suites; without the file, the keys that apt trusts for every source count.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What apt's programs are told about the lists to read.
#[derive(Default)]
pub struct Lists {
    /// In front of the command.
    options: Vec<String>,
}

impl Lists {
    /// Those of this machine.
    pub fn of_machine() -> Self {
        Self::default()
    }

    /// Fetches those of `suite` into `folder`.
    ///
    /// # Errors
    /// No source of this machine is Debian's archive, or the lists cannot be fetched.
    pub fn of_suite(suite: &str, folder: &Path) -> Result<Self> {
        let mirror = mirror()?;
        shell::say(&format!("the lists of Debian's suite {suite}, from {mirror}, into {}", folder.display()));
        for inside in ["lists/partial", "cache/archives/partial"].map(|inside| folder.join(inside)) {
            fs::create_dir_all(&inside).with_context(|| format!("cannot make {}", inside.display()))?;
        }
        let sources = folder.join("sources.list");
        fs::write(&sources, source(&mirror, suite, Path::new(KEYRING).is_file()))
            .with_context(|| format!("cannot write {}", sources.display()))?;
        let folder = folder.display();
        let options = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("Dir::State::Lists={folder}/lists"),
            format!("Dir::Cache={folder}/cache"),
        ];
        let lists = Self { options: options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect() };
        shell::run(lists.apt("apt-get").args(["update", "-q"]))?;
        Ok(lists)
    }

    /// The packages that `package` depends on, without those that have an alternative.
    ///
    /// # Errors
    /// The lists do not know the package.
    pub fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let mut command = self.apt("apt-cache");
        Ok(dependencies_in(&shell::output(command.args(["depends", "--important", package]).env("LC_ALL", "C"))?))
    }

    /// Fetches `packages` and unpacks their files into `directory`: no script of theirs runs, no service starts.
    ///
    /// # Errors
    /// They cannot be fetched or unpacked.
    pub fn unpack(&self, packages: &[&str], directory: &Path) -> Result<()> {
        // apt-get download writes into the present directory, and the file's name holds the version.
        let downloads = directory.join("deb");
        if downloads.exists() {
            fs::remove_dir_all(&downloads).with_context(|| format!("cannot empty {}", downloads.display()))?;
        }
        fs::create_dir_all(&downloads).with_context(|| format!("cannot make {}", downloads.display()))?;
        shell::run(self.apt("apt-get").args(["download", "-q"]).args(packages).current_dir(&downloads))?;
        let entries = fs::read_dir(&downloads).with_context(|| format!("cannot read {}", downloads.display()))?;
        for entry in entries {
            let file = entry.with_context(|| format!("cannot read {}", downloads.display()))?.path();
            shell::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(directory))?;
        }
        fs::remove_dir_all(&downloads).with_context(|| format!("cannot remove {}", downloads.display()))
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = environment::foreign(Path::new(program));
        // Fetching as the user _apt would need directories that this user may write into.
        command.args(["-o", "APT::Sandbox::User=root"]).args(&self.options);
        command
    }
}

/// Where the sources of this machine fetch Debian from.
fn mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"]);
    if let Some(mirror) = mirror_in(&shell::output(&mut command)?) {
        return Ok(mirror);
    }
    // Until lists were fetched, apt does not know whose they are.
    super::apt::update()?;
    let found = mirror_in(&shell::output(&mut command)?);
    found.context("no source of packages of this machine is Debian's archive (`apt-get indextargets`)")
}

fn mirror_in(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| line.strip_prefix("Debian|Debian|")).map(str::to_owned)
}

/// The line of sources.list(5) for the main component of a suite.
fn source(mirror: &str, suite: &str, has_keyring: bool) -> String {
    let keyring = if has_keyring { format!(" signed-by={KEYRING}") } else { String::new() };
    format!("deb [target=Packages{keyring}] {mirror} {suite} main\n")
}

fn dependencies_in(depends: &str) -> Vec<String> {
    depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_debian_itself_and_of_no_other_archive() {
        let others = "Debian|Debian-Security|http://mirror/debian-security/\nNode|Node|https://other/\n";
        assert_eq!(mirror_in(others), None);
        let all = format!("{others}Debian|Debian|http://mirror/debian/\n");
        assert_eq!(mirror_in(&all).as_deref(), Some("http://mirror/debian/"));
        // What apt prints when it has no lists.
        assert_eq!(mirror_in("$(ORIGIN)|$(LABEL)|http://mirror/debian/\n"), None);
    }

    #[test]
    fn a_dependency_with_an_alternative_is_not_one_that_a_package_cannot_do_without() {
        let depends = "linux-image-7.2\n  PreDepends: linux-base\n |Depends: dracut\n  Depends: <linux-initramfs-tool>\n    \
                       dracut\n  Depends: linux-binary-7.2\n  Breaks: other\n";
        assert_eq!(dependencies_in(depends), ["<linux-initramfs-tool>", "linux-binary-7.2"]);
    }
}
