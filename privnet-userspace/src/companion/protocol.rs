//! What a kind of companion is, and the envelope that all kinds share. Values; decides nothing.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A kind of companion: its messages and what is special about it.
///
/// A process that was started by the build before may answer: fields are added with a default, requests are added, and
/// anything else raises [`Protocol::VERSION`]. [`Protocol::Start`] is free, since a companion is started from the agent's
/// own binary.
pub trait Protocol: 'static {
    /// The process in messages for people, with its article: "the DNS process".
    const NAME: &'static str;
    /// The subcommand of `privnet` that becomes the process; it is given `--run-dir DIR`.
    const COMMAND: &'static str;
    /// The process's name in `ps` and `top`; 15 bytes at most (`TASK_COMM_LEN`).
    const COMM: &'static CStr;
    /// Raised when a message changes its meaning. An agent and a process of different versions do not talk.
    const VERSION: u32;
    /// The longest message, in octets.
    const MAX_MESSAGE_OCTETS: usize;
    /// The length of the secret that precedes the first message, in octets.
    const SECRET_OCTETS: usize = 0;
    /// How a process of another build is replaced.
    const UPGRADE: Upgrade;
    /// What the process is started with, besides its descriptors and its secret.
    type Start: Serialize + DeserializeOwned;
    /// What the agent may ask.
    type Request: Serialize + DeserializeOwned;
    /// What the process answers; refusals are the envelope's.
    type Response: Serialize + DeserializeOwned;
}

/// How a process of another build is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// A successor is started in a second run dir and takes over descriptors and state; then the process is ended.
    HandOver,
    /// The process runs on as long as it speaks the agent's version: it holds state that cannot be handed over. It is
    /// replaced when it ends, or speaks another version.
    KeepRunning,
}

/// What a companion is started with.
pub struct Given<P: Protocol> {
    /// The first message.
    pub start: P::Start,
    /// [`Protocol::SECRET_OCTETS`] octets that are in no argument, no environment and no file.
    pub secret: Zeroizing<Vec<u8>>,
    /// The descriptors, at most three.
    pub files: Vec<OwnedFd>,
}

/// The first message, after the secret.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start<S> {
    pub(super) version: u32,
    pub(super) start: S,
}

/// The answer to [`Start`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Started {
    /// The companion serves.
    Ready,
    /// The companion ends.
    Failed { problem: String },
}

/// A request of the agent's. Of a request of another version the version alone is understood.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request<T> {
    /// The version that the agent speaks.
    pub version: u32,
    /// What it asks.
    pub request: T,
}

/// The request that every kind of companion understands. Those of builds before it refuse it, as they refuse whatever they
/// do not know.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Handshake {
    /// Which process and which build are you?
    Hello,
}

/// The answers that every kind of companion may give.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Hello(Identity),
    Refused { problem: String },
    OtherVersion { version: u32 },
}

/// One message: a line of JSON.
pub(super) fn encode(message: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// Which process a companion is, and which build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its process id.
    pub pid: u32,
    /// The version of its binary.
    pub binary_version: String,
    /// The file that it was started from.
    #[serde(default)]
    pub binary: Option<BinaryId>,
    /// When it was started, in seconds since 1970-01-01 UTC.
    pub started_unix_seconds: u64,
}

impl Identity {
    /// The calling process's, which was started at `now`.
    pub(super) fn own(now: SystemTime) -> Self {
        Self {
            pid: std::process::id(),
            binary_version: env!("CARGO_PKG_VERSION").to_owned(),
            binary: BinaryId::of(Path::new("/proc/self/exe")),
            started_unix_seconds: now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }
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
    /// The file at a path; `None` when it cannot be looked at.
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
}

/// The binary that an agent starts companions from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its path. `/proc/self/exe` is the running binary, also when its file was replaced or removed since.
    pub path: PathBuf,
    /// Which file was there when the agent started.
    pub id: Option<BinaryId>,
}

impl Program {
    /// Whether a new process in place of this one would be of the same build; also true when it would be of a build that is
    /// not this agent's, because the file was replaced since the agent started. `None` is a process of a build before the
    /// handshake.
    #[must_use]
    pub fn is_of(&self, process: Option<&Identity>) -> bool {
        let is_same = process
            .is_some_and(|process| process.binary_version == env!("CARGO_PKG_VERSION") && process.binary == self.id);
        is_same || BinaryId::of(&self.path) != self.id
    }
}
