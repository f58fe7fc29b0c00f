//! Errors of rtnetlink. Never acts.

use rustix::io::Errno;

#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain};
use crate::netns::{self, NetnsId};

/// A request that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {op} {object} in {netns}: {errno}{}", ack.as_ref().map(|ack| format!(" ({ack})")).unwrap_or_default())]
pub struct Refusal {
    /// The operation, a verb: "create".
    pub op: &'static str,
    /// The object: "vxlan vxlan0".
    pub object: String,
    /// The namespace of the netlink socket.
    pub netns: NetnsId,
    /// The kernel's error number.
    pub errno: Errno,
    /// The kernel's message, from its extended acknowledgement, if any.
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
    /// The object is in use (`EBUSY`).
    #[error(transparent)]
    Busy(Box<Refusal>),
    /// The UDP port of a link is taken (`EADDRINUSE`). A VXLAN link opens its port when it is set up, not when it is
    /// created. [`super::udp_port_holder`] finds the holder.
    #[error(transparent)]
    PortInUse(Box<Refusal>),
    /// The kernel lacks the kind of link, or an option (`EOPNOTSUPP`).
    #[error(transparent)]
    Unsupported(Box<Refusal>),
    /// The process lacks `CAP_NET_ADMIN` (`EPERM`, `EACCES`).
    #[error(transparent)]
    NotPermitted(Box<Refusal>),
    /// Any other refusal.
    #[error(transparent)]
    Kernel(Box<Refusal>),
    /// An observation is not complete, so it tells nothing.
    #[error("cannot observe {what} in {netns}: {reason}")]
    Incomplete {
        /// The observed objects.
        what: &'static str,
        /// The namespace.
        netns: NetnsId,
        /// The reason.
        reason: String,
    },
    /// No answer came: the netlink socket was closed, or the kernel did not answer within a bound. The kernel may have
    /// carried the request out: an observation tells.
    #[error("the kernel did not answer the request to {op} {object} in {netns}")]
    NoAnswer {
        /// The operation, a verb.
        op: &'static str,
        /// The object.
        object: String,
        /// The namespace.
        netns: NetnsId,
    },
    /// The socket could not be opened.
    #[error("cannot open a netlink socket in {netns}")]
    Socket {
        /// The namespace.
        netns: NetnsId,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The namespace's thread failed.
    #[error(transparent)]
    Netns(#[from] netns::Error),
}

impl Explain for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::PortInUse(_) => ErrorCode::VtepConflict,
            Self::AlreadyExists(refusal) if refusal.object.contains("vxlan") => ErrorCode::VtepConflict,
            Self::Unsupported(_) => ErrorCode::Unsupported,
            Self::NotPermitted(_) => ErrorCode::PermissionDenied,
            Self::Netns(error) => error.code(),
            Self::NotFound(_)
            | Self::AlreadyExists(_)
            | Self::Busy(_)
            | Self::Kernel(_)
            | Self::Incomplete { .. }
            | Self::NoAnswer { .. }
            | Self::Socket { .. } => ErrorCode::Internal,
        }
    }

    fn remedy(&self) -> Option<String> {
        Some(
            match self {
                Self::PortInUse(_) => {
                    "another program has the port on this host, `ss -lunp` shows it: stop it or give it another port"
                }
                Self::AlreadyExists(refusal) if refusal.object.contains("vxlan") => {
                    "another VXLAN device on this host has this VNI, `ip -d link show type vxlan` shows it: delete it, or \
                     the network"
                }
                Self::Unsupported(refusal) if refusal.object.contains("wireguard") => {
                    "the kernel has no WireGuard: load it with `modprobe wireguard`, or run the agent with --wireguard \
                     userspace"
                }
                Self::Unsupported(_) => "`privnet doctor` shows what the kernel lacks",
                Self::NotPermitted(_) => "run the agent as root",
                Self::Netns(error) => return error.remedy(),
                Self::NotFound(_)
                | Self::AlreadyExists(_)
                | Self::Busy(_)
                | Self::Kernel(_)
                | Self::Incomplete { .. }
                | Self::NoAnswer { .. }
                | Self::Socket { .. } => return None,
            }
            .to_owned(),
        )
    }

    fn can_retry(&self) -> bool {
        match self {
            Self::Busy(_) | Self::Incomplete { .. } | Self::NoAnswer { .. } => true,
            Self::Netns(error) => error.can_retry(),
            Self::NotFound(_)
            | Self::AlreadyExists(_)
            | Self::PortInUse(_)
            | Self::Unsupported(_)
            | Self::NotPermitted(_)
            | Self::Kernel(_)
            | Self::Socket { .. } => false,
        }
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let netns = NetnsId { dev: 4, ino: 4_026_532_000 };
        let refused = |object: &str, errno| {
            let object = object.to_owned();
            Self::refused(Refusal { op: "create", object, netns, errno, ack: None })
        };
        let words = Refusal {
            op: "set",
            object: "mtu of wg0".to_owned(),
            netns,
            errno: Errno::INVAL,
            ack: Some("mtu too large".to_owned()),
        };
        rows![
            Self::NotFound(_) => refused("address 10.240.0.2/32", Errno::NODEV), Internal,
                "cannot create address 10.240.0.2/32 in net:[4026532000]: No such device (os error 19)", "";
            Self::AlreadyExists(_) => refused("wireguard wg0", Errno::EXIST), Internal,
                "cannot create wireguard wg0 in net:[4026532000]: File exists (os error 17)", "";
            Self::AlreadyExists(_) => refused("vxlan vxlan0", Errno::EXIST), VtepConflict,
                "cannot create vxlan vxlan0 in net:[4026532000]: File exists (os error 17)",
                "another VXLAN device on this host has this VNI, `ip -d link show type vxlan` shows it: delete it, or the network";
            Self::Busy(_) => refused("veth a", Errno::BUSY), Internal,
                "cannot create veth a in net:[4026532000]: Device or resource busy (os error 16)", "";
            Self::PortInUse(_) => refused("vxlan vxlan0", Errno::ADDRINUSE), VtepConflict,
                "cannot create vxlan vxlan0 in net:[4026532000]: Address already in use (os error 98)",
                "another program has the port on this host, `ss -lunp` shows it: stop it or give it another port";
            Self::Unsupported(_) => refused("wireguard wg0", Errno::OPNOTSUPP), Unsupported,
                "cannot create wireguard wg0 in net:[4026532000]: Operation not supported (os error 95)",
                "the kernel has no WireGuard: load it with `modprobe wireguard`, or run the agent with --wireguard userspace";
            Self::Unsupported(_) => refused("bridge br0", Errno::OPNOTSUPP), Unsupported,
                "cannot create bridge br0 in net:[4026532000]: Operation not supported (os error 95)",
                "`privnet doctor` shows what the kernel lacks";
            Self::NotPermitted(_) => refused("veth a", Errno::PERM), PermissionDenied,
                "cannot create veth a in net:[4026532000]: Operation not permitted (os error 1)", "run the agent as root";
            Self::Kernel(_) => Self::refused(words), Internal,
                "cannot set mtu of wg0 in net:[4026532000]: Invalid argument (os error 22) (mtu too large)", "";
            Self::Incomplete { .. } => Self::Incomplete { what: "links", netns, reason: "one has no name".to_owned() }, Internal,
                "cannot observe links in net:[4026532000]: one has no name", "";
            Self::NoAnswer { .. } => Self::NoAnswer { op: "delete", object: "link veth0".to_owned(), netns }, Internal,
                "the kernel did not answer the request to delete link veth0 in net:[4026532000]", "";
            Self::Socket { .. } => Self::Socket { netns, source: Errno::MFILE.into() }, Internal,
                "cannot open a netlink socket in net:[4026532000]", "";
            Self::Netns(_) => Self::Netns(netns::Error::NotFound { object: "/run/netns/a".to_owned() }), NetnsNotFound,
                "/run/netns/a does not exist", "the container may have ended: start it again";
        ]
    }
}

impl Error {
    /// The error for a refusal, by its error number.
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

/// For operations after which an object must not exist: its absence is success.
pub trait AbsentIsDone {
    /// Turns [`Error::NotFound`] into `Ok(false)`, and success into `Ok(true)`.
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
