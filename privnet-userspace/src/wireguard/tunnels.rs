//! The tunnels of one device: a session with each peer, which peer a packet goes to, and from which one it may come. Without
//! any I/O: packets and datagrams go in, and datagrams and packets come out. The messages are the library's.
//!
//! A tunnel is the library's from its first use on. The library computes a shared secret for each of its tunnels, and a member
//! of a large network never speaks with most of the others.
//!
//! The library counts time by calls: what happens is dated to the call before it. So a tunnel in use is called every
//! [`TICK`], one that is not in use before it is used again, one with a session when its keys are to be erased
//! ([`ERASED`]), and one without is not called at all: a device without traffic has no timer.
//!
//! What the library keeps for a peer takes 18 kB, most of them room for eight sessions. It stays from its first use on: it has
//! the date of the last handshake, before which none is accepted.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gotatun::noise::handshake::parse_handshake_anon;
use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::noise::{Tunn, TunnResult};
use gotatun::packet::{Packet, WgKind};
use gotatun::tun::MtuWatcher;
use ipnet::{IpNet, Ipv4Net};

use super::change::{SESSION, Step};
use super::datagrams::Datagrams;
use super::early::Early;
use super::{Peer, PeerState};
use crate::model::{PrivateKey, PublicKey};

/// How often a tunnel in use is called; the library's timers are of some seconds.
const TICK: Duration = Duration::from_millis(250);
/// How long after the last packet a tunnel is in use. Within it fall: a keepalive 10 s after a packet that was received, the
/// handshake some 15 s after one that was not answered, and each repetition of a handshake (the WireGuard paper, section 6).
pub(super) const IN_USE: Duration = Duration::from_secs(17);
/// How long after the last handshake a tunnel that is not in use is called: its session has ended, and all that it has of the
/// handshake is to be erased (the WireGuard paper, section 6.3). A second more, since the library's date is that of a call.
const ERASED: [Duration; 2] =
    [Duration::from_secs(SESSION.as_secs() + 1), Duration::from_secs(3 * SESSION.as_secs() + 1)];
/// The type of a message with data, its first octet (the WireGuard paper, section 5.4.6).
pub(super) const DATA: u8 = 4;
/// Handshakes that one source may begin in a second before it has to show that it receives what is sent to it.
const HANDSHAKES_PER_SECOND: u64 = 100;

/// The tunnels of one device.
pub(super) struct Tunnels {
    own: Own,
    link_mtu: u16,
    mtu: MtuWatcher,
    early: Early,
    tunnels: HashMap<PublicKey, Tunnel>,
    by_address: HashMap<Ipv4Addr, PublicKey>,
    /// By the index that this device has given to a handshake or a session.
    by_index: HashMap<u32, PublicKey>,
    /// When the next tunnel is to be called.
    due: Option<Instant>,
}

/// What all tunnels of a device share.
struct Own {
    key: x25519_dalek::StaticSecret,
    public_key: x25519_dalek::PublicKey,
    limiter: Arc<RateLimiter>,
    indices: IndexTable,
}

/// A peer, and the session with it.
struct Tunnel {
    /// The library's tunnel; absent until it is used.
    library: Option<Box<Tunn>>,
    endpoint: SocketAddr,
    address: Ipv4Addr,
    called: Instant,
    used_until: Instant,
    /// The last handshake that succeeded.
    handshake: Option<Instant>,
}

impl Tunnels {
    /// Of a device with this key, without peers. `mtu` is the TUN link's, in bytes: padding goes no further.
    pub(super) fn new(key: &PrivateKey, mtu: u16) -> Self {
        let key = secret_of(key);
        let public_key = x25519_dalek::PublicKey::from(&key);
        let limiter = Arc::new(RateLimiter::new(&public_key, HANDSHAKES_PER_SECOND));
        Self {
            own: Own { key, public_key, limiter, indices: IndexTable::from_os_rng() },
            link_mtu: mtu,
            mtu: MtuWatcher::new(mtu),
            early: Early::default(),
            tunnels: HashMap::new(),
            by_address: HashMap::new(),
            by_index: HashMap::new(),
            due: None,
        }
    }

    /// Room for what they send.
    pub(super) fn no_datagrams(&self) -> Datagrams {
        Datagrams::new(self.link_mtu)
    }

    /// Its peers, as they are.
    pub(super) fn peers(&self) -> impl Iterator<Item = (PublicKey, PeerState)> {
        self.tunnels.iter().map(|(key, tunnel)| {
            let (last_handshake_age, sent, received) = tunnel.library.as_ref().map_or((None, 0, 0), |library| {
                let (age, sent, received, ..) = library.stats();
                (age, sent, received)
            });
            let state = PeerState {
                endpoint: Some(tunnel.endpoint),
                allowed_ips: BTreeSet::from([IpNet::V4(Ipv4Net::from(tunnel.address))]),
                last_handshake_age,
                rx_bytes: received as u64,
                tx_bytes: sent as u64,
                is_altered: false,
            };
            (*key, state)
        })
    }

