//! The errors of the DNS process.

use std::io;
use std::net::SocketAddrV4;

use crate::companion::{self, LivenessError};
use crate::model::explain::file_system_remedy;
#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain};
use crate::netns::{self, NetnsId};

/// The DNS process did not carry out a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process does not run, cannot be started or ended, or failed.
    #[error(transparent)]
    Companion(#[from] companion::Error),
    /// The process does not serve the container: the container ended, or was never handed over.
    #[error("container {container} has no DNS here")]
    NotServed {
        /// The container's namespace.
        container: NetnsId,
    },
    /// A program in the container has the address, so the container cannot be served there.
    #[error("{address} is taken in namespace {container}: another DNS server runs in the container")]
    AddressTaken {
        /// The address and port.
        address: SocketAddrV4,
        /// The container's namespace.
        container: NetnsId,
    },
    /// The container cannot be watched.
    #[error(transparent)]
    Liveness(#[from] LivenessError),
    /// A namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// Everything else that the kernel refused.
    #[error("cannot {op} {object}")]
    Kernel {
        /// The operation.
        op: &'static str,
        /// Its object.
        object: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl Explain for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Netns(error) => error.code(),
            Self::Liveness(error) => error.code(),
            Self::Companion(error) => error.code(),
            Self::NotServed { .. } | Self::AddressTaken { .. } | Self::Kernel { .. } => ErrorCode::Internal,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::AddressTaken { .. } => Some(
                "stop the DNS server in the container, or start the agent with another --dns-address, or with \
                 `--dns-address off`"
                    .to_owned(),
            ),
            Self::Netns(error) => error.remedy(),
            Self::Liveness(error) => error.remedy(),
            Self::Companion(error) => error.remedy(),
            Self::Kernel { object, source, .. } => file_system_remedy(source, object),
            Self::NotServed { .. } => None,
        }
    }

    /// The agent starts or replaces the process by itself.
    fn can_retry(&self) -> bool {
        match self {
            Self::Companion(error) => error.can_retry(),
            Self::NotServed { .. } => true,
            Self::AddressTaken { .. } | Self::Liveness(_) | Self::Netns(_) | Self::Kernel { .. } => false,
        }
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let container = NetnsId { dev: 4, ino: 4_026_532_000 };
        let gone = || netns::Error::NotFound { object: "/run/netns/a".to_owned() };
        let restart = "the container may have ended: start it again";
        rows![
            Self::Companion(_) => Self::Companion(companion::Error {
                    process: "the DNS process",
                    run_dir: "/run/privnet/dns".into(),
                    cause: companion::Cause::Absent,
                }), Internal,
                "the DNS process in /run/privnet/dns is not running", "";
            Self::NotServed { .. } => Self::NotServed { container }, Internal,
                "container net:[4026532000] has no DNS here", "";
            Self::AddressTaken { .. } => Self::AddressTaken { address: "127.0.0.82:53".parse().expect("an address"), container }, Internal,
                "127.0.0.82:53 is taken in namespace net:[4026532000]: another DNS server runs in the container",
                "stop the DNS server in the container, or start the agent with another --dns-address, or with `--dns-address off`";
            Self::Liveness(_) => Self::Liveness(LivenessError::Netns(gone())), NetnsNotFound, "/run/netns/a does not exist", restart;
            Self::Netns(_) => Self::Netns(gone()), NetnsNotFound, "/run/netns/a does not exist", restart;
            Self::Kernel { .. } => Self::io("write", "/run/privnet/dns/log")(io::Error::from(io::ErrorKind::StorageFull)), Internal,
                "cannot write /run/privnet/dns/log",
                "the disk is full: free space on the file system of /run/privnet/dns/log (`df -h` and `df -i` show how full it is)";
        ]
    }
}

impl Error {
    /// A closure for `map_err`: the failure of `op` on `object`.
    pub(super) fn io<E: Into<io::Error>>(op: &'static str, object: impl Into<String>) -> impl FnOnce(E) -> Self {
        let object = object.into();
        move |source| Self::Kernel { op, object, source: source.into() }
    }
}
