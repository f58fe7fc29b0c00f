//! The errors of a store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fleet_error::FleetError;
use super::path::Key;
use super::transaction::{Expected, LeaseId, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Revision};
#[cfg(test)]
use crate::model::FleetId;
use crate::model::explain::file_system_remedy;
#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain};

/// What etcd says to a client that it does not know, or that may not do this.
const UNKNOWN_USER: [&str; 5] = [
    "user name is empty",
    "permission denied",
    "invalid auth token",
    "authentication failed",
    "cannot read the password",
];
/// What to do about it.
const KNOWN_USER: &str = "etcd lets in only the users that it knows: give the agent the name and the password of one \
     (--etcd-user, --etcd-password-file) or its certificate (--etcd-cert, --etcd-key; its common name is the user), whose role \
     may read and write the keys below /privnet/v1/ (`etcdctl role grant-permission`); a password that is put right is used \
     without a restart";

/// The store could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused; the store goes on once it does not any more.
    #[error("cannot {operation} the state file {}: {source}", path.display())]
    Disk {
        /// The operation that failed, for example `write`.
        operation: &'static str,
        /// The state file.
        path: PathBuf,
        /// The error of the disk, or of the library above it.
        source: Arc<io::Error>,
    },
    /// The cluster did not answer, or refused.
    #[error("cannot {operation} in etcd ({detail})")]
    Cluster {
        /// The operation that failed, for example `commit`.
        operation: &'static str,
        /// Every member that was asked, and its answer or failure.
        detail: String,
    },
    /// The cluster was sent a change and did not say whether it happened; it may happen yet.
    #[error("it is not known whether the change happened: etcd did not answer ({detail})")]
    Unanswered {
        /// Every member that was asked, and its answer or failure.
        detail: String,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// The lease has expired, was revoked, or belongs to an earlier process.
    #[error("lease {0} has expired or was revoked")]
    LeaseNotFound(LeaseId),
    /// It is not the store of this host's fleet.
    #[error(transparent)]
    Fleet(#[from] FleetError),
}

/// A transaction did not happen; after [`CommitError::Store`] its outcome is unknown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A compare did not hold.
    #[error("{key} was expected {expected} and is {}", found_text(*.found))]
    Conflict {
        /// The first key whose compare did not hold.
        key: Key,
        /// The state that the transaction required.
        expected: Expected,
        /// The revision that put it last; `None` when it is absent.
        found: Option<Revision>,
    },
    /// It is larger than every store can hold.
    #[error(
        "a transaction of {operations} operations and {bytes} bytes is too large: \
         the store takes {MAX_OPERATIONS} operations and {MAX_TRANSACTION_BYTES} bytes"
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
    #[error("the state directory {} is in use by another agent{}", directory.display(), pid_text(*.pid))]
    AlreadyOpen {
        /// The state directory.
        directory: PathBuf,
        /// The other agent's process id, when it could be read.
        pid: Option<u32>,
    },
    /// The state file was damaged, and has been moved aside.
    #[error("the state file {} is corrupt ({detail}), and was moved to {}", path.display(), kept_as.display())]
    Corrupt {
        /// Where it was.
        path: PathBuf,
        /// Where it is now.
        kept_as: PathBuf,
        /// The damage.
        detail: String,
    },
    /// The state file was written by a newer privnet. It was not touched.
    #[error(
        "the state file {} has schema version {found}, and this privnet knows versions up to {supported}",
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
    #[error("the etcd endpoint {url} is invalid ({reason})")]
    Endpoint {
        /// The URL.
        url: String,
        /// Why it is invalid.
        reason: String,
    },
    /// The disk refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Disk {
        /// The operation that failed, for example `create`.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the disk, or of the library above it.
        source: io::Error,
    },
}

