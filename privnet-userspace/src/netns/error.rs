//! Errors of operations on namespaces. Never acts.

use std::io;
use std::path::PathBuf;

use super::NetnsId;
use crate::model::explain::file_system_remedy;
#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain};

/// Why an operation on a namespace failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path does not exist, or its process has ended.
    #[error("{object} does not exist")]
    NotFound {
        /// The path, or the kernel setting.
        object: String,
    },
    /// The path is not a network namespace.
    #[error("{path} is not a network namespace: it is {found}", path = path.display())]
    NotANamespace {
        /// The path.
        path: PathBuf,
        /// The kind of the file.
        found: String,
    },
    /// A file of that name exists.
    #[error("{path} exists already", path = path.display())]
    AlreadyExists {
        /// The path.
        path: PathBuf,
    },
    /// The path is in use, and its user has to go first.
    #[error("{path} is in use by {holder}", path = path.display())]
    Busy {
        /// The path.
        path: PathBuf,
        /// Its user.
        holder: String,
    },
    /// A name that cannot be a file name, or a kernel setting outside `net/`.
    #[error("{what} {value:?} is invalid")]
    Invalid {
        /// The kind of the value, a noun.
        what: &'static str,
        /// The value.
        value: String,
        /// The form of a valid value.
        expected: &'static str,
    },
    /// The process lacks a capability; root with `CAP_SYS_ADMIN` has it.
    #[error("cannot {op} {object}: not permitted")]
    NotPermitted {
        /// The operation, a verb.
        op: &'static str,
        /// The object of the operation.
        object: String,
    },
    /// A closure panicked on the namespace's thread; the thread goes on.
    #[error("a task in network namespace {} panicked: {message}", netns.map_or_else(|| "that is new".to_owned(), |id| id.to_string()))]
    Panicked {
        /// The namespace; `None` before the thread has entered it.
        netns: Option<NetnsId>,
        /// The message of the panic.
        message: String,
    },
    /// The namespace's thread has ended before its last handle, which is a bug.
    #[error("the thread of network namespace {netns} has ended")]
    ThreadEnded {
        /// The namespace.
        netns: NetnsId,
    },
    /// A process with several threads cannot leave its namespaces as a whole.
    #[error("cannot enter new namespaces: the process has {threads} threads instead of one")]
    NotSingleThreaded {
        /// The number of threads.
        threads: usize,
    },
    /// Any other refusal of the kernel.
    #[error("cannot {op} {object}")]
    Kernel {
        /// The operation, a verb.
        op: &'static str,
        /// The object of the operation.
        object: String,
        /// The kernel's error.
        source: io::Error,
    },
}

impl Explain for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotPermitted { .. } => ErrorCode::PermissionDenied,
            Self::NotFound { .. } => ErrorCode::NetnsNotFound,
            Self::NotANamespace { .. } => ErrorCode::NetnsInvalid,
            Self::AlreadyExists { .. }
            | Self::Busy { .. }
            | Self::Invalid { .. }
            | Self::Panicked { .. }
            | Self::ThreadEnded { .. }
            | Self::NotSingleThreaded { .. }
            | Self::Kernel { .. } => ErrorCode::Internal,
        }
    }

    fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::NotPermitted { .. } => {
                "run it as root, with CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_SYS_PTRACE".to_owned()
            }
            Self::NotFound { .. } => "the container may have ended: start it again".to_owned(),
            Self::NotANamespace { .. } => {
                "give the path of a network namespace, for example /run/netns/NAME or /proc/PID/ns/net".to_owned()
            }
            Self::Invalid { expected, .. } => (*expected).to_owned(),
            Self::Panicked { .. } | Self::ThreadEnded { .. } | Self::NotSingleThreaded { .. } => {
                "report it as a fault of privnet, with the agent's log".to_owned()
            }
            Self::Kernel { object, source, .. } => return file_system_remedy(source, object),
            Self::AlreadyExists { .. } | Self::Busy { .. } => return None,
        })
    }

    fn can_retry(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let netns = NetnsId { dev: 4, ino: 4_026_532_000 };
        let fault = "report it as a fault of privnet, with the agent's log";
        let kernel =
            |errno| Self::Kernel { op: "pin", object: "/run/netns/a".to_owned(), source: io::Error::from(errno) };
        rows![
            Self::NotFound { .. } => Self::NotFound { object: "/run/netns/a".to_owned() }, NetnsNotFound,
                "/run/netns/a does not exist", "the container may have ended: start it again";
            Self::NotANamespace { .. } => Self::NotANamespace { path: "/etc".into(), found: "a directory".to_owned() }, NetnsInvalid,
                "/etc is not a network namespace: it is a directory",
                "give the path of a network namespace, for example /run/netns/NAME or /proc/PID/ns/net";
            Self::AlreadyExists { .. } => Self::AlreadyExists { path: "/run/netns/a".into() }, Internal,
                "/run/netns/a exists already", "";
            Self::Busy { .. } => Self::Busy { path: "/run/netns/a".into(), holder: "a mount".to_owned() }, Internal,
                "/run/netns/a is in use by a mount", "";
            Self::Invalid { .. } => Self::Invalid { what: "setting", value: "x".to_owned(), expected: "expected net/…" }, Internal,
                "setting \"x\" is invalid", "expected net/…";
            Self::NotPermitted { .. } => Self::NotPermitted { op: "enter", object: "/run/netns/a".to_owned() }, PermissionDenied,
                "cannot enter /run/netns/a: not permitted", "run it as root, with CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_SYS_PTRACE";
            Self::Panicked { .. } => Self::Panicked { netns: Some(netns), message: "oh".to_owned() }, Internal,
                "a task in network namespace net:[4026532000] panicked: oh", fault;
            Self::ThreadEnded { .. } => Self::ThreadEnded { netns }, Internal,
                "the thread of network namespace net:[4026532000] has ended", fault;
            Self::NotSingleThreaded { .. } => Self::NotSingleThreaded { threads: 2 }, Internal,
                "cannot enter new namespaces: the process has 2 threads instead of one", fault;
            Self::Kernel { .. } => kernel(io::ErrorKind::Other), Internal, "cannot pin /run/netns/a", "";
            Self::Kernel { .. } => kernel(io::ErrorKind::StorageFull), Internal,
                "cannot pin /run/netns/a",
                "the disk is full: free space on the file system of /run/netns/a (`df -h` and `df -i` show how full it is)";
        ]
    }
}

impl Error {
    /// The error for a failed `op` on `object`, by its error number.
    pub(super) fn io(op: &'static str, object: impl Into<String>, source: io::Error) -> Self {
        use rustix::io::Errno;
        let object = object.into();
        match Errno::from_io_error(&source) {
            // ENXIO and ESRCH: the process behind a path in /proc has ended.
            Some(Errno::NOENT | Errno::NOTDIR | Errno::SRCH | Errno::NXIO) => Self::NotFound { object },
            Some(Errno::PERM | Errno::ACCESS) => Self::NotPermitted { op, object },
            Some(_) | None => Self::Kernel { op, object, source },
        }
    }

    /// As [`Error::io`], for the error type of rustix.
    pub(super) fn errno(op: &'static str, object: impl Into<String>, source: rustix::io::Errno) -> Self {
        Self::io(op, object, source.into())
    }
}
