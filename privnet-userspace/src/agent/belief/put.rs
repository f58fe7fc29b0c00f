//! How one record that the store has by now changes what is believed.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Instant;

use super::fact::{About, Fact, rises};
use super::held::{Belief, Ghost, Held, Stored};
use super::marks::Beaten;
use crate::model::{Member, NetworkId};
use crate::store::records::RecordError;
use crate::store::{Entry, Event, Expected, Key, keys};

impl Belief {
    /// Follows the records that a transaction puts, one after another.
    pub(super) fn put_all(
        &mut self,
        puts: &[&Event],
        changes: &[Event],
        now: Instant,
        believed: &mut Vec<Event>,
        touched: &mut BTreeSet<(NetworkId, Ipv4Addr)>,
    ) {
        for event in puts {
            if let Event::Put { key, value, revision } = event {
                let entry = Entry { key: key.clone(), value: value.clone(), revision: *revision, lease: None };
                self.put(&entry, changes, now, believed, touched);
            }
        }
    }

    /// Follows a record that the store has by now.
    pub(super) fn put(
        &mut self,
        entry: &Entry,
        changes: &[Event],
        now: Instant,
        believed: &mut Vec<Event>,
        touched: &mut BTreeSet<(NetworkId, Ipv4Addr)>,
    ) {
        let Entry { key, value, revision, .. } = entry;
        let told = || Event::Put { key: key.clone(), value: value.clone(), revision: *revision };
        self.ghosts.remove(key);
        self.refused.remove(key);
        self.marks.beaten.remove(key);
        let fact = match Fact::read(entry) {
            Ok(Some(fact)) => fact,
            // What cannot be read changes nothing of what is believed, and is named.
            unread => {
                let is_damaged = matches!(unread, Err(RecordError::Corrupt { .. })) && self.mends_unreadable(entry);
                match self.held.get_mut(key) {
                    Some(_) if is_damaged => self.lose(key, Expected::Revision(*revision), now),
                    Some(held) => {
                        held.stored = Stored::Same(*revision);
                        self.lost.remove(key);
                    }
                    None => {}
                }
                believed.push(told());
                return;
            }
        };
        if self.is_beaten(&fact.about) {
            match self.held.get(key) {
                // That of a host's next agent stands.
                Some(held) if !self.is_beaten(&held.fact.about) => {
                    self.lose(key, Expected::Revision(*revision), now);
                    return;
                }
                Some(_) => believed.push(self.drop_record(key, now)),
                None => {}
            }
            self.marks.beaten.insert(key.clone(), Beaten { revision: *revision, since: now });
            return;
        }
        if matches!(fact.about, About::Address { .. }) && self.ends.outlast(key, &fact) {
            self.refused.insert(key.clone(), entry.clone());
            return;
        }
        if let Some((value, fact)) = self.row_above(entry, &fact) {
            let stored = Stored::Lost { since: now, found: Expected::Revision(*revision), is_over: false };
            believed.push(Event::Put { key: key.clone(), value: value.clone(), revision: *revision });
            self.hold(key.clone(), Held { value, fact, stored });
            return;
        }
        if let About::Member { member, .. } = &fact.about {
            self.record_end(member, now, believed, touched);
        }
        if let About::Member { member, .. } = &fact.about
            && let Some(is_over) = self.is_ghost(key, member, fact.serial)
        {
            let since = self.marks.of(member).map_or(now, |mark| self.since(mark, now));
            let (member, value) = (Member::clone(member), value.clone());
            let ghost = Ghost { member, value, revision: *revision, since, is_over };
            self.ghosts.insert(key.clone(), ghost);
            if self.held.contains_key(key) {
                self.lose(key, Expected::Revision(*revision), now);
            }
            return;
        }
        let is_told_by_host = || {
            let About::Host { host, .. } = &fact.about else { return false };
            let presence = keys::presence(host);
            changes.iter().any(|change| matches!(change, Event::Put { key, .. } if *key == presence))
        };
        let is_other = |held: &Held| match (&held.fact.about, &fact.about) {
            (About::Member { member, .. }, About::Member { member: other, .. }) => member.id != other.id,
            (About::MemberPointer { member, .. }, About::MemberPointer { member: other, .. }) => member != other,
            _ => false,
        };
        // As with the names of members: the membership that has a further name keeps it, until it ends.
        let is_kept = |held: &Held| match (&held.fact.about, &fact.about) {
            (About::MemberPointer { member: Some(held), .. }, About::MemberPointer { member, .. }) => {
                Some(*held) != *member && self.members.get(held).is_some_and(|record| self.points_to(key, record))
            }
            _ => false,
        };
        let follows = |held: &Held| {
            !is_kept(held) && (is_other(held) || !self.is_altered(key, value, &fact) && fact.follows(&held.fact))
        };
        if self.held.get(key).is_none_or(follows) || is_told_by_host() {
            let mut holder = None;
            if let About::Address { network, address, row, .. } = &fact.about {
                touched.insert((*network, *address));
                holder = row.holder.as_ref().map(|holder| keys::member(*network, holder));
            }
            self.note_kept_off(key, &fact);
            if let About::Network(network) = fact.about {
                self.recall_ends(network, now, believed, touched);
            }
            self.hold(key.clone(), Held { value: value.clone(), fact, stored: Stored::Same(*revision) });
            believed.push(told());
            // Its record came first.
            if let Some(ghost) = holder.and_then(|record| self.ghosts.get(&record)) {
                let member = ghost.member.clone();
                self.record_end(&member, now, believed, touched);
            }
        } else {
            self.refused.insert(key.clone(), entry.clone());
            self.lose(key, Expected::Revision(*revision), now);
        }
    }

    /// Whether a member's record is not to be believed: it is over, or it has another one's name.
    pub(super) fn is_ghost(&self, key: &Key, member: &Member, serial: u64) -> Option<bool> {
        if self.marks.of(member).is_some() || self.row(member).is_some_and(|row| !row.goes_on(member.id)) {
            return Some(true);
        }
        let elsewhere = self.members.get(&member.id).filter(|known| *known != key);
        if elsewhere.is_some_and(|known| !rises(serial, self.serial(known))) {
            return Some(true);
        }
        let held = self.held.get(key)?;
        let About::Member { member: holder, says_id } = &held.fact.about else { return None };
        // The earlier one keeps the name, until it ends.
        let stands = holder.id != member.id && self.members.get(&holder.id) == Some(key);
        (stands && self.records_ends(holder, *says_id)).then_some(false)
    }
}
