//! What tells a new process which sessions its predecessor had: the peers that go on in them.
//!
//! A datagram of a session that this process does not have cannot be read, but its source says which peer sent it, and that
//! peer would go on for 15 s. So the first datagram with data from each peer is a reason to look whether there is a session
//! with it, and to begin one where there is none. A peer is looked at once, so forged datagrams cost one handshake for each
//! peer at most. No session of a predecessor outlives [`SESSION`], and then no datagram is looked at any more.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::SESSION;
use super::tunnels::DATA;
use crate::model::PublicKey;

/// The peers from which nothing has come yet since this process started, and those from which something has.
pub(super) struct Predecessor {
    ends: Instant,
    is_over: AtomicBool,
    peers: Mutex<Peers>,
    heard: Notify,
}

#[derive(Default)]
struct Peers {
    silent: HashMap<SocketAddr, PublicKey>,
    heard: Vec<PublicKey>,
}

impl Predecessor {
    /// Of a process that starts now.
    pub(super) fn new(now: Instant) -> Self {
        Self { ends: now + SESSION, is_over: AtomicBool::new(false), peers: Mutex::default(), heard: Notify::new() }
    }

    /// Takes note of where a peer is, when it is added or moves.
    pub(super) fn add(&self, peer: PublicKey, endpoint: SocketAddrV4) {
        if !self.is_over() {
            self.lock().silent.insert(endpoint.into(), peer);
        }
    }

    /// Looks at a datagram that came in.
    pub(super) fn look_at(&self, datagram: &[u8], source: SocketAddr) {
        if datagram.first() == Some(&DATA)
            && !self.is_over()
            && let mut peers = self.lock()
            && let Some(peer) = peers.silent.remove(&source)
        {
            peers.heard.push(peer);
            self.heard.notify_one();
        }
    }

    /// Returns when [`Self::take_heard`] may have some.
    pub(super) async fn is_heard(&self) {
        self.heard.notified().await;
    }

    /// Takes the peers that were heard for the first time.
    pub(super) fn take_heard(&self) -> Vec<PublicKey> {
        std::mem::take(&mut self.lock().heard)
    }

    /// Returns when the last session of the predecessor has ended; never after [`Self::end`].
    pub(super) async fn is_to_end(&self) {
        if self.is_over() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.ends).await;
    }

    /// Ends the looking.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        *self.lock() = Peers::default();
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    fn key(number: u8) -> PublicKey {
        PublicKey::new([number; 32])
    }

    fn endpoint(number: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 240, 0, number), 51820)
    }

    #[test]
    fn the_first_data_from_a_peer_is_heard_once_and_a_handshake_or_a_strangers_is_not() {
        let predecessor = Predecessor::new(Instant::now());
        predecessor.add(key(1), endpoint(1));
        predecessor.add(key(2), endpoint(2));
        for not_data in [&[][..], &[1, 0, 0, 0], &[2, 0, 0, 0], &[3, 0, 0, 0]] {
            predecessor.look_at(not_data, endpoint(1).into());
        }
        predecessor.look_at(&[DATA, 0, 0, 0], endpoint(3).into());
        assert_eq!(predecessor.take_heard(), []);
        for _ in 0..2 {
            predecessor.look_at(&[DATA, 0, 0, 0], endpoint(1).into());
        }
        assert_eq!(predecessor.take_heard(), [key(1)]);
        predecessor.look_at(&[DATA, 0, 0, 0], endpoint(2).into());
        assert_eq!(predecessor.take_heard(), [key(2)]);
    }

    #[tokio::test]
    async fn nothing_is_heard_when_the_last_session_of_the_predecessor_has_ended() {
        for (is_over, expected) in [(false, vec![key(1), key(2)]), (true, vec![])] {
            let now = Instant::now();
            let mut predecessor = Predecessor::new(now);
            assert_eq!(predecessor.ends, now + SESSION);
            predecessor.ends = now + if is_over { Duration::ZERO } else { SESSION };
            predecessor.add(key(1), endpoint(1));
            let ended = tokio::time::timeout(Duration::from_millis(50), predecessor.is_to_end()).await;
            assert_eq!(ended.is_ok(), is_over);
            if is_over {
                predecessor.end();
            }
            predecessor.look_at(&[DATA, 0, 0, 0], endpoint(1).into());
            predecessor.add(key(2), endpoint(2));
            predecessor.look_at(&[DATA, 0, 0, 0], endpoint(2).into());
            assert_eq!(predecessor.take_heard(), expected);
            assert!(tokio::time::timeout(Duration::from_millis(50), predecessor.is_to_end()).await.is_err());
        }
    }
}
