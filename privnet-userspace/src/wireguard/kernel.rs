//! The kernel's WireGuard through `wireguard-control`, behind a fence.
//!
//! The fence: every request runs on the app netns's own thread, because the library asks the namespace of the calling
//! thread; the device is read first on that thread, because the library creates a missing one in that namespace; nothing
//! is ever replaced as a whole, because that loses packets; what the library hands out is turned into values of this
//! room before anything can print it, because its `Debug` prints private keys, and so do some of its errors.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use rustix::io::Errno;
use wireguard_control::{Backend, Device, DeviceUpdate, InterfaceName, Key, PeerConfigBuilder, PeerInfo};

use super::change::{Step, steps};
use super::{DeviceState, Error, Peer, PeerChange, PeerState, Support};
use crate::model::{IfName, PrivateKey, PublicKey};
use crate::netns::Netns;

/// Most peers in one request; the library cuts it into messages of 8 KiB.
const PEERS_PER_REQUEST: usize = 64;
/// The keepalive, in seconds, of a peer that something is to be sent to: it is sent the first one when it gets an interval.
const BEGINNING_KEEPALIVE_SECONDS: u16 = u16::MAX;

/// Whether the kernel has WireGuard and lets us use it.
///
/// Asks for a device that cannot exist: a kernel with WireGuard says so (ENODEV), one without does not know the netlink
/// family (ENOENT) even after it tried to load the module, which the question makes it do.
#[must_use]
pub fn kernel_support() -> Support {
    let missing = |reason: String, remedy| Support::Missing { reason, remedy };
    let fault = "report it as a fault of privnet";
    // A name with a '/' is no interface's, but the library refuses it too; "." the kernel alone refuses.
    let name: InterfaceName = match ".".parse() {
        Ok(name) => name,
        Err(_) => return missing("the probe has no valid name".to_owned(), fault),
    };
    match Device::get(&name, Backend::Kernel).map(drop) {
        Ok(()) => Support::Present,
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NODEV) => Support::Present,
            Some(Errno::NOENT) => missing(
                "this kernel has no WireGuard (CONFIG_WIREGUARD)".to_owned(),
                "load the module with `modprobe wireguard`, or use a kernel that has it",
            ),
            Some(Errno::PERM | Errno::ACCESS) => {
                missing("asking the kernel is not permitted".to_owned(), "run it as root (CAP_NET_ADMIN)")
            }
            Some(_) | None => missing(format!("the kernel did not answer: {}", without_text(&error)), fault),
        },
    }
}

pub(super) async fn observe(app: &Netns, interface: &IfName) -> Result<Option<DeviceState>, Error> {
    let interface = interface.clone();
    app.run(move || get(&interface)).await?
}

/// The private key that the device has; nothing without a device.
pub(super) async fn private_key(app: &Netns, interface: &IfName) -> Result<Option<PrivateKey>, Error> {
    let interface = interface.clone();
    app.run(move || match Device::get(&library_name(&interface)?, Backend::Kernel) {
        // Never printed: the library's value goes straight into ours.
        Ok(device) => Ok(device.private_key.map(|key| PrivateKey::from_random(key.0))),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NODEV | Errno::NOENT | Errno::OPNOTSUPP) => Ok(None),
            Some(_) | None => Err(Error::Kernel {
                op: "read",
                object: format!("WireGuard device {interface}"),
                source: without_text(&error),
            }),
        },
    })
    .await?
}

pub(super) async fn configure(
    app: &Netns,
    interface: &IfName,
    key: &PrivateKey,
    listen_port: u16,
) -> Result<(), Error> {
    let (interface, key) = (interface.clone(), key.clone());
    app.run(move || {
        let observed = existing(&interface)?;
        let mut update = Update::new(&interface)?;
        if observed.listen_port != listen_port {
            update = update.with(|update| update.set_listen_port(listen_port));
        }
        if observed.public_key != Some(key.public_key()) {
            update = update.with(|update| update.set_private_key(secret(&key)));
        }
        update.apply()
    })
    .await?
}

pub(super) async fn clear_mark(app: &Netns, interface: &IfName) -> Result<(), Error> {
    let interface = interface.clone();
    app.run(move || match existing(&interface)?.mark {
        0 => Ok(()),
        _ => Update::new(&interface)?.with(DeviceUpdate::unset_fwmark).apply(),
    })
    .await?
}

pub(super) async fn change_peers(app: &Netns, interface: &IfName, change: &PeerChange) -> Result<(), Error> {
    let (interface, change) = (interface.clone(), change.clone());
    app.run(move || {
        let observed = existing(&interface)?;
        let steps = steps(interface.as_str(), &observed, &change)?;
        for request in steps.chunks(PEERS_PER_REQUEST) {
            let update = request.iter().fold(Update::new(&interface)?, |update, step| update.with(|u| add(u, step)));
            update.apply()?;
        }
        begin(&interface, &steps.iter().filter_map(Step::begins_with).collect::<Vec<_>>())
    })
    .await?
}

