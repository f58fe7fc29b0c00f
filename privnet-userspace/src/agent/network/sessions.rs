//! The sessions of a network's members as they were last seen: a device that is made anew has none of them, and the other
//! ends go on in them.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::model::{MemberId, PublicKey};
use crate::wireguard::{DeviceState, SESSION};

/// A session as it was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// When the other end forgets it, if it is not renewed.
    pub ends: Instant,
    /// When something last passed in it, as far as two looks can tell.
    pub talked: Instant,
    /// What had passed until then, in bytes, both ways.
    bytes: u64,
}

#[cfg(test)]
impl Session {
    /// One of which nothing else is known.
    pub const fn of(talked: Instant, ends: Instant) -> Self {
        Self { ends, talked, bytes: 0 }
    }
}

/// The sessions of the members of this host, by member and peer.
#[derive(Default)]
pub struct Sessions(BTreeMap<MemberId, BTreeMap<PublicKey, Session>>);

impl Sessions {
    /// Takes note of a device as it is seen. What an earlier device had is kept until it would have ended: the new one may be
    /// seen before it begins them again.
    pub fn see(&mut self, member: MemberId, device: &DeviceState, now: Instant) {
        let known = self.0.entry(member).or_default();
        known.retain(|_, session| session.ends > now);
        for (key, peer) in &device.peers {
            let Some(age) = peer.last_handshake_age.filter(|age| *age < SESSION) else { continue };
            let begun = now.checked_sub(age).unwrap_or(now);
            let bytes = peer.rx_bytes.wrapping_add(peer.tx_bytes);
            let talked = match known.get(key) {
                Some(before) if before.bytes == bytes => before.talked,
                Some(_) => now,
                None => begun,
            };
            known.insert(*key, Session { ends: begun + SESSION, talked, bytes });
        }
    }

    /// Takes what was seen of a member: its device has lost the sessions.
    pub fn take(&mut self, member: MemberId) -> BTreeMap<PublicKey, Session> {
        self.0.remove(&member).unwrap_or_default()
    }

    /// Forgets the members that are gone.
    pub fn retain(&mut self, mut stays: impl FnMut(MemberId) -> bool) {
        self.0.retain(|member, _| stays(*member));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agent::host::journal::tests::record;
    use crate::wireguard::PeerState;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(number: u8) -> PublicKey {
        PublicKey::new([number; 32])
    }

    /// A device with peers of these ages in seconds, and bytes.
    fn device(peers: &[(u8, Option<u64>, u64)]) -> DeviceState {
        let peers = peers.iter().map(|(number, age, rx_bytes)| {
            let last_handshake_age = age.map(Duration::from_secs);
            (key(*number), PeerState { last_handshake_age, rx_bytes: *rx_bytes, ..PeerState::default() })
        });
        DeviceState { public_key: None, listen_port: 51820, mark: 0, peers: peers.collect() }
    }

    #[test]
    fn a_session_is_one_that_the_other_end_still_has() {
        let (now, member) = (Instant::now() + 3600 * SECOND, record().id);
        let mut sessions = Sessions::default();
        sessions.see(member, &device(&[(1, Some(0), 0), (2, Some(179), 0), (3, Some(180), 0), (4, None, 0)]), now);
        let taken = sessions.take(member);
        assert_eq!(taken.keys().copied().collect::<Vec<_>>(), [key(1), key(2)]);
        assert_eq!(taken[&key(2)].ends, now + SECOND);
        assert_eq!(sessions.take(member), BTreeMap::new(), "they are begun once");
    }

    #[test]
    fn what_a_device_had_before_it_was_made_anew_is_kept_until_it_would_have_ended() {
        let (now, member) = (Instant::now() + 3600 * SECOND, record().id);
        let mut sessions = Sessions::default();
        sessions.see(member, &device(&[(1, Some(100), 5), (2, Some(10), 5)]), now);
        sessions.see(member, &device(&[(1, None, 0)]), now + 79 * SECOND);
        assert_eq!(sessions.0[&member].len(), 2);
        sessions.see(member, &device(&[]), now + 80 * SECOND);
        assert_eq!(sessions.take(member).keys().copied().collect::<Vec<_>>(), [key(2)]);
    }

    #[test]
    fn the_bytes_tell_which_peers_talked_since_the_last_look() {
        let (now, member) = (Instant::now() + 3600 * SECOND, record().id);
        let mut sessions = Sessions::default();
        sessions.see(member, &device(&[(1, Some(60), 5), (2, Some(60), 5)]), now);
        sessions.see(member, &device(&[(1, Some(90), 6), (2, Some(90), 5)]), now + 30 * SECOND);
        let taken = sessions.take(member);
        assert_eq!((taken[&key(1)].talked, taken[&key(2)].talked), (now + 30 * SECOND, now - 60 * SECOND));
    }

    #[test]
    fn a_member_that_is_gone_is_forgotten() {
        let (now, member) = (Instant::now() + 3600 * SECOND, record().id);
        let mut sessions = Sessions::default();
        sessions.see(member, &device(&[(1, Some(1), 0)]), now);
        sessions.retain(|of| of == member);
        assert_eq!(sessions.0.len(), 1);
        sessions.retain(|_| false);
        assert_eq!(sessions.take(member), BTreeMap::new());
    }
}
