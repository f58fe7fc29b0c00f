//! What `run` and its child tell each other before the child becomes the command.
//!
//! The child connects, says one line ([`Report`]), and waits; the parent says one line ([`Go`]) once the child is a
//! member, or hangs up, which ends the child.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::api::ControlError;

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// It is in its own namespaces and waits.
    Ready,
    /// It cannot be.
    Failed(ControlError),
}

/// What the parent says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Go {
    /// What to add to the environment.
    pub environment: BTreeMap<String, String>,
    /// What the namespace's host is to be called; at most 64 bytes (uname(2)).
    pub hostname: String,
    /// What `/etc/resolv.conf` is to say; nothing when it is to be as on the host.
    pub resolv_conf: Option<String>,
    /// Where the agent has a file that says so, and keeps it up to date.
    pub resolv_conf_file: Option<PathBuf>,
}
