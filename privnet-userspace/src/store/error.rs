//! What can go wrong with a store, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::contract::{Expected, LeaseId, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Revision};
use super::path::Key;

/// The store could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused; the store goes on once it does not any more.
    #[error("cannot {operation} the state file {}: {source}", path.display())]
    Disk {
        /// What was being done, for example `write`.
        operation: &'static str,
        /// The state file.
        path: PathBuf,
        /// What the disk, or the library above it, said.
        source: Arc<io::Error>,
    },
    /// The cluster did not answer, or refused.
    #[error(
        "cannot {operation} in etcd ({detail}): \
         see that the cluster runs, has a majority, and can be reached from this host"
    )]
    Cluster {
        /// What was being done, for example `commit`.
        operation: &'static str,
        /// Every member that was asked, and what came of it.
        detail: String,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// The lease has expired, was revoked, or belongs to an earlier process.
    #[error("lease {0} does not exist: it has expired or was revoked")]
    LeaseNotFound(LeaseId),
}

/// A transaction that did not happen; with [`CommitError::Store`], one whose outcome is unknown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A compare did not hold.
    #[error("{key} was expected {expected} and is {}", found_text(*.found))]
    Conflict {
        /// The first key whose compare did not hold.
        key: Key,
        /// What the transaction expected of it.
        expected: Expected,
        /// The revision that put it last; nothing when it is absent.
        found: Option<Revision>,
    },
    /// It is larger than every store can hold.
    #[error(
        "a transaction of {operations} operations and {bytes} bytes is too large: \
         {MAX_OPERATIONS} operations and {MAX_TRANSACTION_BYTES} bytes are allowed"
    )]
    TooLarge {
        /// Compares and writes together.
        operations: usize,
        /// Keys and values together.
        bytes: usize,
    },
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another agent uses this state directory.
    #[error(
        "the state directory {} is in use by another agent{}; stop that agent, or give this one another --state-dir",
        directory.display(), pid_text(*.pid)
    )]
    AlreadyOpen {
        /// The state directory.
        directory: PathBuf,
        /// The other agent's process id, when it could be read.
        pid: Option<u32>,
    },
    /// The state file was damaged, and has been moved aside.
    #[error(
        "the state file {} is corrupt ({detail}); it has been kept as {}; put a good copy in its place, \
         or start again to begin with an empty state",
        path.display(), kept_as.display()
    )]
    Corrupt {
        /// Where it was.
        path: PathBuf,
        /// Where it is now.
        kept_as: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The state file was written by a newer privnet. It was not touched.
    #[error(
        "the state file {} has schema version {found}, and this privnet knows versions up to {supported}; \
         start the newer privnet again, or give this one another --state-dir",
        path.display()
    )]
    NewerSchema {
        /// The state file.
        path: PathBuf,
        /// Its schema version.
        found: u64,
        /// The newest schema version known here.
        supported: u64,
    },
    /// The URL of a member of an etcd cluster, or what belongs to it, is invalid.
    #[error(
        "the etcd endpoint {url} is invalid ({reason}); see `privnet agent --help` for --etcd-endpoints and --etcd-ca"
    )]
    Endpoint {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Disk {
        /// What was being done, for example `create`.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the disk, or the library above it, said.
        source: io::Error,
    },
}

fn found_text(revision: Option<Revision>) -> String {
    revision.map_or_else(|| "absent".to_owned(), |revision| format!("at revision {revision}"))
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}
