//! What the agent and the DNS process say to each other. Values; decides nothing.
//!
//! At birth, over the process's standard input: one [`Birth`], answered by one [`Born`]. Later, over the control socket: one
//! [`Request`] and one [`Response`] per connection, each JSON up to the end of its half, open files with its first octet.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::engine::Counted;
use crate::companion::Anchor;
use crate::names::{Asker, Difference, Forwarding};
use crate::netns::NetnsId;

/// Raised when a message changes its meaning; fields are added without. An agent and a process of different versions do
/// not talk, and the agent replaces the process.
pub(super) const VERSION: u32 = 1;
/// Longest message in octets: 100,000 members take 20 MB.
pub(super) const MAX_MESSAGE_OCTETS: usize = 64 << 20;

/// The first message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Birth {
    pub(super) version: u32,
    pub(super) threads: usize,
    pub(super) max_age_seconds: u64,
    pub(super) resolv_conf: PathBuf,
}

/// The answer to [`Birth`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Born {
    /// It can be asked.
    Ready,
    /// The process ends.
    Failed { problem: String },
}

/// A question of the agent's. Of a request of another version nothing but that is understood.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request<T = Ask> {
    pub(super) version: u32,
    pub(super) request: T,
}

/// What the agent may ask. To end the process it sends SIGTERM.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// What there is.
    Observe,
    /// Serve this container. Files: its UDP socket, its TCP listener, and its process if that is the anchor.
    Serve { container: NetnsId, asker: Asker, anchor: Anchor },
    /// Change what exists for a container.
    Change { container: NetnsId, asker: Asker },
    /// Serve it no longer.
    Forget { container: NetnsId },
    /// Its sockets, for a successor.
    Sockets { container: NetnsId },
    /// What changed in the names, or all of them. They are current then.
    Names { everything: bool, difference: Difference },
    /// The names are current.
    Confirm,
    /// What a container would be told.
    Resolve { container: NetnsId, name: String, kind: u16 },
}

/// An answer to the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Response {
    State(ProcessState),
    Done,
    /// The container is not served.
    NotServed,
    /// With the UDP socket and the TCP listener.
    Sockets,
    Resolved(Resolved),
    Refused {
        problem: String,
    },
    OtherVersion {
        version: u32,
    },
}

/// What a DNS process is and has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessState {
    /// Its process id.
    pub pid: u32,
    /// The version of its binary.
    pub binary_version: String,
    /// The file that it was started from.
    #[serde(default)]
    pub binary: Option<BinaryId>,
    /// When it was started, in seconds since 1970-01-01 UTC.
    pub started_unix_seconds: u64,
    /// The containers that it serves.
    pub containers: Vec<ServedContainer>,
    /// How many networks it knows names of.
    pub networks: usize,
    /// How many members it knows names of.
    pub members: usize,
    /// How long ago its names were last known to be current, in seconds; nothing when it was never told any.
    pub age_seconds: Option<f64>,
    /// Whether they are too old to be answered from.
    pub is_stale: bool,
    /// What it counted.
    pub counted: Counted,
}

/// Which file a binary is: another build is another file, or the same one with another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinaryId {
    dev: u64,
    ino: u64,
    octets: u64,
    modified_seconds: i64,
    modified_nanoseconds: i64,
}

impl BinaryId {
    /// The file at a path; nothing when it cannot be looked at.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            dev: found.dev(),
            ino: found.ino(),
            octets: found.size(),
            modified_seconds: found.mtime(),
            modified_nanoseconds: found.mtime_nsec(),
        })
    }

    /// The file that this process runs, wherever it is by now.
    #[must_use]
    pub fn own() -> Option<Self> {
        Self::of(Path::new("/proc/self/exe"))
    }
}

/// A container that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedContainer {
    /// Its namespace.
    pub container: NetnsId,
    /// What exists for it.
    pub asker: Asker,
}

/// What a container would be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    /// Whose name it is.
    pub source: Source,
    /// The code in lower case, `noerror` or `nxdomain`; nothing when it is not ours to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rcode: Option<String>,
    /// The records, one line each: `<owner> <ttl> <type> <data>`.
    pub records: Vec<String>,
    /// How long ago the names were last known to be current, in seconds.
    pub age_seconds: Option<f64>,
    /// Whether they are too old to be answered from: the container is told SERVFAIL.
    pub is_stale: bool,
}

/// Whose a name is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Ours.
    Snapshot,
    /// Somebody else's; asked there.
    Forwarded(Forwarding),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_read_back_and_another_version_is_understood_that_far() {
        let container = NetnsId { dev: 4, ino: 7 };
        let request = Request { version: VERSION, request: Ask::Forget { container } };
        let text = serde_json::to_string(&request).expect("serializable");
        assert_eq!(text, r#"{"version":1,"request":{"forget":{"container":{"dev":4,"ino":7}}}}"#);
        assert!(serde_json::from_str::<Request>(&text).is_ok());
        let future = r#"{"version":2,"request":{"dance":{"with":"me"}}}"#;
        assert!(serde_json::from_str::<Request>(future).is_err());
        let understood: Request<serde::de::IgnoredAny> = serde_json::from_str(future).expect("its version");
        assert_eq!(understood.version, 2);
    }
}
