//! The peers of WireGuard devices.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
    all: Arc<SharedPeers>,
    except: Option<PublicKey>,
}

/// A table that all devices of a network share.
///
/// When a member comes or goes, each device goes from the same table to the same other one: they are compared once, and not once
/// for each of n devices.
pub struct SharedPeers {
    peers: BTreeMap<PublicKey, Peer>,
    /// The table that this one was compared with last, and the change from it.
    change: Mutex<Option<(Weak<Self>, Arc<Change>)>>,
}

/// The changes from one table to another: the keys to remove, and then the peers to set.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    removed: Vec<PublicKey>,
    set: Vec<(PublicKey, Peer)>,
}

impl SharedPeers {
    /// A table of these.
    #[must_use]
    pub fn new(peers: BTreeMap<PublicKey, Peer>) -> Arc<Self> {
        Arc::new(Self { peers, change: Mutex::default() })
    }

    /// The change from another table to this one.
    fn change_from(&self, from: &Arc<Self>) -> Arc<Change> {
        let mut last = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        // A table that is remembered keeps its place in memory, also when it is not used any more: no other one has it.
        if let Some((known, change)) = &*last
            && known.as_ptr() == Arc::as_ptr(from)
        {
            return Arc::clone(change);
        }
        let change = Arc::new(change(
            (from.peers.iter(), |key| from.peers.get(key)),
            (self.peers.iter(), |key| self.peers.get(key)),
        ));
        *last = Some((Arc::downgrade(from), Arc::clone(&change)));
        change
    }
}

impl PeerTable {
    /// The whole table but for the device's own key.
    #[must_use]
    pub const fn without(all: Arc<SharedPeers>, own: PublicKey) -> Self {
        Self { all, except: Some(own) }
    }

    /// Just these peers.
    #[must_use]
    pub fn of(peers: BTreeMap<PublicKey, Peer>) -> Self {
        Self { all: SharedPeers::new(peers), except: None }
    }

    /// The peers, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&PublicKey, &Peer)> {
        self.all.peers.iter().filter(|(key, _)| Some(**key) != self.except)
    }

    /// How many peers there are.
    fn len(&self) -> usize {
        let peers = &self.all.peers;
        peers.len() - usize::from(self.except.is_some_and(|own| peers.contains_key(&own)))
    }

    /// The peer with this key.
    #[must_use]
    pub fn get(&self, key: &PublicKey) -> Option<&Peer> {
        if self.except.as_ref() == Some(key) { None } else { self.all.peers.get(key) }
    }

    /// The changes from `self` to `to`: the keys to remove, and then the peers to set. A peer that is made anew is in both.
    #[must_use]
    pub fn change_to(&self, to: &Self) -> (Vec<PublicKey>, Vec<(PublicKey, Peer)>) {
        if self.except != to.except {
            let change = change((self.iter(), |key| self.get(key)), (to.iter(), |key| to.get(key)));
            return (change.removed, change.set);
        }
        let change = to.all.change_from(&self.all);
        let is_other = |key: &PublicKey| Some(*key) != to.except;
        let removed = change.removed.iter().filter(|key| is_other(key)).copied().collect();
        let set = change.set.iter().filter(|(key, _)| is_other(key)).copied().collect();
        (removed, set)
    }
}