pub(super) async fn begin_sessions(app: &Netns, interface: &IfName, peers: &[PublicKey]) -> Result<(), Error> {
    let (interface, peers) = (interface.clone(), peers.to_vec());
    app.run(move || {
        // One that is not there would be added.
        let observed = existing(&interface)?;
        let there: Vec<PublicKey> = peers.into_iter().filter(|key| observed.peers.contains_key(key)).collect();
        begin(&interface, &there)
    })
    .await?
}

/// Has the device send something to each of these peers, which are there, so that it begins a session where there is none.
fn begin(interface: &IfName, peers: &[PublicKey]) -> Result<(), Error> {
    for request in peers.chunks(PEERS_PER_REQUEST) {
        // A peer that has a keepalive is sent nothing at once by another one.
        for seconds in [0, BEGINNING_KEEPALIVE_SECONDS, 0] {
            let peer =
                |key: &PublicKey| PeerConfigBuilder::new(&Key(key.bytes())).set_persistent_keepalive_interval(seconds);
            let set = |update: Update, key| update.with(|update| update.add_peer(peer(key)));
            request.iter().fold(Update::new(interface)?, set).apply()?;
        }
    }
    Ok(())
}

/// An update that can be applied but not printed.
struct Update {
    name: InterfaceName,
    interface: IfName,
    inner: DeviceUpdate,
    empty: bool,
}

impl Update {
    fn new(interface: &IfName) -> Result<Self, Error> {
        let (name, interface) = (library_name(interface)?, interface.clone());
        Ok(Self { name, interface, inner: DeviceUpdate::new(), empty: true })
    }

    fn with(self, change: impl FnOnce(DeviceUpdate) -> DeviceUpdate) -> Self {
        Self { inner: change(self.inner), empty: false, ..self }
    }

    /// Sends it; the caller has seen the device on this thread, so that none is created.
    fn apply(self) -> Result<(), Error> {
        if self.empty {
            return Ok(());
        }
        let object = format!("WireGuard device {}", self.interface);
        self.inner.apply(&self.name, Backend::Kernel).map_err(|error| Error::Kernel {
            op: "configure",
            object,
            source: without_text(&error),
        })
    }
}

fn add(update: DeviceUpdate, step: &Step) -> DeviceUpdate {
    match step {
        Step::Remove(key) => update.remove_peer_by_key(&Key(key.bytes())),
        Step::Add(peer) | Step::Resume(peer) => update.add_peer(addition(peer)),
        Step::Endpoint(key, endpoint) => {
            update.add_peer(PeerConfigBuilder::new(&Key(key.bytes())).set_endpoint((*endpoint).into()))
        }
        Step::Restore(key) => {
            let peer = PeerConfigBuilder::new(&Key(key.bytes()));
            update.add_peer(peer.unset_preshared_key().unset_persistent_keepalive())
        }
    }
}

fn addition(peer: &Peer) -> PeerConfigBuilder {
    PeerConfigBuilder::new(&Key(peer.public_key.bytes()))
        .set_endpoint(peer.endpoint.into())
        .add_allowed_ip(IpAddr::V4(peer.allowed_ip), 32)
}

/// The one place where a private key becomes the library's; its value goes straight into an update.
fn secret(key: &PrivateKey) -> Key {
    Key(*key.reveal_bytes())
}

fn existing(interface: &IfName) -> Result<DeviceState, Error> {
    get(interface)?.ok_or_else(|| Error::Absent { device: interface.to_string() })
}

/// The device in the calling thread's namespace; `None` when no interface has that name.
fn get(interface: &IfName) -> Result<Option<DeviceState>, Error> {
    match Device::get(&library_name(interface)?, Backend::Kernel).map(|device| state(&device, SystemTime::now())) {
        Ok(state) => state.map(Some),
        Err(error) => match Errno::from_io_error(&error) {
            // ENOENT: the kernel has no WireGuard.
            Some(Errno::NODEV | Errno::NOENT) => Ok(None),
            Some(Errno::OPNOTSUPP) => Err(Error::NotWireGuard { device: interface.to_string() }),
            Some(_) | None => Err(Error::Kernel {
                op: "read",
                object: format!("WireGuard device {interface}"),
                source: without_text(&error),
            }),
        },
    }
}

/// The device as a value that holds no secret. A peer that spans messages arrives several times; it becomes one.
fn state(device: &Device, now: SystemTime) -> Result<DeviceState, Error> {
    let peers = merge(&device.peers, now)?;
    let public_key = device.public_key.as_ref().map(|key| PublicKey::new(key.0));
    let (listen_port, mark) = (device.listen_port.unwrap_or(0), device.fwmark.unwrap_or(0));
    Ok(DeviceState { public_key, listen_port, mark, peers })
}

fn merge(parts: &[PeerInfo], now: SystemTime) -> Result<BTreeMap<PublicKey, PeerState>, Error> {
    let mut peers: BTreeMap<PublicKey, PeerState> = BTreeMap::new();
    for info in parts {
        let part = peer_state(info, now)?;
        let whole = peers.entry(PublicKey::new(info.config.public_key.0)).or_default();
        whole.endpoint = whole.endpoint.or(part.endpoint);
        whole.last_handshake_age = whole.last_handshake_age.or(part.last_handshake_age);
        whole.rx_bytes = whole.rx_bytes.max(part.rx_bytes);
        whole.tx_bytes = whole.tx_bytes.max(part.tx_bytes);
        whole.is_altered |= part.is_altered;
        whole.allowed_ips.extend(part.allowed_ips);
    }
    Ok(peers)
}

