//! The ends of memberships in networks that are not there: a host without members in a network lets it go when the store has
//! lost it, and not the ends that it saw there. Once the network is there again they are believed as before, so that an older
//! copy of the store does not take them back.
//!
//! A network that is deleted ends with its rows, which are removed after it: these are forgotten.

use std::collections::BTreeMap;

use super::fact::{About, Fact};
use crate::model::NetworkId;
use crate::store::records::AddressRecord;
use crate::store::{Key, Value};

/// How many are kept. A deleted network's may be among them, since what a host did not follow looks like a loss.
const MOST: usize = 10_000;

/// Rows that say the end of a membership, by key.
#[derive(Clone, Debug)]
pub(super) struct Ends(BTreeMap<Key, (Value, Fact)>);

impl Ends {
    pub(super) const fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Keeps a record that is not believed any more, if it is the end of a membership.
    pub(super) fn keep(&mut self, key: &Key, value: &Value, fact: &Fact) {
        if let About::Address { row, .. } = &fact.about
            && row.holder.is_none()
            && row.member.is_some()
            && self.0.len() < MOST
        {
            self.0.insert(key.clone(), (value.clone(), fact.clone()));
        }
    }

    /// The end that is kept under a key.
    pub(super) fn row(&self, key: &Key) -> Option<&AddressRecord> {
        let (_, fact) = self.0.get(key)?;
        if let About::Address { row, .. } = &fact.about { Some(row) } else { None }
    }

    /// Whether an end is kept that is later than a row. Otherwise the row takes its place.
    pub(super) fn outlast(&mut self, key: &Key, fact: &Fact) -> bool {
        let is_later = self.0.get(key).is_some_and(|(_, kept)| !fact.follows(kept));
        if !is_later {
            self.forget(key);
        }
        is_later
    }

    pub(super) fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }

    pub(super) fn retain(&mut self, is_kept: impl Fn(&About) -> bool) {
        self.0.retain(|_, (_, fact)| is_kept(&fact.about));
    }

    /// Takes out the ends of a network.
    pub(super) fn take(&mut self, network: NetworkId) -> Vec<(Key, (Value, Fact))> {
        self.0.extract_if(.., |_, (_, fact)| fact.about.network() == Some(network)).collect()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.0.iter().map(|(key, (value, _))| (key, value))
    }

    pub(super) fn facts(&self) -> impl Iterator<Item = &Fact> {
        self.0.values().map(|(_, fact)| fact)
    }
}