fn found_text(revision: Option<Revision>) -> String {
    revision.map_or_else(|| "absent".to_owned(), |revision| format!("at revision {revision}"))
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

impl Explain for StoreError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Unanswered { .. } => ErrorCode::OutcomeUnknown,
            Self::Disk { .. } | Self::Cluster { .. } | Self::Closed | Self::LeaseNotFound(_) => {
                ErrorCode::StoreUnavailable
            }
            Self::Fleet(error) => error.code(),
        }
    }

    fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Disk { path, source, .. } => disk_remedy(path, source),
            Self::Cluster { detail, .. } if detail.contains("database space exceeded") => {
                "etcd is full and takes no change: compact and defragment it, or raise its --quota-backend-bytes, then \
                 `etcdctl alarm disarm`"
                    .to_owned()
            }
            Self::Cluster { detail, .. } if UNKNOWN_USER.iter().any(|said| detail.contains(said)) => {
                KNOWN_USER.to_owned()
            }
            Self::Cluster { .. } => {
                "see that the etcd cluster runs, has a majority, and can be reached from this host".to_owned()
            }
            Self::Unanswered { .. } => {
                "when `privnet status` shows no problem of the store, see `privnet members` and `privnet network list`; \
                 repeating an attach or a detach is harmless"
                    .to_owned()
            }
            Self::Closed => "start the agent again".to_owned(),
            Self::LeaseNotFound(_) => "try again in a moment: the agent takes a new lease".to_owned(),
            Self::Fleet(error) => return error.remedy(),
        })
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let disk = |errno| Self::Disk {
            operation: "write",
            path: "/var/lib/privnet/store.redb".into(),
            source: Arc::new(io::Error::from_raw_os_error(errno)),
        };
        rows![
            Self::Disk { .. } => disk(28), StoreUnavailable,
                "cannot write the state file /var/lib/privnet/store.redb: No space left on device (os error 28)",
                "the disk is full: free space on the file system of /var/lib/privnet/store.redb \
                 (`df -h` and `df -i` show how full it is)";
            Self::Disk { .. } => disk(122), StoreUnavailable,
                "cannot write the state file /var/lib/privnet/store.redb: Disk quota exceeded (os error 122)",
                "the disk quota is used up: free space on the file system of /var/lib/privnet/store.redb, or raise the quota";
            Self::Disk { .. } => disk(30), StoreUnavailable,
                "cannot write the state file /var/lib/privnet/store.redb: Read-only file system (os error 30)",
                "the file system of /var/lib/privnet/store.redb is read-only: `dmesg` may say why; \
                 repair it and mount it writable";
            Self::Disk { .. } => disk(5), StoreUnavailable,
                "cannot write the state file /var/lib/privnet/store.redb: Input/output error (os error 5)",
                "see what the kernel says of this disk (`dmesg`); the file is used again as soon as the disk allows it";
            Self::Cluster { .. } => Self::Cluster {
                    operation: "list",
                    detail: "http://192.0.2.1:2379: connection refused".to_owned(),
                }, StoreUnavailable,
                "cannot list in etcd (http://192.0.2.1:2379: connection refused)",
                "see that the etcd cluster runs, has a majority, and can be reached from this host";
            Self::Cluster { .. } => Self::Cluster {
                    operation: "commit",
                    detail: "http://192.0.2.1:2379: etcdserver: mvcc: database space exceeded".to_owned(),
                }, StoreUnavailable,
                "cannot commit in etcd (http://192.0.2.1:2379: etcdserver: mvcc: database space exceeded)",
                "etcd is full and takes no change: compact and defragment it, or raise its --quota-backend-bytes, then \
                 `etcdctl alarm disarm`";
            Self::Cluster { .. } => Self::Cluster {
                    operation: "list",
                    detail: "http://192.0.2.1:2379: etcdserver: user name is empty".to_owned(),
                }, StoreUnavailable,
                "cannot list in etcd (http://192.0.2.1:2379: etcdserver: user name is empty)",
                KNOWN_USER;
            Self::Unanswered { .. } => Self::Unanswered {
                    detail: "http://192.0.2.1:2379: no answer within 1.8 s".to_owned(),
                }, OutcomeUnknown,
                "it is not known whether the change happened: etcd did not answer \
                 (http://192.0.2.1:2379: no answer within 1.8 s)",
                "when `privnet status` shows no problem of the store, see `privnet members` and `privnet network list`; \
                 repeating an attach or a detach is harmless";
            Self::Closed => Self::Closed, StoreUnavailable, "the store is closed", "start the agent again";
            Self::LeaseNotFound(_) => Self::LeaseNotFound(LeaseId(7)), StoreUnavailable,
                "lease 7 has expired or was revoked", "try again in a moment: the agent takes a new lease";
            Self::Fleet(_) => FleetError::NoRecord { fleet: FleetId::from_uuid(uuid::Uuid::nil()) }.into(), StoreUnavailable,
                "the store has no record of fleet fl-00000000-0000-0000-0000-000000000000: it is another store, or lost its data",
                super::fleet_error::RIGHT_STORE;
        ]
    }
}