/// Compares two tables, each by its peers and by the peer of a key.
fn change<'a>(
    (from, was): (impl Iterator<Item = (&'a PublicKey, &'a Peer)>, impl Fn(&PublicKey) -> Option<&'a Peer>),
    (to, will_be): (impl Iterator<Item = (&'a PublicKey, &'a Peer)>, impl Fn(&PublicKey) -> Option<&'a Peer>),
) -> Change {
    let stays =
        |key: &PublicKey, peer: &Peer| will_be(key).is_some_and(|will_be| will_be.clock_steps == peer.clock_steps);
    Change {
        removed: from.filter(|(key, peer)| !stays(key, peer)).map(|(key, _)| *key).collect(),
        set: to.filter(|(key, peer)| was(key) != Some(peer)).map(|(key, peer)| (*key, *peer)).collect(),
    }
}

impl PartialEq for PeerTable {
    fn eq(&self, other: &Self) -> bool {
        if self.except != other.except {
            return self.len() == other.len() && self.iter().eq(other.iter());
        }
        if Arc::ptr_eq(&self.all, &other.all) {
            return true;
        }
        let change = other.all.change_from(&self.all);
        let is_own = |key: &PublicKey| Some(*key) == other.except;
        change.removed.iter().all(is_own) && change.set.iter().all(|(key, _)| is_own(key))
    }
}

impl Eq for PeerTable {}

impl fmt::Debug for PeerTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> PublicKey {
        PublicKey::new([number; 32])
    }

    fn any_peers() -> impl Strategy<Value = BTreeMap<PublicKey, Peer>> {
        let peer = (1u8..4, 0u64..2).prop_map(|(at, clock_steps)| {
            let allowed_ip = Ipv4Addr::new(10, 240, 0, at);
            Peer { endpoint: SocketAddrV4::new(allowed_ip, 51_820), allowed_ip, clock_steps }
        });
        proptest::collection::btree_map((0u8..8).prop_map(key), peer, 0..8)
    }

    proptest! {
        #[test]
        fn a_change_of_shared_tables_is_that_of_each_device(
            from in any_peers(),
            to in any_peers(),
            own in proptest::option::of((0u8..8).prop_map(key)),
            other in proptest::option::of((0u8..8).prop_map(key)),
        ) {
            let part = |peers: &BTreeMap<PublicKey, Peer>, own: Option<PublicKey>| -> BTreeMap<PublicKey, Peer> {
                peers.iter().filter(|(key, _)| Some(**key) != own).map(|(key, peer)| (*key, *peer)).collect()
            };
            let shared = [SharedPeers::new(from.clone()), SharedPeers::new(to.clone())];
            // Twice: the second time it is remembered. With the same key left out, and with another one.
            for own in [(own, own), (own, own), (own, other), (other, other)] {
                let table = |number: usize, except| PeerTable { all: Arc::clone(&shared[number]), except };
                let (before, after) = (table(0, own.0), table(1, own.1));
                let (was, is) = (part(&from, own.0), part(&to, own.1));
                let (removed, set) = before.change_to(&after);
                let mut changed = was.clone();
                changed.retain(|key, _| !removed.contains(key));
                changed.extend(set.iter().copied());
                prop_assert_eq!(&changed, &is);
                prop_assert!(set.iter().all(|(key, peer)| was.get(key) != Some(peer)), "nothing is set in vain");
                let anew = |key: &PublicKey| is.get(key).is_none_or(|is| is.clock_steps != was[key].clock_steps);
                prop_assert!(removed.iter().all(anew), "nothing is removed in vain");
                prop_assert_eq!(before == after, was == is);
                prop_assert_eq!(before.iter().count(), before.len());
            }
        }
    }

    #[test]
    fn tables_that_devices_share_are_compared_once_and_each_of_them_anew() {
        let peer = |at| Peer {
            endpoint: SocketAddrV4::new(Ipv4Addr::new(10, 240, 0, at), 51_820),
            allowed_ip: Ipv4Addr::new(10, 240, 0, at),
            clock_steps: 0,
        };
        let table = |numbers: &[u8]| SharedPeers::new(numbers.iter().map(|at| (key(*at), peer(*at))).collect());
        let (old, same, new) = (table(&[1, 2]), table(&[1, 2]), table(&[1, 2, 3]));
        let change = new.change_from(&old);
        for own in [1, 2] {
            let [from, to] = [&old, &new].map(|all| PeerTable::without(Arc::clone(all), key(own)));
            assert!(from != to);
            assert_eq!(from.change_to(&to), (vec![], vec![(key(3), peer(3))]));
            assert!(Arc::ptr_eq(&new.change_from(&old), &change), "they are not compared again");
        }
        // One that has gone, and one with the same content, is another one.
        drop(old);
        assert!(!Arc::ptr_eq(&new.change_from(&same), &change));
        assert_eq!(new.change_from(&same), change);
    }
}
