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
/// How many of each are kept: the latest, and one handshake of each source. A key may be invented or another's; the address that
/// a datagram comes from is its sender's own, where `from_member` drops what is forged. Behind a bridge a member can forge it as
/// well, and push out a newcomer's first handshake, which begins another one after 5 s.
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
        self.forget(at);
        self.handshakes.retain(|kept| kept.source.ip() != source.ip());
        keep(&mut self.handshakes, Handshake { key, message, source, at });
    }

    /// Keeps a packet to an address that no peer has.
    pub(super) fn keep_packet(&mut self, destination: Ipv4Addr, packet: Packet, at: Instant) {
        self.forget(at);
        keep(&mut self.packets, Outgoing { destination, packet, at });
    }

    /// Takes the handshakes of keys that are peers' now, and forgets the old ones.
    pub(super) fn take_handshakes(&mut self, is_peer: impl Fn(&PublicKey) -> bool, now: Instant) -> Vec<Handshake> {
        self.forget(now);
        take(&mut self.handshakes, |kept| is_peer(&kept.key))
    }

    /// Takes the packets to addresses that peers have now, in their order, and forgets the old ones.
    pub(super) fn take_packets(&mut self, has_peer: impl Fn(&Ipv4Addr) -> bool, now: Instant) -> Vec<Outgoing> {
        self.forget(now);
        take(&mut self.packets, |kept| has_peer(&kept.destination))
    }

    /// Forgets the old ones.
    pub(super) fn forget(&mut self, now: Instant) {
        self.handshakes.retain(|kept| now < kept.at + HANDSHAKE_KEPT);
        self.packets.retain(|kept| now < kept.at + PACKET_KEPT);
        if self.due().is_none() {
            *self = Self::default();
        }
    }

    /// When [`Self::forget`] has something to forget; never while nothing is kept.
    pub(super) fn due(&self) -> Option<Instant> {
        let handshake = self.handshakes.front().map(|kept| kept.at + HANDSHAKE_KEPT);
        let packet = self.packets.front().map(|kept| kept.at + PACKET_KEPT);
        handshake.into_iter().chain(packet).min()
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

#[cfg(test)]
mod tests {
    use gotatun::noise::Tunn;
    use gotatun::noise::index_table::IndexTable;
    use gotatun::noise::rate_limiter::RateLimiter;

    use super::*;

    fn source(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 240, 0, number], 51820))
    }

    /// A message that begins a handshake.
    fn message() -> WgKind {
        let key = x25519_dalek::StaticSecret::from([1; 32]);
        let public = x25519_dalek::PublicKey::from(&key);
        let limiter = std::sync::Arc::new(RateLimiter::new(&public, 1));
        let mut library = Tunn::new(key, public, None, None, IndexTable::from_os_rng(), limiter);
        library.format_handshake_initiation(false).expect("a handshake begins").into()
    }

    #[test]
    fn invented_keys_of_one_source_leave_the_handshake_of_another_in_place() {
        let now = Instant::now();
        let newcomer = PublicKey::new([200; 32]);
        // The twin: from as many sources as there is room for, the oldest makes room.
        for (sources, kept) in [(1, true), (MOST, false)] {
            let mut early = Early::default();
            early.keep_handshake(newcomer, message(), source(200), now);
            for number in 0..100_u8 {
                let from = source(u8::try_from(usize::from(number) % sources).expect("small"));
                early.keep_handshake(PublicKey::new([number; 32]), message(), from, now);
            }
            // The newcomer's own key, forged.
            early.keep_handshake(newcomer, message(), source(0), now);
            let taken = early.take_handshakes(|key| *key == newcomer, now);
            assert_eq!(taken.iter().any(|taken| taken.source == source(200)), kept);
            assert!(early.handshakes.len() < MOST);
        }
    }

    #[test]
    fn what_is_old_is_forgotten_when_it_is_due_and_nothing_is_due_then() {
        let now = Instant::now();
        let mut early = Early::default();
        assert_eq!(early.due(), None);
        early.keep_handshake(PublicKey::new([1; 32]), message(), source(1), now);
        early.keep_packet(Ipv4Addr::new(10, 240, 0, 9), Packet::copy_from(&[7; 40]), now);
        assert_eq!(early.due(), Some(now + PACKET_KEPT));
        early.forget(now + PACKET_KEPT);
        assert_eq!((early.handshakes.len(), early.packets.len()), (1, 0));
        assert_eq!(early.due(), Some(now + HANDSHAKE_KEPT), "the twin: it is kept for longer");
        early.forget(now + HANDSHAKE_KEPT);
        assert_eq!((early.handshakes.len(), early.due()), (0, None));
    }
}
