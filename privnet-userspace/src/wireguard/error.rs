//! What can go wrong at the door to WireGuard. Never carries the text of an error that could hold a key.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::Backend;
use crate::companion::AnchorError;
use crate::model::PublicKey;
use crate::netns;

/// Why WireGuard did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The link or the process is not there.
    #[error("WireGuard device {device} does not exist")]
    Absent {
        /// The interface, or the directory of the process.
        device: String,
    },
    /// A link of another kind has the device's name.
    #[error("{device} is a link of another kind, not a WireGuard device")]
    NotWireGuard {
        /// The interface.
        device: String,
    },
    /// A peer that stays holds the address. WireGuard itself would move it silently.
    #[error("peer {wanted} of WireGuard device {device} cannot have {address}: peer {holder} has it")]
    AddressTaken {
        /// The interface, or the directory of the process.
        device: String,
        /// The address.
        address: Ipv4Addr,
        /// The peer that has it and keeps it.
        holder: PublicKey,
        /// The peer that should have had it.
        wanted: PublicKey,
    },
    /// A process is there already.
    #[error("a WireGuard process (pid {pid}) runs in {run_dir} already", run_dir = run_dir.display())]
    AlreadyRunning {
        /// Its directory.
        run_dir: PathBuf,
        /// Its process id.
        pid: i32,
    },
    /// A userspace process keeps its key and port for life.
    #[error("the WireGuard process in {run_dir} must be started again to change its {what}", run_dir = run_dir.display())]
    RestartNeeded {
        /// Its directory.
        run_dir: PathBuf,
        /// What differs: "private key", "port" or "protocol version" (it was started by another version of privnet).
        what: &'static str,
    },
    /// This host cannot do it.
    #[error("{backend} WireGuard is not available: {reason}")]
    Unsupported {
        /// Which.
        backend: Backend,
        /// Why, and what to do.
        reason: String,
    },
    /// The process answered with a refusal, or with something that is no answer.
    #[error("the WireGuard process in {run_dir} {problem}", run_dir = run_dir.display())]
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
