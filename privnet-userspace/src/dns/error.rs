//! What can go wrong at the door to the DNS process.

use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;

use super::protocol::VERSION;
use crate::companion::AnchorError;
use crate::model::explain::file_system_remedy;
#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain};
use crate::netns::{self, NetnsId};

/// Why the DNS process did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no process.
    #[error("no DNS process runs in {run_dir}", run_dir = run_dir.display())]
    Absent {
        /// Its directory.
        run_dir: PathBuf,
    },
    /// It was started by a version of privnet that speaks otherwise. It answers queries, and is to be replaced.
    #[error("the DNS process in {run_dir} speaks version {version}, this agent {VERSION}", run_dir = run_dir.display())]
    OtherVersion {
        /// Its directory.
        run_dir: PathBuf,
        /// What it speaks.
        version: u32,
    },
    /// It does not serve the container: it ended, or was never handed over.
    #[error("container {container} has no DNS here")]
    NotServed {
        /// The container's namespace.
        container: NetnsId,
    },
    /// Somebody in the container has the address, so it cannot be served there.
    #[error("{address} is taken in namespace {container}: another DNS server runs in the container")]
    AddressTaken {
        /// The address and port.
        address: SocketAddrV4,
        /// The container's namespace.
        container: NetnsId,
    },
    /// It answered with a refusal, or with something that is no answer.
    #[error("the DNS process in {run_dir} {problem}", run_dir = run_dir.display())]
    Process {
        /// Its directory.
        run_dir: PathBuf,
        /// What it did, in words that follow the subject.
        problem: String,
    },
    /// The container cannot be watched.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// A namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] netns::Error),
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

impl Explain for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Netns(error) => error.code(),
            Self::Anchor(error) => error.code(),
            Self::Absent { .. }
            | Self::OtherVersion { .. }
            | Self::NotServed { .. }
            | Self::AddressTaken { .. }
            | Self::Process { .. }
            | Self::Kernel { .. } => ErrorCode::Internal,
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
            Self::Anchor(error) => error.remedy(),
            Self::Kernel { object, source, .. } => file_system_remedy(source, object),
            Self::Absent { .. } | Self::OtherVersion { .. } | Self::NotServed { .. } | Self::Process { .. } => None,
        }
    }

    /// The agent starts or replaces the process by itself.
    fn can_retry(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::OtherVersion { .. } | Self::NotServed { .. })
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let run_dir = || PathBuf::from("/run/privnet/dns");
        let container = NetnsId { dev: 4, ino: 4_026_532_000 };
        let gone = || netns::Error::NotFound { object: "/run/netns/a".to_owned() };
        let restart = "the container may have ended: start it again";
        rows![
            Self::Absent { .. } => Self::Absent { run_dir: run_dir() }, Internal,
                "no DNS process runs in /run/privnet/dns", "";
            Self::OtherVersion { .. } => Self::OtherVersion { run_dir: run_dir(), version: 99 }, Internal,
                concat!("the DNS process in /run/privnet/dns speaks version 99, this agent ", "1"), "";
            Self::NotServed { .. } => Self::NotServed { container }, Internal,
                "container net:[4026532000] has no DNS here", "";
            Self::AddressTaken { .. } => Self::AddressTaken { address: "127.0.0.82:53".parse().expect("an address"), container }, Internal,
                "127.0.0.82:53 is taken in namespace net:[4026532000]: another DNS server runs in the container",
                "stop the DNS server in the container, or start the agent with another --dns-address, or with `--dns-address off`";
            Self::Process { .. } => Self::Process { run_dir: run_dir(), problem: "did not answer".to_owned() }, Internal,
                "the DNS process in /run/privnet/dns did not answer", "";
            Self::Anchor(_) => Self::Anchor(AnchorError::Netns(gone())), NetnsNotFound, "/run/netns/a does not exist", restart;
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
