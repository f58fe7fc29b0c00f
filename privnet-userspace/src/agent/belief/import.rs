//! What a saved copy of the store's records has that the store lacks.
//!
//! A copy brings back what was lost, and never what was ended: a member whose address went on to another membership, or was
//! ended, stays away, with what belongs to it alone. What is believed is left to the hosts, which put it back.
//!
//! A network that was deleted without members leaves nothing that says so. One of which neither the store nor this host has
//! anything is passed over and named, unless the operator says that such networks were lost; a store in which no network was
//! ever created or deleted gets all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::fact::{About, Fact};
use super::held::Belief;
use super::marks::Marks;
use crate::model::{Member, MemberId, NetworkId};
use crate::store::records::{AddressRecord, RecordError};
use crate::store::{Entry, Expected, Key, Listing, Revision, Transaction, Value, keys};

/// How many records are written by one transaction, unless those of one member are more.
const BATCH: usize = 40;

/// What is written by one transaction, or beside others of the same kind; in the order in which it is to be done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Mark,
    Network(NetworkId),
    Host,
    Member(MemberId),
    Rest,
}

/// Which networks of a copy come back, of those that the store does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComeBack {
    /// Those of which this host has something: what a deleted one leaves is nothing.
    Known,
    /// All: an operator says that they were lost.
    Lost,
    /// All, and this host does not wait for others to put them back: no network was ever created or deleted in the store.
    IntoNewStore,
}

impl ComeBack {
    /// What goes for a store as it was before anything was imported.
    #[must_use]
    pub fn of(store: &Listing, are_lost: bool) -> Self {
        let has_none =
            |entry: &Entry| entry.key.below(&keys::networks()).is_none() && entry.key != keys::networks_fence();
        match are_lost {
            _ if store.entries.iter().all(has_none) => Self::IntoNewStore,
            true => Self::Lost,
            false => Self::Known,
        }
    }
}

/// What a store is given of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// What gives it the records that it lacks; none when it lacks nothing. They change nothing that is not as it was listed.
    pub transactions: Vec<Transaction>,
    /// The networks that are passed over: neither the store nor this host has anything of them.
    pub passed_over: BTreeSet<NetworkId>,
}

/// A saved record that the store lacks, or has in an earlier form.
struct Lacking<'a> {
    key: &'a Key,
    value: &'a Value,
    fact: Fact,
    expected: Expected,
}

impl Belief {
    /// What the store is given of the saved records.
    ///
    /// # Errors
    /// When a saved record is damaged, or of a newer version.
    pub fn lacking(
        &self,
        store: &Listing,
        saved: &BTreeMap<Key, Value>,
        come_back: ComeBack,
    ) -> Result<Import, RecordError> {
        let listed: BTreeMap<&Key, &Entry> = store.entries.iter().map(|entry| (&entry.key, entry)).collect();
        let marks = self.marks_beside(store, saved);
        let known = self.networks_beside(store);
        let (mut lacking, mut passed_over) = (Vec::new(), BTreeSet::new());
        for (key, value) in saved {
            let Some(fact) = fact(key, value)? else { continue };
            if let Some(network) = fact.about.network().filter(|id| come_back == ComeBack::Known && !known.contains(id))
            {
                if matches!(fact.about, About::Network(_)) && !marks.beat(&fact.about) {
                    passed_over.insert(network);
                }
                continue;
            }
            let is_passing = matches!(fact.about, About::Presence { .. });
            let expected = match listed.get(key) {
                None => Some(Expected::Absent),
                Some(entry) => {
                    // What cannot be read is not written over.
                    let there = Fact::read(entry).ok().flatten();
                    let is_later = |there: &Fact| fact != *there && fact.follows(there) && !there.follows(&fact);
                    there.filter(is_later).map(|_| Expected::Revision(entry.revision))
                }
            };
            // The hosts put back what is theirs. A network without members is no host's.
            let is_network = matches!(fact.about, About::Network(_) | About::NetworkPointer(_));
            let is_left = self.held.contains_key(key) && !(is_network && come_back == ComeBack::IntoNewStore);
            let is_wanted = !is_passing && !is_left && !marks.beat(&fact.about);
            let Some(expected) = expected.filter(|_| is_wanted) else { continue };
            lacking.push(Lacking { key, value, fact, expected });
        }
        let rows = self.rows_of(store, saved);
        let goes_on = |member: &Member| {
            let row = rows.get(&(member.network, member.address));
            row.is_none_or(|row| row.goes_on(member.id)) && marks.of(member).is_none()
        };
        // What became of an address is not known where the store's row of it is damaged.
        let is_known = |member: &Member| {
            let row = listed.get(&keys::address(member.network, member.address));
            row.is_none_or(|row| Fact::read(row).is_ok())
        };
        // Their records may be in the store already: the copy may have been given to it in part.
        let living: BTreeSet<MemberId> = saved
            .iter()
            .filter_map(|(key, value)| fact(key, value).ok().flatten())
            .filter_map(|fact| if let About::Member { member, .. } = fact.about { Some(member) } else { None })
            .filter(|member| goes_on(member) && is_known(member))
            .map(|member| member.id)
            .collect();
        let mut parts: BTreeMap<Part, Vec<Lacking<'_>>> = BTreeMap::new();
        for record in lacking {
            let part = match &record.fact.about {
                About::Network(network) | About::NetworkPointer(network) => Part::Network(*network),
                About::NetworkMark(_) | About::InstanceMark(_) => Part::Mark,
                About::Host { .. } => Part::Host,
                About::Member { member, .. } => Part::Member(member.id),
                About::MemberPointer { member: Some(id), .. } => Part::Member(*id),
                About::Address { row, .. } => match row.holder.as_ref().and(row.member) {
                    Some(id) => Part::Member(id),
                    None => Part::Rest,
                },
                About::MemberPointer { member: None, .. } | About::Drain(_) | About::Presence { .. } => Part::Rest,
            };
            let is_over = matches!(&part, Part::Member(id) if !living.contains(id));
            let is_row = matches!(record.fact.about, About::Address { .. });
            if !is_over || is_row {
                parts.entry(part).or_default().push(record);
            }
        }
        Ok(Import { transactions: transactions(parts), passed_over })
    }