impl Explain for CommitError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Store(error) => error.code(),
            Self::Conflict { .. } | Self::TooLarge { .. } => ErrorCode::StoreUnavailable,
        }
    }

    fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Conflict { .. } => "another host changed the record at the same time: try again".to_owned(),
            Self::TooLarge { .. } => "report it as a fault of privnet, with the agent's log".to_owned(),
            Self::Store(error) => return error.remedy(),
        })
    }

    fn can_retry(&self) -> bool {
        !matches!(self, Self::TooLarge { .. })
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let key: Key = "networks/a".parse().expect("a key");
        rows![
            Self::Conflict { .. } => Self::Conflict { key, expected: Expected::Absent, found: Some(Revision(3)) }, StoreUnavailable,
                "networks/a was expected absent and is at revision 3",
                "another host changed the record at the same time: try again";
            Self::TooLarge { .. } => Self::TooLarge { operations: 200, bytes: 10 }, StoreUnavailable,
                "a transaction of 200 operations and 10 bytes is too large: the store takes 128 operations and 1048576 bytes",
                "report it as a fault of privnet, with the agent's log";
            Self::Store(_) => Self::Store(StoreError::Closed), StoreUnavailable, "the store is closed", "start the agent again";
        ]
    }
}

impl Explain for OpenError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::AlreadyOpen { .. } => ErrorCode::InvalidArgument,
            Self::Corrupt { .. } | Self::NewerSchema { .. } | Self::Endpoint { .. } | Self::Disk { .. } => {
                ErrorCode::StoreUnavailable
            }
        }
    }

    fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::AlreadyOpen { .. } => "stop that agent, or give this one another --state-dir".to_owned(),
            Self::Corrupt { .. } => {
                "put a good copy in its place, or start again to begin with an empty state".to_owned()
            }
            Self::NewerSchema { .. } => {
                "start the newer privnet again, or give this one another --state-dir".to_owned()
            }
            Self::Endpoint { .. } => "see `privnet agent --help` for --etcd-endpoints and --etcd-ca".to_owned(),
            Self::Disk { path, source, .. } => disk_remedy(path, source),
        })
    }

    fn can_retry(&self) -> bool {
        false
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let path = || PathBuf::from("/s/store.redb");
        let disk =
            |errno| Self::Disk { operation: "create", path: path(), source: io::Error::from_raw_os_error(errno) };
        rows![
            Self::AlreadyOpen { .. } => Self::AlreadyOpen { directory: "/s".into(), pid: Some(17) }, InvalidArgument,
                "the state directory /s is in use by another agent (process 17)",
                "stop that agent, or give this one another --state-dir";
            Self::AlreadyOpen { .. } => Self::AlreadyOpen { directory: "/s".into(), pid: None }, InvalidArgument,
                "the state directory /s is in use by another agent", "stop that agent, or give this one another --state-dir";
            Self::Corrupt { .. } => Self::Corrupt {
                    path: path(),
                    kept_as: "/s/store.redb.corrupt-1".into(),
                    detail: "it is empty".to_owned(),
                }, StoreUnavailable,
                "the state file /s/store.redb is corrupt (it is empty), and was moved to /s/store.redb.corrupt-1",
                "put a good copy in its place, or start again to begin with an empty state";
            Self::NewerSchema { .. } => Self::NewerSchema { path: path(), found: 2, supported: 1 }, StoreUnavailable,
                "the state file /s/store.redb has schema version 2, and this privnet knows versions up to 1",
                "start the newer privnet again, or give this one another --state-dir";
            Self::Endpoint { .. } => Self::Endpoint { url: "ftp://a".to_owned(), reason: "no such scheme".to_owned() }, StoreUnavailable,
                "the etcd endpoint ftp://a is invalid (no such scheme)",
                "see `privnet agent --help` for --etcd-endpoints and --etcd-ca";
            Self::Disk { .. } => disk(28), StoreUnavailable, "cannot create /s/store.redb: No space left on device (os error 28)",
                "the disk is full: free space on the file system of /s/store.redb (`df -h` and `df -i` show how full it is)";
            Self::Disk { .. } => disk(5), StoreUnavailable, "cannot create /s/store.redb: Input/output error (os error 5)",
                "see what the kernel says of this disk (`dmesg`); the file is used again as soon as the disk allows it";
        ]
    }
}

fn disk_remedy(path: &Path, source: &io::Error) -> String {
    file_system_remedy(source, &path.display().to_string()).unwrap_or_else(|| {
        "see what the kernel says of this disk (`dmesg`); the file is used again as soon as the disk allows it"
            .to_owned()
    })
}
