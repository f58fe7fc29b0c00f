//! What the agent and a WireGuard process say to each other, and where. Values and files; decides nothing.
//!
//! At birth, over the process's standard input: one [`Birth`] with its open files, answered by one [`Born`]. Later, over
//! the control socket: one line of JSON each way per connection, [`Request`] and [`Response`]. The private key is in the
//! first message alone: in no argument, no environment, no file, and nothing can ask for it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Flock, FlockOffsetType, FlockType, Pid};
use serde::{Deserialize, Serialize};

use super::{DeviceState, PeerChange};
use crate::model::PublicKey;
use crate::netns::NetnsId;

/// Raised when a message changes; an agent and a process of different versions do not talk.
pub(super) const VERSION: u32 = 1;
/// Longest message in bytes: 10,000 peers take 3 MB.
pub(super) const MAX_MESSAGE_BYTES: u64 = 8 << 20;

const CONTROL_SOCKET: &str = "control.sock";
const PID_FILE: &str = "pid";
const LOG_FILE: &str = "log";

/// The first message, after the 32 bytes of the private key. The files come with it: TUN, UDP socket, and the process
/// file descriptor if the anchor is a process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Birth {
    pub(super) version: u32,
    pub(super) interface: String,
    pub(super) mtu: u16,
    pub(super) anchor: Anchor,
}

/// By what the process knows that the container lives. Its own TUN link keeps the namespace, so that is no sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Anchor {
    /// The container's process, whose file descriptor becomes readable when it ends.
    Process,
    /// A pin, which must go on naming this namespace.
    Pin { path: PathBuf, netns: NetnsId },
}

/// The answer to [`Birth`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Born {
    /// The device forwards.
    Ready { public_key: PublicKey },
    /// The process ends.
    Failed { problem: String },
}

/// A line to the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) version: u32,
    pub(super) request: Ask,
}

/// What the agent may ask. To end the process it sends SIGTERM.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    Observe,
    ChangePeers(PeerChange),
}

/// A line from the control socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Response {
    Device(DeviceState),
    Changed,
    AddressTaken { address: std::net::Ipv4Addr, holder: PublicKey, wanted: PublicKey },
    Refused { problem: String },
}

/// The directory of one process: its control socket, its locked pid file and its log.
#[derive(Clone, Debug)]
pub(super) struct RunDir(PathBuf);

impl RunDir {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it, for its owner alone.
    pub(super) fn create(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Removes what a process leaves in it, and the directory itself if nothing else is in it.
    pub(super) fn remove(&self) -> io::Result<()> {
        for file in [CONTROL_SOCKET, LOG_FILE, PID_FILE] {
            absent_is_done(fs::remove_file(self.0.join(file)))?;
        }
        match absent_is_done(fs::remove_dir(&self.0)) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            result => result,
        }
    }

    pub(super) fn log_file(&self) -> PathBuf {
        self.0.join(LOG_FILE)
    }

    /// A name of the control socket that always fits into the 108 bytes of `sockaddr_un`, valid as long as the file.
    ///
    /// # Errors
    /// ENOENT when the directory does not exist.
    pub(super) fn control_socket(&self) -> io::Result<(OwnedFd, PathBuf)> {
        let directory = rustix::fs::open(&self.0, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{CONTROL_SOCKET}", directory.as_raw_fd()));
        Ok((directory, path))
    }

    /// Takes the pid file for the calling process, for life: the lock goes with the process, however that ends.
    ///
    /// # Errors
    /// EAGAIN or EACCES when another process has it.
    pub(super) fn lock(&self) -> io::Result<fs::File> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file =
            fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.0.join(PID_FILE))?;
        rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        file.set_len(0)?;
        io::Write::write_all(&mut &file, format!("{}\n", std::process::id()).as_bytes())?;
        Ok(file)
    }

    /// The process that has the pid file. The kernel says so, not the file: a pid there may be somebody else's today.
    pub(super) fn owner(&self) -> io::Result<Option<Pid>> {
        let file = match fs::File::open(self.0.join(PID_FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // A read lock over the whole file is in the way of the owner's write lock.
        let probe =
            Flock { start: 0, length: 0, pid: None, typ: FlockType::ReadLock, offset_type: FlockOffsetType::Set };
        Ok(rustix::process::fcntl_getlk(file.as_fd(), &probe)?.and_then(|held| held.pid))
    }
}

fn absent_is_done(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line_and_reads_back() {
        let request = Request { version: VERSION, request: Ask::ChangePeers(PeerChange::default()) };
        let line = serde_json::to_string(&request).expect("serializable");
        assert_eq!(line, r#"{"version":1,"request":{"change_peers":{"set":[],"remove":[]}}}"#);
        assert!(serde_json::from_str::<Request>(&line).is_ok());
        assert!(serde_json::from_str::<Request>(r#"{"version":1,"request":"reveal_key"}"#).is_err());
    }

    #[test]
    fn a_run_dir_has_no_owner_until_another_process_locks_it_and_leaves_nothing_when_removed() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let run_dir = RunDir::new(&parent.path().join("a/b"));
        assert_eq!(run_dir.owner().expect("absent is no owner"), None);
        run_dir.create().expect("created");
        let lock = run_dir.lock().expect("free");
        // The own lock is not in the way of the own process.
        assert_eq!(run_dir.owner().expect("readable"), None);
        drop(lock);
        run_dir.remove().expect("removed");
        run_dir.remove().expect("removed twice");
        assert!(!run_dir.path().exists());
    }

    #[test]
    fn a_long_directory_still_has_a_control_socket() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let run_dir = RunDir::new(&parent.path().join("x".repeat(100)).join("y".repeat(100)));
        run_dir.create().expect("created");
        let (_directory, socket) = run_dir.control_socket().expect("opened");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("fits");
        assert!(run_dir.path().join(CONTROL_SOCKET).exists());
    }
}
