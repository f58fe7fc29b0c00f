//! The peers of WireGuard devices.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use crate::model::PublicKey;

/// A peer of a WireGuard device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Where its socket is on the carrier.
    pub endpoint: SocketAddrV4,
    /// The one address it may send from and is sent to.
    pub allowed_ip: Ipv4Addr,
    /// How often its host's clock had stepped back when it was made: it refuses handshakes that are dated before the last
    /// one it saw, and only a peer that is made anew forgets.
    pub clock_steps: u64,
}

/// The peers of one device: a table that all devices of the network share, less the device itself.
///
/// Shared, so that the plan of n members costs n and not n² entries, and that comparing what did not change costs a pointer.
#[derive(Clone)]
pub struct PeerTable {
    all: Arc<BTreeMap<PublicKey, Peer>>,
    except: Option<PublicKey>,
}

impl PeerTable {
    /// The whole table but for the device's own key.
    #[must_use]
    pub const fn without(all: Arc<BTreeMap<PublicKey, Peer>>, own: PublicKey) -> Self {
        Self { all, except: Some(own) }
    }

    /// Just these peers.
    #[must_use]
    pub fn of(peers: BTreeMap<PublicKey, Peer>) -> Self {
        Self { all: Arc::new(peers), except: None }
    }

    /// The peers, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&PublicKey, &Peer)> {
        self.all.iter().filter(|(key, _)| Some(**key) != self.except)
    }

    /// How many peers there are.
    fn len(&self) -> usize {
        self.all.len() - usize::from(self.except.is_some_and(|own| self.all.contains_key(&own)))
    }

    /// The peer with this key.
    #[must_use]
    pub fn get(&self, key: &PublicKey) -> Option<&Peer> {
        if self.except.as_ref() == Some(key) { None } else { self.all.get(key) }
    }

    /// The changes from `self` to `to`: the keys to remove, and then the peers to set. A peer that is made anew is in both.
    #[must_use]
    pub fn change_to(&self, to: &Self) -> (Vec<PublicKey>, Vec<(PublicKey, Peer)>) {
        let stays = |key: &PublicKey, peer: &Peer| to.get(key).is_some_and(|to| to.clock_steps == peer.clock_steps);
        let removed = self.iter().filter(|(key, peer)| !stays(key, peer)).map(|(key, _)| *key).collect();
        let set =
            to.iter().filter(|(key, peer)| self.get(key) != Some(peer)).map(|(key, peer)| (*key, *peer)).collect();
        (removed, set)
    }
}

impl PartialEq for PeerTable {
    fn eq(&self, other: &Self) -> bool {
        let is_same = Arc::ptr_eq(&self.all, &other.all) && self.except == other.except;
        is_same || (self.len() == other.len() && self.iter().eq(other.iter()))
    }
}

impl Eq for PeerTable {}

impl fmt::Debug for PeerTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
