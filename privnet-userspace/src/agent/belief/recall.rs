//! The ends that were kept of a network, once it is there again, and their own end.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Instant;

use super::fact::About;
use super::held::{Belief, Held, Stored};
use crate::model::NetworkId;
use crate::store::{Event, Expected, Key, Revision, keys};

impl Belief {
    /// Whether a record that was deleted is a row of a network that was deleted before it.
    pub(super) fn is_swept(&self, key: &Key) -> bool {
        let row = keys::parse_address(key).filter(|_| self.held.contains_key(key));
        row.is_some_and(|(network, _)| !self.held.contains_key(&keys::network(network)))
    }

    /// Believes the ends again that were kept of a network.
    pub(super) fn recall_ends(
        &mut self,
        network: NetworkId,
        now: Instant,
        believed: &mut Vec<Event>,
        touched: &mut BTreeSet<(NetworkId, Ipv4Addr)>,
    ) {
        for (key, (value, fact)) in self.ends.take(network) {
            let found = self.refused.get(&key).map_or(Expected::Absent, |entry| Expected::Revision(entry.revision));
            if let About::Address { network, address, .. } = &fact.about {
                touched.insert((*network, *address));
            }
            believed.push(Event::Put { key: key.clone(), value: value.clone(), revision: Revision::default() });
            let stored = Stored::Lost { since: now, found, is_over: false };
            self.hold(key, Held { value, fact, stored });
        }
    }
}
