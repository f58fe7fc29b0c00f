//! What can go wrong at rtnetlink. Never acts.

use rustix::io::Errno;

use crate::netns::{self, NetnsId};

/// A request that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {op} {object} in {netns}: {errno}{}", ack.as_ref().map(|ack| format!(" ({ack})")).unwrap_or_default())]
pub struct Refusal {
    /// What was tried, a verb: "create".
    pub op: &'static str,
    /// On which object: "vxlan vxlan0".
    pub object: String,
    /// The namespace of the netlink socket that asked.
    pub netns: NetnsId,
    /// The kernel's error number.
    pub errno: Errno,
    /// The kernel's own words, its extended acknowledgement, where it gave any.
    pub ack: Option<String>,
}

/// Why an observation or an operation failed. The kernel carries out a request wholly or not at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The link, address, route or entry does not exist (`ENODEV`, `ENOENT`, `ESRCH`, `EADDRNOTAVAIL`).
    #[error(transparent)]
    NotFound(Box<Refusal>),
    /// The name, address, route, entry or VNI is taken (`EEXIST`).
    #[error(transparent)]
    AlreadyExists(Box<Refusal>),
    /// Something else uses it (`EBUSY`).
    #[error(transparent)]
    Busy(Box<Refusal>),
    /// A UDP port that a link needs is taken (`EADDRINUSE`): a VXLAN link says so when it is set up, not when it is
    /// created. [`super::udp_port_holder`] finds out by whom.
    #[error(transparent)]
    PortInUse(Box<Refusal>),
    /// The kernel has no such kind of link, or lacks an option (`EOPNOTSUPP`).
    #[error(transparent)]
    Unsupported(Box<Refusal>),
    /// The process lacks `CAP_NET_ADMIN` (`EPERM`, `EACCES`).
    #[error(transparent)]
    NotPermitted(Box<Refusal>),
    /// Any other refusal.
    #[error(transparent)]
    Kernel(Box<Refusal>),
    /// An observation that is not whole: nothing may be concluded from it.
    #[error("cannot observe {what} in {netns}: {reason}")]
    Incomplete {
        /// What was being observed.
        what: &'static str,
        /// Where.
        netns: NetnsId,
        /// What is missing.
        reason: String,
    },
    /// No answer came: the netlink socket was closed, or the kernel was silent for longer than a bound. Whether the
    /// request was carried out is unknown; observe.
    #[error("no answer to: {op} {object} in {netns}")]
    NoAnswer {
        /// What was tried.
        op: &'static str,
        /// On which object.
        object: String,
        /// Where.
        netns: NetnsId,
    },
    /// The socket could not be opened.
    #[error("cannot open a netlink socket in {netns}")]
    Socket {
        /// Where.
        netns: NetnsId,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The namespace's thread failed.
    #[error(transparent)]
    Netns(#[from] netns::Error),
}

impl Error {
    /// Sorts a refusal by its error number.
    pub(super) fn refused(refusal: Refusal) -> Self {
        let sort = match refusal.errno {
            Errno::NODEV | Errno::NOENT | Errno::SRCH | Errno::ADDRNOTAVAIL => Self::NotFound,
            Errno::EXIST => Self::AlreadyExists,
            Errno::BUSY => Self::Busy,
            Errno::ADDRINUSE => Self::PortInUse,
            Errno::OPNOTSUPP => Self::Unsupported,
            Errno::PERM | Errno::ACCESS => Self::NotPermitted,
            _ => Self::Kernel,
        };
        sort(Box::new(refusal))
    }

    /// The kernel's refusal, when it is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::NotFound(refusal)
            | Self::AlreadyExists(refusal)
            | Self::Busy(refusal)
            | Self::PortInUse(refusal)
            | Self::Unsupported(refusal)
            | Self::NotPermitted(refusal)
            | Self::Kernel(refusal) => Some(refusal),
            Self::Incomplete { .. } | Self::NoAnswer { .. } | Self::Socket { .. } | Self::Netns(_) => None,
        }
    }
}

/// Absence as an answer: for operations after which a thing must not exist.
pub trait AbsentIsDone {
    /// Turns [`Error::NotFound`] into `Ok(false)`, success into `Ok(true)`.
    ///
    /// # Errors
    /// Every other error.
    fn absent_is_done(self) -> Result<bool, Error>;
}

impl AbsentIsDone for Result<(), Error> {
    fn absent_is_done(self) -> Result<bool, Error> {
        match self {
            Ok(()) => Ok(true),
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
