//! The door to WireGuard: the kernel's, and the userspace one, which is a process per member.
//!
//! Owns every message to a WireGuard device. Observes whole or fails, changes only what differs, and never takes an
//! address away from a peer that holds it. Never creates the kernel's link (the link door does), never gives the
//! userspace link its address, MTU or alias (the link door does), and never falls back to clear text: without
//! WireGuard there is no device. A private key comes out to an agent that has lost its file, and never in an error.

mod app;
mod carrier;
mod change;
mod datagrams;
mod early;
mod error;
mod forward;
#[cfg(test)]
mod hostile;
mod kernel;
mod offload;
mod predecessor;
mod process;
mod protocol;
mod tun;
mod tunnels;
mod userspace;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{IfName, PrivateKey, PublicKey};
use crate::netns::Netns;

pub use change::SESSION;
pub use error::Error;
pub use kernel::kernel_support;
pub use offload::{OffloadChoice, super_packet_bytes};
pub use process::serve_userspace;
pub use protocol::WireGuard;
pub use userspace::{TUN_QUEUE_PACKETS, UserspaceSpec, start_userspace, stop_userspace, userspace_support};

/// What encrypts the packets of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
pub enum Backend {
    /// The kernel's `wireguard` link.
    Kernel,
    /// A process per member behind a TUN link.
    Userspace,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

/// What was asked for with `--wireguard`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The kernel's where it is there, else the userspace one.
    #[default]
    Auto,
    /// The kernel's or nothing.
    Kernel,
    /// The userspace one.
    Userspace,
}

impl Choice {
    /// Which backend it comes to on a host with this support.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the wanted backend, or with `auto` both, are not there.
    pub fn resolve(self, kernel: &Support, userspace: &Support) -> Result<Backend, Error> {
        let (backend, reason, remedy) = match (self, kernel, userspace) {
            (Self::Auto | Self::Kernel, Support::Present, _) => return Ok(Backend::Kernel),
            (Self::Auto | Self::Userspace, _, Support::Present) => return Ok(Backend::Userspace),
            (Self::Kernel, Support::Missing { reason, remedy }, _) => (Backend::Kernel, reason, remedy),
            (Self::Auto | Self::Userspace, _, Support::Missing { reason, remedy }) => {
                (Backend::Userspace, reason, remedy)
            }
        };
        Err(Error::Unsupported { backend, reason: reason.clone(), remedy })
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kernel" => Ok(Self::Kernel),
            "userspace" => Ok(Self::Userspace),
            _ => Err(format!("{text:?} is invalid: expected auto, kernel or userspace")),
        }
    }
}

/// Whether a backend works on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// It does.
    Present,
    /// It does not.
    Missing {
        /// Why, in words for a person.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// Another member, as a peer of this one's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The other member's key.
    pub public_key: PublicKey,
    /// Where its WireGuard socket is on the carrier.
    pub endpoint: SocketAddrV4,
    /// The one address that it may send from and is sent to, as a /32.
    pub allowed_ip: Ipv4Addr,
}

/// A device as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// The public half of its key; `None` before it has one.
    pub public_key: Option<PublicKey>,
    /// The UDP port of its socket, host byte order; 0 before it has one.
    pub listen_port: u16,
    /// The mark on its datagrams; 0 without one. A stranger sets it, and with the kernel's WireGuard only.
    #[serde(skip)]
    pub mark: u32,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, PeerState>,
}

/// A peer as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerState {
    /// Where datagrams for it go.
    pub endpoint: Option<SocketAddr>,
    /// What it may send from and is sent to; exactly one /32 if privnet wrote it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// How long ago the last handshake with it was completed; `None` when there was none.
    pub last_handshake_age: Option<Duration>,
    /// What was received from it, in bytes.
    pub rx_bytes: u64,
    /// What was sent to it, in bytes.
    pub tx_bytes: u64,
    /// Whether it has a preshared key or a keepalive that privnet did not set. With the kernel's WireGuard only.
    #[serde(skip)]
    pub is_altered: bool,
}

/// Which peers a device is to gain or lose; all others stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerChange {
    /// To be there, with exactly this endpoint and address. One that is there already is not touched.
    pub set: Vec<Peer>,
    /// To be gone, before `set` is looked at. One that is gone already is no error.
    pub remove: Vec<PublicKey>,
}

/// A handle to one member's WireGuard device. Holds no state: a fresh handle is as good as an old one.
#[derive(Clone, Debug)]
pub struct Device {
    inner: Inner,
}

#[derive(Clone, Debug)]
enum Inner {
    Kernel { app: Netns, interface: IfName },
    Userspace { run_dir: PathBuf },
}

impl Device {
    /// The kernel's device `interface` in the app netns.
    #[must_use]
    pub const fn kernel(app: Netns, interface: IfName) -> Self {
        Self { inner: Inner::Kernel { app, interface } }
    }