    /// The networks of which the store or this host has something. A deleted one leaves at most the ends of its memberships.
    fn networks_beside(&self, store: &Listing) -> BTreeSet<NetworkId> {
        let of_store = store.entries.iter().filter_map(|entry| Fact::read(entry).ok().flatten()?.about.network());
        let of_host = self.held.values().filter_map(|held| held.fact.about.network());
        of_store.chain(of_host).collect()
    }

    /// What an operator ended: as it is believed, as the store says, and as it was saved.
    fn marks_beside(&self, store: &Listing, saved: &BTreeMap<Key, Value>) -> Marks {
        let mut marks = self.marks.clone();
        let of_store = store.entries.iter().filter_map(|entry| Fact::read(entry).ok().flatten());
        let of_copy = saved.iter().filter_map(|(key, value)| fact(key, value).ok().flatten());
        for found in of_store.chain(of_copy) {
            marks.note(&found.about);
        }
        marks
    }

    /// The latest row of each address: as the store has it, as it is believed, and as it was saved.
    fn rows_of(&self, store: &Listing, saved: &BTreeMap<Key, Value>) -> BTreeMap<(NetworkId, Ipv4Addr), AddressRecord> {
        let of_store = store.entries.iter().filter_map(|entry| Fact::read(entry).ok().flatten());
        let of_copy = saved.iter().filter_map(|(key, value)| fact(key, value).ok().flatten());
        let believed = self.held.values().map(|held| &held.fact).chain(self.ends.facts()).cloned();
        let mut latest: BTreeMap<(NetworkId, Ipv4Addr), Fact> = BTreeMap::new();
        for found in of_copy.chain(of_store).chain(believed) {
            let About::Address { network, address, .. } = &found.about else { continue };
            let place = (*network, *address);
            if latest.get(&place).is_none_or(|known| found.follows(known)) {
                latest.insert(place, found);
            }
        }
        let row = |fact: Fact| if let About::Address { row, .. } = fact.about { Some(row) } else { None };
        latest.into_iter().filter_map(|(place, fact)| Some((place, row(fact)?))).collect()
    }
}

fn fact(key: &Key, value: &Value) -> Result<Option<Fact>, RecordError> {
    // A copy has no fences, and nothing of a fleet or of a host's presence.
    if key.below(&keys::presences()).is_some() {
        return Ok(None);
    }
    Fact::read(&Entry { key: key.clone(), value: value.clone(), revision: Revision::default(), lease: None })
}

/// The records of a part stay together.
fn transactions(parts: BTreeMap<Part, Vec<Lacking<'_>>>) -> Vec<Transaction> {
    let mut transactions: Vec<(Transaction, usize)> = Vec::new();
    for records in parts.into_values() {
        // What belongs to no member may be of any number.
        for records in records.chunks(BATCH) {
            let (mut transaction, mut count) = match transactions.pop() {
                Some((open, count)) if count + records.len() <= BATCH => (open, count),
                full => {
                    transactions.extend(full);
                    (Transaction::new(), 0)
                }
            };
            for Lacking { key, value, expected, .. } in records {
                let (key, value) = ((*key).clone(), (*value).clone());
                transaction = transaction.require(key.clone(), *expected).put(key, value);
                count += 1;
            }
            transactions.push((transaction, count));
        }
    }
    transactions.into_iter().map(|(transaction, _)| transaction).collect()
}
