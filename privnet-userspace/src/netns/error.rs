//! What can go wrong with a namespace. Never acts.

use std::io;
use std::path::PathBuf;

use super::NetnsId;

/// Why an operation on a namespace failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is there, or the process whose namespace it was has ended.
    #[error("{object} does not exist")]
    NotFound {
        /// The path, or the kernel setting.
        object: String,
    },
    /// Something is there that is no network namespace.
    #[error("{path} is not a network namespace: it is {found}", path = path.display())]
    NotANamespace {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// The name is taken.
    #[error("{path} exists already", path = path.display())]
    AlreadyExists {
        /// Where.
        path: PathBuf,
    },
    /// Something that must go first is there still.
    #[error("{path} is in use by {holder}", path = path.display())]
    Busy {
        /// Where.
        path: PathBuf,
        /// By what.
        holder: String,
    },
    /// A name that cannot be a file name, or a kernel setting outside `net/`.
    #[error("{what} {value:?} is invalid: {expected}")]
    Invalid {
        /// The noun.
        what: &'static str,
        /// The offending value.
        value: String,
        /// What a valid one looks like.
        expected: &'static str,
    },
    /// The process may not do this; root with `CAP_SYS_ADMIN` may.
    #[error("cannot {op} {object}: not permitted (needs root: CAP_SYS_ADMIN and CAP_NET_ADMIN)")]
    NotPermitted {
        /// What was tried.
        op: &'static str,
        /// On which object.
        object: String,
    },
    /// A closure panicked on the namespace's thread, which goes on.
    #[error("a task in network namespace {} panicked: {message}", netns.map_or_else(|| "(new)".to_owned(), |id| id.to_string()))]
    Panicked {
        /// Where; `None` while it was being entered.
        netns: Option<NetnsId>,
        /// What the panic said.
        message: String,
    },
    /// The namespace's thread is gone. It ends only with the last handle, so this is a bug.
    #[error("the thread of network namespace {netns} has ended")]
    ThreadEnded {
        /// Whose.
        netns: NetnsId,
    },
    /// Namespaces of a whole process cannot be left by one of several threads.
    #[error("cannot enter new namespaces: the process has {threads} threads, must have 1")]
    NotSingleThreaded {
        /// How many there are.
        threads: usize,
    },
    /// Everything else that the kernel refused.
    #[error("cannot {op} {object}")]
    Kernel {
        /// What was tried.
        op: &'static str,
        /// On which object.
        object: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl Error {
    /// Sorts a failure of `op` on `object` by its errno.
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
