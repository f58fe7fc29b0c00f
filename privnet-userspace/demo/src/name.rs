//! The name of one demo, from which everything that it makes is named, so that all of it can be found again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use privnet::datapath;

/// What every name begins with.
const PREFIX: &str = "privnet-demo-";
/// Where the demo's directory is made: not on a disk, since nothing in it outlives the boot.
const RUN_DIR: &str = "/run";

/// The two hosts, as names and paths have them.
pub const HOSTS: [&str; 2] = ["one", "two"];

/// The name of one demo: `privnet-demo-<pid>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// The name of this process's demo.
    #[must_use]
    pub fn own() -> Self {
        Self(format!("{PREFIX}{}", std::process::id()))
    }

    /// The directory of everything that is a file.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        Path::new(RUN_DIR).join(&self.0)
    }

    /// The file that is locked while the demo runs.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.run_dir().join("lock")
    }

    /// The state directory of a host's agent.
    #[must_use]
    pub fn state_dir(&self, host: &str) -> PathBuf {
        self.run_dir().join(host)
    }

    /// What the names of all of the demo's namespaces begin with.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("{}-", self.0)
    }

    /// What the names of the namespaces that a host's agent makes begin with.
    #[must_use]
    pub fn agent_prefix(&self, host: &str) -> String {
        format!("{}-{host}-", self.0)
    }

    /// The name of a namespace that no agent makes: a host's own, or a container's.
    #[must_use]
    pub fn netns(&self, what: &str) -> String {
        format!("{}-{what}", self.0)
    }

    /// Where a host's agent pins. A machine without a bpffs gets one in the demo's own directory, that goes with it.
    #[must_use]
    pub fn bpffs_dir(&self, host: &str) -> PathBuf {
        let shared = Path::new(privnet::agent::config::DEFAULT_BPFFS);
        if datapath::is_bpffs(shared) { shared.join(format!("{}-{host}", self.0)) } else { self.own_bpffs(host) }
    }

    /// Where the bpffs of a machine without one is.
    #[must_use]
    pub fn own_bpffs(&self, host: &str) -> PathBuf {
        self.run_dir().join(format!("{host}-bpffs"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = String;

    /// Accepts nothing that could name what no demo made.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix(PREFIX).unwrap_or_default();
        if digits.is_empty() || digits.len() > 10 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("expected {PREFIX}<number>, as `privnet demo --keep` printed it"));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_demo_is_called_is_a_name() {
        assert_eq!("privnet-demo-17".parse::<Name>().map(|name| name.to_string()), Ok("privnet-demo-17".to_owned()));
        for bad in ["", "privnet-demo-", "privnet-demo-1/..", "privnet-demo-x", "demo-1", "privnet-demo-12345678901"] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_demo_finds_the_namespaces_of_another_whose_number_begins_alike() {
        let (short, long) = (Name("privnet-demo-1".to_owned()), Name("privnet-demo-12".to_owned()));
        assert!(short.netns("web-1").starts_with(&short.prefix()));
        assert!(!long.netns("web-1").starts_with(&short.prefix()));
    }
}