    /// Takes one step of a change; no other peer notices.
    pub(super) fn apply(&mut self, step: &Step, now: Instant) {
        match step {
            Step::Remove(key) => self.remove(*key),
            Step::Add(peer) | Step::Resume(peer) => self.add(peer, now),
            Step::Endpoint(key, endpoint) => {
                if let Some(tunnel) = self.tunnels.get_mut(key) {
                    tunnel.endpoint = (*endpoint).into();
                }
            }
            // Nothing but this process sets anything here.
            Step::Restore(_) => {}
        }
    }

    fn add(&mut self, peer: &Peer, now: Instant) {
        self.remove(peer.public_key);
        let tunnel = Tunnel {
            library: None,
            endpoint: peer.endpoint.into(),
            address: peer.allowed_ip,
            called: now,
            used_until: now,
            handshake: None,
        };
        self.tunnels.insert(peer.public_key, tunnel);
        self.by_address.insert(peer.allowed_ip, peer.public_key);
    }

    fn remove(&mut self, key: PublicKey) {
        if let Some(tunnel) = self.tunnels.remove(&key) {
            if self.by_address.get(&tunnel.address) == Some(&key) {
                self.by_address.remove(&tunnel.address);
            }
            self.by_index.retain(|_, holder| *holder != key);
        }
    }

    /// Takes up what came for peers, and from them, before they were added.
    pub(super) fn take_up_early(&mut self, now: Instant, out: &mut Datagrams) {
        for early in self.early.take_handshakes(|key| self.tunnels.contains_key(key), now) {
            // A handshake carries no packet.
            let _ = self.received(early.key, early.message, early.source, now, out);
        }
        for early in self.early.take_packets(|address| self.by_address.contains_key(address), now) {
            self.outgoing(std::iter::once(early.packet), early.destination, now, out);
        }
    }

    /// Begins a session with each of these peers that is there and has none.
    pub(super) fn begin_sessions(&mut self, peers: &[PublicKey], now: Instant, out: &mut Datagrams) {
        for key in peers {
            let Some(tunnel) = self.tunnels.get_mut(key) else { continue };
            tunnel.call(*key, now, &mut self.by_index, out);
            let library = tunnel.library(*key, &self.own);
            if !library.has_active_session()
                && let Some(message) = library.format_handshake_initiation(false)
            {
                tunnel.send(*key, message.into(), &mut self.by_index, out);
                tunnel.is_used(now);
            }
            self.due = earlier(self.due, tunnel.due());
        }
    }

    /// Encrypts packets of the app for the peer that has their destination; without one they are kept for a moment.
    pub(super) fn outgoing(
        &mut self,
        packets: impl Iterator<Item = Packet>,
        destination: Ipv4Addr,
        now: Instant,
        out: &mut Datagrams,
    ) {
        let Some(key) = self.by_address.get(&destination).copied() else {
            packets.for_each(|packet| self.early.keep_packet(destination, packet, now));
            return;
        };
        let Some(tunnel) = self.tunnels.get_mut(&key) else { return };
        tunnel.call(key, now, &mut self.by_index, out);
        for packet in packets {
            if let Some(message) = tunnel.library(key, &self.own).handle_outgoing_packet(packet, Some(&mut self.mtu)) {
                tunnel.send(key, message, &mut self.by_index, out);
            }
        }
        tunnel.is_used(now);
        self.due = earlier(self.due, tunnel.due());
    }

    /// Takes a datagram in: returns the packet that is in it, which is IPv4 and from the address of the peer that sent it.
    pub(super) fn incoming(
        &mut self,
        datagram: Packet,
        source: SocketAddr,
        now: Instant,
        out: &mut Datagrams,
    ) -> Option<Packet> {
        if !matches!(datagram.first(), Some(&DATA)) {
            self.own.limiter.try_reset_count();
        }
        let message = match self.own.limiter.verify_packet(source, datagram) {
            Ok(message) => message,
            Err(TunnResult::WriteToNetwork(answer)) => {
                out.push(source, &Packet::from(answer));
                return None;
            }
            Err(_) => return None,
        };
        let index = match &message {
            WgKind::HandshakeInit(_) => None,
            WgKind::HandshakeResp(message) => Some(message.receiver_idx.get()),
            WgKind::CookieReply(message) => Some(message.receiver_idx.get()),
            WgKind::Data(message) => Some(message.header.receiver_idx.get()),
        };
        let key = match (&message, index) {
            (WgKind::HandshakeInit(message), _) => {
                let half = parse_handshake_anon(&self.own.key, &self.own.public_key, message).ok()?;
                PublicKey::new(half.peer_static_public)
            }
            (_, index) => *self.by_index.get(&index?)?,
        };
        self.received(key, message, source, now, out)
    }