fn peer_state(info: &PeerInfo, now: SystemTime) -> Result<PeerState, Error> {
    let allowed_ips = info.config.allowed_ips.iter().map(|allowed| {
        IpNet::new(allowed.address, allowed.cidr).map_err(|_| Error::Kernel {
            op: "read",
            object: format!("allowed address {}/{}", allowed.address, allowed.cidr),
            source: io::ErrorKind::InvalidData.into(),
        })
    });
    Ok(PeerState {
        endpoint: info.config.endpoint,
        allowed_ips: allowed_ips.collect::<Result<BTreeSet<_>, _>>()?,
        // A clock that was set back makes the handshake one of the future; it was just now then.
        last_handshake_age: info
            .stats
            .last_handshake_time
            .map(|then| now.duration_since(then).unwrap_or(Duration::ZERO)),
        rx_bytes: info.stats.rx_bytes,
        tx_bytes: info.stats.tx_bytes,
        is_altered: is_altered(
            info.config.preshared_key.as_ref().is_some_and(|key| key.0 != [0; 32]),
            info.config.persistent_keepalive_interval,
        ),
    })
}

/// Whether a stranger changed a peer: privnet sets no preshared key, and one keepalive only.
fn is_altered(has_preshared_key: bool, keepalive: Option<u16>) -> bool {
    has_preshared_key || !matches!(keepalive, None | Some(0 | BEGINNING_KEEPALIVE_SECONDS))
}

fn library_name(interface: &IfName) -> Result<InterfaceName, Error> {
    interface.as_str().parse().map_err(|_| Error::Absent { device: interface.to_string() })
}

/// What failed, without the library's words: those may show the message, and in it the private key.
fn without_text(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wireguard_control::AllowedIp;

    fn info(number: u8, addresses: &[&str]) -> PeerInfo {
        let mut info = PeerInfo::from_public_key(Key([number; 32]));
        info.config.allowed_ips =
            addresses.iter().map(|ip| AllowedIp { address: ip.parse().expect("valid"), cidr: 32 }).collect();
        info
    }

    #[test]
    fn an_error_of_the_library_loses_its_words_and_keeps_its_number() {
        let secret = "c2VjcmV0";
        let told = without_text(&io::Error::new(io::ErrorKind::InvalidInput, format!("too large: {secret}")));
        assert_eq!(told.kind(), io::ErrorKind::InvalidInput);
        assert!(!format!("{told} {told:?}").contains(secret));
        assert_eq!(without_text(&io::Error::from_raw_os_error(19)).raw_os_error(), Some(19));
    }

    #[test]
    fn the_probe_has_an_answer() {
        match kernel_support() {
            Support::Present => {}
            Support::Missing { reason, remedy } => assert!(!reason.is_empty() && !remedy.is_empty()),
        }
    }

    #[test]
    fn a_peer_that_spans_messages_is_one() {
        let mut first = info(1, &["10.240.0.1"]);
        first.stats.rx_bytes = 7;
        first.config.endpoint = Some("10.240.0.1:51820".parse().expect("valid"));
        let parts = [first, info(1, &["10.240.0.2"]), info(2, &["10.240.0.3"])];
        let peers = merge(&parts, SystemTime::now()).expect("valid");
        assert_eq!(peers.len(), 2);
        let whole = &peers[&PublicKey::new([1; 32])];
        assert_eq!((whole.allowed_ips.len(), whole.rx_bytes, whole.endpoint.is_some()), (2, 7, true));
    }

    #[test]
    fn a_peer_with_a_preshared_key_or_a_strangers_keepalive_is_altered() {
        for keepalive in [None, Some(0), Some(BEGINNING_KEEPALIVE_SECONDS)] {
            assert!(!is_altered(false, keepalive), "{keepalive:?}");
            assert!(is_altered(true, keepalive), "{keepalive:?}");
        }
        assert!(is_altered(false, Some(25)));
        let mut keyed = info(1, &[]);
        keyed.config.preshared_key = Some(Key([0; 32]));
        assert!(
            !peer_state(&keyed, SystemTime::now()).expect("valid").is_altered,
            "as the kernel says that there is none"
        );
        keyed.config.preshared_key = Some(Key([1; 32]));
        let (there, now) = (info(1, &[]), SystemTime::now());
        let whole = &merge(&[there, keyed], now).expect("valid")[&PublicKey::new([1; 32])];
        assert!(whole.is_altered);
    }

    #[test]
    fn a_handshake_of_the_future_is_one_of_just_now() {
        let now = SystemTime::now();
        let mut ahead = info(1, &[]);
        ahead.stats.last_handshake_time = Some(now + Duration::from_secs(60));
        assert_eq!(peer_state(&ahead, now).expect("valid").last_handshake_age, Some(Duration::ZERO));
    }
}
