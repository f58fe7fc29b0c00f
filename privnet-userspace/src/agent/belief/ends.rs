//! What marks end: what is believed of it, and what the store has of it.

use std::time::Instant;

use super::fact::{About, Fact};
use super::held::Belief;
use super::marks::Beaten;
use super::repair::{MAX_RECORDS, OTHERS_PATIENCE, Repair, Unit};
use crate::model::{NetworkId, counted};
use crate::store::{Entry, Expected, Key, Revision, Transaction};

impl Belief {
    /// Whether a mark ends what a record is about.
    pub(super) fn is_beaten(&self, about: &About) -> bool {
        about.network().is_some_and(|network| self.marks.has_network(network))
    }

    /// What is believed of networks that have been marked since this was last looked at. What the store has of them besides is
    /// beaten too.
    pub(super) fn newly_beaten(&mut self, now: Instant) -> Vec<Key> {
        if !std::mem::take(&mut self.marks.is_new) {
            return Vec::new();
        }
        let marks = &self.marks;
        let is_of_marked = |network: Option<NetworkId>| network.is_some_and(|network| marks.has_network(network));
        let ghosts = self.ghosts.extract_if(.., |_, ghost| is_of_marked(Some(ghost.member.network)));
        let mut beaten: Vec<(Key, Revision)> = ghosts.map(|(key, ghost)| (key, ghost.revision)).collect();
        let network_of = |entry: &Entry| Fact::read(entry).ok().flatten().and_then(|fact| fact.about.network());
        let refused = self.refused.extract_if(.., |_, entry| is_of_marked(network_of(entry)));
        beaten.extend(refused.map(|(key, entry)| (key, entry.revision)));
        let beaten = beaten.into_iter().map(|(key, revision)| (key, Beaten { revision, since: now }));
        self.marks.beaten.extend(beaten.collect::<Vec<_>>());
        self.held.iter().filter(|(_, held)| self.is_beaten(&held.fact.about)).map(|(key, _)| key.clone()).collect()
    }

    /// The records that marks beat, in batches: the host that wrote the mark may have died since.
    pub(super) fn beaten_records(&self, now: Instant) -> Vec<Repair> {
        let is_due = |beaten: &Beaten| now.saturating_duration_since(beaten.since) >= OTHERS_PATIENCE;
        let due: Vec<_> = self.marks.beaten.iter().filter(|(_, beaten)| is_due(beaten)).collect();
        let batches = due.chunks(MAX_RECORDS).filter_map(|batch| Some((batch, (*batch.first()?.0).clone())));
        let removal = |(batch, first): (&[(&Key, &Beaten)], Key)| {
            let delete = |transaction: Transaction, (key, beaten): &(&Key, &Beaten)| {
                transaction.require((*key).clone(), Expected::Revision(beaten.revision)).delete((*key).clone())
            };
            let what = format!("{} of deleted networks", counted(batch.len(), "record"));
            let transactions = vec![batch.iter().fold(Transaction::new(), delete)];
            Repair { unit: Unit::Beaten(first), what, end: None, transactions }
        };
        batches.map(removal).collect()
    }
}