    /// Takes in a message of a key, which may be no peer's yet.
    fn received(
        &mut self,
        key: PublicKey,
        message: WgKind,
        source: SocketAddr,
        now: Instant,
        out: &mut Datagrams,
    ) -> Option<Packet> {
        let Some(tunnel) = self.tunnels.get_mut(&key) else {
            self.early.keep_handshake(key, message, source, now);
            return None;
        };
        tunnel.call(key, now, &mut self.by_index, out);
        let packet = match tunnel.library(key, &self.own).handle_incoming_packet(message) {
            TunnResult::Done | TunnResult::Err(_) => None,
            TunnResult::WriteToNetwork(answer) => {
                tunnel.endpoint = source;
                tunnel.handshake = Some(now);
                tunnel.send(key, answer, &mut self.by_index, out);
                let queued: Vec<WgKind> = tunnel.library(key, &self.own).get_queued_packets(&mut self.mtu).collect();
                for message in queued {
                    tunnel.send(key, message, &mut self.by_index, out);
                }
                tunnel.is_used(now);
                None
            }
            TunnResult::WriteToTunnel(packet) => {
                tunnel.endpoint = source;
                tunnel.is_used(now);
                ipv4(packet).filter(|(_, from)| self.by_address.get(from) == Some(&key)).map(|(packet, _)| packet)
            }
        };
        self.due = earlier(self.due, tunnel.due());
        packet
    }

    /// Whether no tunnel is in use, as of the last [`Self::tick`].
    pub(super) fn is_at_rest(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due > now + TICK)
    }

    /// When [`Self::tick`] is to be called; never while nothing is used, no keys are left, and nothing waits for its peer.
    pub(super) fn due(&self) -> Option<Instant> {
        earlier(self.due, self.early.due())
    }

    /// Calls each tunnel that is due, or soon: repeats handshakes, sends keepalives, erases keys. Tunnels that are used at other
    /// times come to be called together.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Datagrams) {
        self.due = None;
        self.early.forget(now);
        for (key, tunnel) in &mut self.tunnels {
            if tunnel.due().is_some_and(|due| due <= now + TICK / 2) {
                tunnel.called = now;
                tunnel.update(*key, now, &mut self.by_index, out);
            }
            self.due = earlier(self.due, tunnel.due());
        }
        self.by_index.retain(|index, _| self.own.indices.in_use(*index));
    }
}

impl Tunnel {
    /// The library's tunnel with the peer of this key, made when it is used first.
    fn library(&mut self, key: PublicKey, own: &Own) -> &mut Tunn {
        self.library.get_or_insert_with(|| {
            let peer = x25519_dalek::PublicKey::from(key.bytes());
            let (indices, limiter) = (own.indices.clone(), Arc::clone(&own.limiter));
            Box::new(Tunn::new(own.key.clone(), peer, None, None, indices, limiter))
        })
    }

    /// Dates what comes next, when the last call was a tick ago.
    fn call(&mut self, key: PublicKey, now: Instant, by_index: &mut HashMap<u32, PublicKey>, out: &mut Datagrams) {
        if now.saturating_duration_since(self.called) >= TICK {
            self.called = now;
            self.update(key, now, by_index, out);
        }
    }

    fn update(&mut self, key: PublicKey, now: Instant, by_index: &mut HashMap<u32, PublicKey>, out: &mut Datagrams) {
        // An error says that the session has expired: the next packet begins another.
        if let Some(Ok(Some(message))) = self.library.as_mut().map(|library| library.update_timers()) {
            if matches!(message, WgKind::HandshakeInit(_)) {
                self.used_until = now + IN_USE;
            }
            self.send(key, message, by_index, out);
        }
    }

    fn send(&self, key: PublicKey, message: WgKind, by_index: &mut HashMap<u32, PublicKey>, out: &mut Datagrams) {
        match &message {
            WgKind::HandshakeInit(message) => drop(by_index.insert(message.sender_idx.get(), key)),
            WgKind::HandshakeResp(message) => drop(by_index.insert(message.sender_idx.get(), key)),
            WgKind::CookieReply(_) | WgKind::Data(_) => {}
        }
        out.push(self.endpoint, &Packet::from(message));
    }

    /// Takes note that it is in use.
    fn is_used(&mut self, now: Instant) {
        self.used_until = now + IN_USE;
    }

    /// When it is to be called. One call comes after each time at which keys are to be erased, however late.
    fn due(&self) -> Option<Instant> {
        if self.called < self.used_until {
            return Some(self.called + TICK);
        }
        let handshake = self.handshake?;
        ERASED.into_iter().map(|age| handshake + age).find(|due| self.called < *due)
    }
}

/// The earlier of two times of which there may be none.
pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// A packet without what WireGuard has padded it with, and its source; nothing when it is not IPv4.
fn ipv4(mut packet: Packet) -> Option<(Packet, Ipv4Addr)> {
    let header = packet.first_chunk::<20>()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
    (header[0] >> 4 == 4 && (20..=packet.len()).contains(&length)).then(|| {
        packet.truncate(length);
        (packet, source)
    })
}

/// The one place where a private key becomes the library's.
fn secret_of(key: &PrivateKey) -> x25519_dalek::StaticSecret {
    x25519_dalek::StaticSecret::from(*key.reveal_bytes())
}

#[cfg(test)]
mod tests;
