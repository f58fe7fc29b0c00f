//! The addresses that members have left, for as long as clients may still know them by a name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use uuid::Uuid;

use crate::ipam;
use crate::model::NetworkId;

/// Since when an address rests whose member has gone, and whose record has not been seen to say so yet.
const SINCE_UNKNOWN: u64 = u64::MAX;

/// Addresses that rest, by network, and in the order in which they will have rested.
#[derive(Clone, Debug, Default)]
pub struct Quarantine {
    /// Since when, in seconds since 1970-01-01 UTC; [`SINCE_UNKNOWN`] until that is known.
    since: BTreeMap<NetworkId, BTreeMap<Ipv4Addr, u64>>,
    order: BTreeSet<(u64, NetworkId, Ipv4Addr)>,
}

impl Quarantine {
    /// A network's addresses that rest.
    pub fn of(&self, network: NetworkId) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.since.get(&network).into_iter().flat_map(BTreeMap::keys).copied()
    }

    /// Notes that an address rests since then; whether it did not before.
    pub fn begin(&mut self, network: NetworkId, address: Ipv4Addr, since: u64) -> bool {
        let before = self.since.entry(network).or_default().insert(address, since);
        if let Some(before) = before {
            self.order.remove(&(before, network, address));
        }
        self.order.insert((since, network, address));
        before.is_none()
    }

    /// Notes that an address rests, unless that is known: its record will say since when.
    pub fn begin_unknown(&mut self, network: NetworkId, address: Ipv4Addr) {
        if !self.since.get(&network).is_some_and(|known| known.contains_key(&address)) {
            self.begin(network, address, SINCE_UNKNOWN);
        }
    }

    /// Notes that an address does not rest; whether it did.
    pub fn end(&mut self, network: NetworkId, address: Ipv4Addr) -> bool {
        let Some(known) = self.since.get_mut(&network) else { return false };
        let Some(since) = known.remove(&address) else { return false };
        if known.is_empty() {
            self.since.remove(&network);
        }
        self.order.remove(&(since, network, address));
        true
    }

    /// Ends the quarantine of the addresses that have rested by now, and returns their networks. Looks at no other.
    pub fn expire(&mut self, now_unix_seconds: u64) -> BTreeSet<NetworkId> {
        // Not said, or said by a host whose clock is ahead: as if it were now.
        let future = (now_unix_seconds.saturating_add(1), NetworkId::from_uuid(Uuid::nil()), Ipv4Addr::UNSPECIFIED);
        for (_, network, address) in self.order.split_off(&future) {
            if let Some(since) = self.since.get_mut(&network).and_then(|known| known.get_mut(&address)) {
                *since = now_unix_seconds;
            }
            self.order.insert((now_unix_seconds, network, address));
        }
        let mut expired = BTreeSet::new();
        while let Some((since, network, address)) = self.order.first().copied() {
            if !ipam::has_rested(since, now_unix_seconds, ipam::DEPARTED_SECONDS) {
                break;
            }
            self.end(network, address);
            expired.insert(network);
        }
        expired
    }
}
