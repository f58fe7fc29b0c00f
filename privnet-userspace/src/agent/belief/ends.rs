//! What marks end: what is believed of it, and what the store has of it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Instant;

use super::fact::{About, Fact};
use super::held::{Belief, Held, Stored};
use super::marks::Beaten;
use super::repair::{MAX_RECORDS, OTHERS_PATIENCE, Repair, Unit};
use crate::model::{Member, NetworkId, counted};
use crate::store::records::{self, AddressRecord, EndedBy, Envelope, InstanceMark};
use crate::store::{Event, Expected, Key, Revision, Transaction, keys};

impl Belief {
    /// Whether a mark ends what a record is about.
    pub(super) fn is_beaten(&self, about: &About) -> bool {
        self.marks.beat(about)
    }

    /// What is believed and has been marked since this was last looked at. What the store has of it besides is beaten too.
    pub(super) fn newly_beaten(&mut self, now: Instant) -> Vec<Key> {
        if !std::mem::take(&mut self.marks.is_new) {
            return Vec::new();
        }
        let marks = &self.marks;
        self.ends.retain(|about| !marks.beat(about));
        let ghosts = self.ghosts.extract_if(.., |_, ghost| marks.has_network(ghost.member.network));
        let mut beaten: Vec<(Key, Revision)> = ghosts.map(|(key, ghost)| (key, ghost.revision)).collect();
        let refused = self.refused.extract_if(.., |_, entry| marks.beat_entry(entry));
        beaten.extend(refused.map(|(key, entry)| (key, entry.revision)));
        let beaten = beaten.into_iter().map(|(key, revision)| (key, Beaten { revision, since: now }));
        self.marks.beaten.extend(beaten);
        self.held.iter().filter(|(_, held)| self.is_beaten(&held.fact.about)).map(|(key, _)| key.clone()).collect()
    }

    /// Ends the members of the instances that have been marked since this was last looked at.
    pub(super) fn end_marked_members(
        &mut self,
        now: Instant,
        believed: &mut Vec<Event>,
        touched: &mut BTreeSet<(NetworkId, Ipv4Addr)>,
    ) {
        if !std::mem::take(&mut self.marks.is_new_to_members) {
            return;
        }
        let held = self.members.values().filter_map(|key| self.member(key));
        let seen = held.chain(self.ghosts.values().map(|ghost| &ghost.member));
        let marked: Vec<Member> = seen.filter(|member| self.marks.of(member).is_some()).cloned().collect();
        for ghost in self.ghosts.values_mut().filter(|ghost| self.marks.of(&ghost.member).is_some()) {
            ghost.is_over = true;
        }
        for member in marked {
            self.record_end(&member, now, believed, touched);
        }
    }

    /// Has the row of a membership say that an operator ended it, if a mark says so. One that was adopted since goes on.
    pub(super) fn record_end(
        &mut self,
        member: &Member,
        now: Instant,
        believed: &mut Vec<Event>,
        touched: &mut BTreeSet<(NetworkId, Ipv4Addr)>,
    ) {
        let Some(mark) = self.marks.of(member).cloned() else { return };
        let known = self.members.get(&member.id).and_then(|key| self.member(key));
        if known.is_some_and(|known| self.marks.of(known).is_none()) {
            return;
        }
        let key = keys::address(member.network, member.address);
        let (row, envelope, found) = match self.stored_as::<AddressRecord>(&key) {
            Some(stored) if stored.record.holder.is_some() && is_before(&stored.record, member, &mark) => {
                (stored.record, stored.envelope.next(), self.found(&key))
            }
            Some(_) => return,
            None => (AddressRecord::lost(member), Envelope::first(), Expected::Absent),
        };
        let end = mark.at_unix_seconds;
        let row = row.ended(member.id, EndedBy::Operator, end);
        let value = records::encode(&row, &envelope);
        let (network, address) = (member.network, member.address);
        let fact = Fact { about: About::Address { network, address, row, counts: true }, serial: envelope.serial };
        let stored = Stored::Lost { since: self.since(&mark, now), found, is_over: false };
        believed.push(Event::Put { key: key.clone(), value: value.clone(), revision: Revision::default() });
        touched.insert((network, address));
        self.hold(key, Held { value, fact, stored });
    }

    /// Since when the others may write what follows from a mark: the host at which the operator said so is the first.
    pub(super) fn since(&self, mark: &InstanceMark, now: Instant) -> Instant {
        let early = now.checked_sub(OTHERS_PATIENCE).unwrap_or(now);
        if mark.by == self.own { early } else { now }
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
            let what = format!("{} of what an operator ended", counted(batch.len(), "record"));
            let transactions = vec![batch.iter().fold(Transaction::new(), delete)];
            Repair { unit: Unit::Beaten(first), what, end: None, transactions }
        };
        batches.map(removal).collect()
    }
}

/// Whether a row is that of a membership as it was before the mark: one that was adopted since was attached anew.
fn is_before(row: &AddressRecord, member: &Member, mark: &InstanceMark) -> bool {
    row.goes_on(member.id) && row.attached_unix_seconds.is_none_or(|at| at <= mark.at_unix_seconds)
}