    /// The process whose files are in `run_dir`.
    #[must_use]
    pub fn userspace(run_dir: &Path) -> Self {
        Self { inner: Inner::Userspace { run_dir: run_dir.to_owned() } }
    }

    /// What encrypts this member's packets.
    #[must_use]
    pub const fn backend(&self) -> Backend {
        match &self.inner {
            Inner::Kernel { .. } => Backend::Kernel,
            Inner::Userspace { .. } => Backend::Userspace,
        }
    }

    /// The whole state of the device, or `None` when there is no such link or process.
    ///
    /// # Errors
    /// When it is there and does not answer in full. [`Error::RestartNeeded`] when the process is of a version of privnet
    /// that speaks otherwise: traffic flows, but the agent cannot ask it until it is stopped and started.
    pub async fn observe(&self) -> Result<Option<DeviceState>, Error> {
        match &self.inner {
            Inner::Kernel { app, interface } => kernel::observe(app, interface).await,
            Inner::Userspace { run_dir } => userspace::observe(run_dir).await,
        }
    }

    /// The private key that the device has, for an agent that has lost its file; nothing without a device, or where a process of
    /// a build before does not pass it.
    ///
    /// # Errors
    /// When it is there and does not answer.
    pub async fn private_key(&self) -> Result<Option<PrivateKey>, Error> {
        match &self.inner {
            Inner::Kernel { app, interface } => kernel::private_key(app, interface).await,
            Inner::Userspace { run_dir } => userspace::private_key(run_dir).await,
        }
    }

    /// Gives the device its key and port; does nothing when it has them.
    ///
    /// # Errors
    /// [`Error::Absent`] without a device. [`Error::RestartNeeded`] when a userspace process has another key or port:
    /// it has both for life. After an error the device is as it was.
    pub async fn configure(&self, key: &PrivateKey, listen_port: u16) -> Result<(), Error> {
        match &self.inner {
            Inner::Kernel { app, interface } => kernel::configure(app, interface, key, listen_port).await,
            Inner::Userspace { run_dir } => userspace::configure(run_dir, key.public_key(), listen_port).await,
        }
    }

    /// Begins a session with each of these peers, unless there is one; passes over those that are not there. The device is
    /// up. Does not wait for the peers.
    ///
    /// # Errors
    /// [`Error::Absent`] without a device. A process of a build before this one refuses.
    pub async fn begin_sessions(&self, peers: &[PublicKey]) -> Result<(), Error> {
        match &self.inner {
            Inner::Kernel { app, interface } => kernel::begin_sessions(app, interface, peers).await,
            Inner::Userspace { run_dir } => userspace::begin_sessions(run_dir, peers).await,
        }
    }

    /// Takes the mark off the device's datagrams.
    ///
    /// # Errors
    /// [`Error::Absent`] without a device.
    pub async fn clear_mark(&self) -> Result<(), Error> {
        match &self.inner {
            Inner::Kernel { app, interface } => kernel::clear_mark(app, interface).await,
            Inner::Userspace { .. } => Ok(()),
        }
    }

    /// Adds, corrects and removes peers; those that are right already see nothing of it.
    ///
    /// # Errors
    /// [`Error::Absent`] without a device. [`Error::AddressTaken`] when a peer that stays holds a wanted address;
    /// nothing was changed then.
    pub async fn change_peers(&self, change: &PeerChange) -> Result<(), Error> {
        match &self.inner {
            Inner::Kernel { app, interface } => kernel::change_peers(app, interface, change).await,
            Inner::Userspace { run_dir } => userspace::change_peers(run_dir, change).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing() -> Support {
        Support::Missing { reason: "no such family".to_owned(), remedy: "load the module" }
    }

    #[test]
    fn auto_takes_the_kernels_and_else_the_userspace_one() {
        assert_eq!(Choice::Auto.resolve(&Support::Present, &Support::Present).ok(), Some(Backend::Kernel));
        assert_eq!(Choice::Auto.resolve(&missing(), &Support::Present).ok(), Some(Backend::Userspace));
        assert_eq!(Choice::Userspace.resolve(&Support::Present, &Support::Present).ok(), Some(Backend::Userspace));
    }

    #[test]
    fn a_backend_that_is_not_there_is_an_error_and_never_the_other_one() {
        assert_eq!(Choice::Kernel.resolve(&Support::Present, &missing()).ok(), Some(Backend::Kernel));
        let refused = Choice::Kernel.resolve(&missing(), &Support::Present).expect_err("there is none");
        assert!(matches!(refused, Error::Unsupported { backend: Backend::Kernel, .. }), "{refused}");
        assert!(Choice::Userspace.resolve(&Support::Present, &missing()).is_err());
        assert!(Choice::Auto.resolve(&missing(), &missing()).is_err());
    }

    #[test]
    fn a_choice_is_one_of_three_words() {
        assert_eq!("kernel".parse(), Ok(Choice::Kernel));
        assert!("Kernel".parse::<Choice>().is_err());
    }
}
