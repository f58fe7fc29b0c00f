//! What came before its peer. A member that was just attached may send, and be sent to, before all others are told of it, and
//! WireGuard repeats a first handshake only after 5 s.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use gotatun::packet::{Packet, WgKind};

use crate::model::PublicKey;

/// How long a first handshake is kept: then its sender begins another one (the WireGuard paper, section 6.4).
const HANDSHAKE_KEPT: Duration = Duration::from_secs(5);
/// How long a packet is kept: then TCP sends it again (RFC 6298 section 2.1).
const PACKET_KEPT: Duration = Duration::from_secs(1);
/// How many of each are kept: the latest, and one handshake of each key.
const MOST: usize = 32;

/// What came for a peer that is not there yet, and from one.
#[derive(Default)]
pub(super) struct Early {
    handshakes: VecDeque<Handshake>,
    packets: VecDeque<Outgoing>,
}

/// A message that begins a handshake, of a key that is no peer's.
pub(super) struct Handshake {
    pub(super) key: PublicKey,
    pub(super) message: WgKind,
    pub(super) source: SocketAddr,
    at: Instant,
}

/// A packet of the app to an address that no peer has.
pub(super) struct Outgoing {
    pub(super) destination: Ipv4Addr,
    pub(super) packet: Packet,
    at: Instant,
}

impl Early {
    /// Keeps a handshake of a key that is no peer's.
    pub(super) fn keep_handshake(&mut self, key: PublicKey, message: WgKind, source: SocketAddr, at: Instant) {
        self.handshakes.retain(|kept| kept.key != key);
        keep(&mut self.handshakes, Handshake { key, message, source, at });
    }

    /// Keeps a packet to an address that no peer has.
    pub(super) fn keep_packet(&mut self, destination: Ipv4Addr, packet: Packet, at: Instant) {
        keep(&mut self.packets, Outgoing { destination, packet, at });
    }

    /// Takes the handshakes of keys that are peers' now, and forgets the old ones.
    pub(super) fn take_handshakes(&mut self, is_peer: impl Fn(&PublicKey) -> bool, now: Instant) -> Vec<Handshake> {
        self.handshakes.retain(|kept| now.saturating_duration_since(kept.at) < HANDSHAKE_KEPT);
        take(&mut self.handshakes, |kept| is_peer(&kept.key))
    }

    /// Takes the packets to addresses that peers have now, in their order, and forgets the old ones.
    pub(super) fn take_packets(&mut self, has_peer: impl Fn(&Ipv4Addr) -> bool, now: Instant) -> Vec<Outgoing> {
        self.packets.retain(|kept| now.saturating_duration_since(kept.at) < PACKET_KEPT);
        take(&mut self.packets, |kept| has_peer(&kept.destination))
    }
}

fn keep<T>(kept: &mut VecDeque<T>, new: T) {
    if kept.len() == MOST {
        kept.pop_front();
    }
    kept.push_back(new);
}

fn take<T>(kept: &mut VecDeque<T>, is_due: impl Fn(&T) -> bool) -> Vec<T> {
    let (taken, stay) = std::mem::take(kept).into_iter().partition::<Vec<T>, _>(is_due);
    *kept = stay.into();
    taken
}
