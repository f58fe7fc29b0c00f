//! What can go wrong at the door to the DNS process.

use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;

use super::protocol::VERSION;
use crate::companion::AnchorError;
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

impl Error {
    /// A closure for `map_err`: the failure of `op` on `object`.
    pub(super) fn io<E: Into<io::Error>>(op: &'static str, object: impl Into<String>) -> impl FnOnce(E) -> Self {
        let object = object.into();
        move |source| Self::Kernel { op, object, source: source.into() }
    }
}
