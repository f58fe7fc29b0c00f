//! What can go wrong with WireGuard. Never carries the text of an error that could hold a key.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::Backend;
use crate::companion::{self, LivenessError};
use crate::model::explain::file_system_remedy;
#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain, PublicKey};
use crate::netns;

/// Why WireGuard did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The link or the process is not there.
    #[error("there is no WireGuard device {device}")]
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
    /// A userspace process has its key and port from its start.
    #[error("the WireGuard process in {run_dir} must be started again to change its {what}", run_dir = run_dir.display())]
    RestartNeeded {
        /// Its directory.
        run_dir: PathBuf,
        /// What differs: "private key" or "port".
        what: &'static str,
    },
    /// This host cannot do it.
    #[error("{backend} WireGuard is not available: {reason}")]
    Unsupported {
        /// Which.
        backend: Backend,
        /// Why.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The process of a userspace device cannot be started or ended, or did not do what it was asked to.
    #[error(transparent)]
    Companion(#[from] companion::Error),
    /// The container cannot be watched.
    #[error(transparent)]
    Liveness(#[from] LivenessError),
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
            Self::Unsupported { .. } => ErrorCode::Unsupported,
            Self::Netns(error) => error.code(),
            Self::Liveness(error) => error.code(),
            Self::Companion(error) => error.code(),
            Self::Absent { .. }
            | Self::NotWireGuard { .. }
            | Self::AddressTaken { .. }
            | Self::RestartNeeded { .. }
            | Self::Kernel { .. } => ErrorCode::Internal,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Unsupported { remedy, .. } => Some((*remedy).to_owned()),
            Self::NotWireGuard { device } => {
                Some(format!("delete or rename the link {device} in the container, or detach the container"))
            }
            Self::RestartNeeded { .. } => Some("detach the container and attach it again".to_owned()),
            Self::Netns(error) => error.remedy(),
            Self::Liveness(error) => error.remedy(),
            Self::Companion(error) => error.remedy(),
            Self::Kernel { object, source, .. } => file_system_remedy(source, object),
            Self::Absent { .. } | Self::AddressTaken { .. } => None,
        }
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let run_dir = || PathBuf::from("/run/privnet/wg");
        let key = |byte| crate::model::PrivateKey::from_random([byte; 32]).public_key();
        let gone = || netns::Error::NotFound { object: "/run/netns/a".to_owned() };
        let restart = "the container may have ended: start it again";
        rows![
            Self::Absent { .. } => Self::Absent { device: "wg0".to_owned() }, Internal,
                "there is no WireGuard device wg0", "";
            Self::NotWireGuard { .. } => Self::NotWireGuard { device: "wg0".to_owned() }, Internal,
                "wg0 is a link of another kind, not a WireGuard device",
                "delete or rename the link wg0 in the container, or detach the container";
            Self::AddressTaken { .. } => Self::AddressTaken {
                    device: "wg0".to_owned(),
                    address: Ipv4Addr::new(10, 240, 0, 2),
                    holder: key(1),
                    wanted: key(2),
                }, Internal,
                "peer zo060cy2M+x7cMF4FKXHbs0CloUFDTRHRboFhw5YfVk= of WireGuard device wg0 cannot have 10.240.0.2: \
                 peer pOCSkrZRwni5dyxWn1+puxPZBrRqtoyd+dwrRAn4ogk= has it", "";
            Self::RestartNeeded { .. } => Self::RestartNeeded { run_dir: run_dir(), what: "port" }, Internal,
                "the WireGuard process in /run/privnet/wg must be started again to change its port",
                "detach the container and attach it again";
            Self::Unsupported { .. } => Self::Unsupported {
                    backend: Backend::Kernel,
                    reason: "no such family".to_owned(),
                    remedy: "load the module with `modprobe wireguard`",
                }, Unsupported,
                "kernel WireGuard is not available: no such family", "load the module with `modprobe wireguard`";
            Self::Companion(_) => Self::Companion(companion::Error {
                    process: "the WireGuard process",
                    run_dir: run_dir(),
                    cause: companion::Cause::AlreadyRunning { pid: 17 },
                }), Internal,
                "the WireGuard process in /run/privnet/wg runs already, with pid 17", "";
            Self::Liveness(_) => Self::Liveness(LivenessError::Netns(gone())), NetnsNotFound, "/run/netns/a does not exist", restart;
            Self::Netns(_) => Self::Netns(gone()), NetnsNotFound, "/run/netns/a does not exist", restart;
            Self::Kernel { .. } => Self::io("write", "/run/privnet/wg/log")(io::Error::from(io::ErrorKind::StorageFull)), Internal,
                "cannot write /run/privnet/wg/log",
                "the disk is full: free space on the file system of /run/privnet/wg/log (`df -h` and `df -i` show how full it is)";
        ]
    }
}

impl Error {
    /// Whether the device is there and cannot be worked with, so that only a new one in its place helps.
    #[must_use]
    pub const fn needs_new_device(&self) -> bool {
        match self {
            Self::RestartNeeded { .. } | Self::NotWireGuard { .. } => true,
            Self::Companion(error) => error.needs_restart(),
            Self::Absent { .. }
            | Self::AddressTaken { .. }
            | Self::Unsupported { .. }
            | Self::Liveness(_)
            | Self::Netns(_)
            | Self::Kernel { .. } => false,
        }
    }

    /// A closure for `map_err`: the failure of `op` on `object`.
    pub(super) fn io<E: Into<io::Error>>(op: &'static str, object: impl Into<String>) -> impl FnOnce(E) -> Self {
        let object = object.into();
        move |source| Self::Kernel { op, object, source: source.into() }
    }
}
