//! Two living memberships that have one address or one name: the claim of one of them did not see the other. The earlier attach
//! keeps what both have; the host of each decides for its own.
//!
//! - The **address** goes to the earlier one: its host writes the row above the other's. The later one is kept off.
//! - The **name** goes to the earlier one too, the oldest as well as a further one. The host of the later one gives that the next
//!   free number, and both go on.

use std::time::Instant;

use super::fact::{About, Fact};
use super::held::{Belief, Ghost, Held, Stored};
use crate::model::ids::ContainerNumber;
use crate::model::{ContainerRef, Member, MemberId, NetworkId};
use crate::store::records::{self, AddressRecord, MemberPointer, Record};
use crate::store::{Entry, Event, Expected, Key, Revision, Value, keys};

/// A record to write under a key, and what the store has there.
type Written = (Key, Value, Expected);

impl Belief {
    /// Forgets the memberships of this host that the agent has no record of: they have ended, or nothing named them yet.
    pub fn keep_own(&mut self, recorded: impl Fn(MemberId) -> bool, now: Instant) {
        let gone = self.members_of_host(&self.own).filter(|member| !recorded(member.id)).cloned();
        for member in gone.collect::<Vec<Member>>() {
            let keys = [keys::member(member.network, &member.container), keys::address(member.network, member.address)];
            for key in keys {
                self.drop_record(&key, now);
            }
        }
    }

    /// The row of an address as this host writes it, above the one that the store has of another membership: a membership of
    /// this host lives there, and that one does not name it as ended before, and is later or over.
    pub(super) fn row_above(&self, entry: &Entry, fact: &Fact) -> Option<(Value, Fact)> {
        let About::Address { row: other, counts: true, network, address } = &fact.about else { return None };
        let held = self.held.get(&entry.key)?;
        let About::Address { row: own, .. } = &held.fact.about else { return None };
        let id = own.member.filter(|_| own.holder.is_some())?;
        let living = self.members.get(&id).and_then(|key| self.held.get(key))?;
        let About::Member { member, .. } = &living.fact.about else { return None };
        let is_of_another = other.member.is_some_and(|other| other != id) && other.before != Some(id);
        let is_later = other.holder.is_none() || own.is_earlier_than(other);
        if member.host != self.own || !is_of_another || other.count < own.count || !is_later {
            return None;
        }
        let envelope = self.stored_as::<AddressRecord>(&entry.key)?.envelope.next().above(fact.serial);
        let row = own.above(other);
        let (value, serial) = (records::encode(&row, &envelope), envelope.serial);
        Some((
            value,
            Fact { about: About::Address { network: *network, address: *address, row, counts: true }, serial },
        ))
    }

    /// Notes that a membership of this host has lost its address to an earlier one, and that a container that was kept off has
    /// another membership by now.
    pub(super) fn note_kept_off(&mut self, key: &Key, fact: &Fact) {
        match &fact.about {
            About::Member { member, .. } if member.host == self.own && !self.members.contains_key(&member.id) => {
                let ContainerRef { app, kind, .. } = &member.container;
                self.kept_off.retain(|_, (container, _)| (&container.app, &container.kind) != (app, kind));
            }
            About::Address { row: other, network, address, .. } => {
                let Some(Held { fact: Fact { about: About::Address { row: own, .. }, .. }, .. }) = self.held.get(key)
                else {
                    return;
                };
                let living = own.member.and_then(|id| self.held.get(self.members.get(&id)?));
                let Some(Held { fact: Fact { about: About::Member { member, .. }, .. }, .. }) = living else { return };
                let is_taken = other.member.is_some_and(|other| other != member.id) && other.is_earlier_than(own);
                if let Some(holder) = other.holder.as_ref().filter(|_| member.host == self.own && is_taken) {
                    let container = member.container.clone();
                    let text = format!(
                        "{container} is kept off {network}: {holder} was attached before it with the same address {address}, \
                         which the store had lost (attach {container} again: it gets another address)"
                    );
                    self.kept_off.insert(member.id, (container, text));
                }
            }
            About::Member { .. }
            | About::Network(_)
            | About::NetworkMark(_)
            | About::NetworkPointer(_)
            | About::MemberPointer { .. }
            | About::InstanceMark(_)
            | About::Host { .. }
            | About::Drain(_)
            | About::Presence { .. } => {}
        }
    }

    /// The memberships of this host whose address an earlier one has, for a person.
    pub fn kept_off(&self) -> impl Iterator<Item = &String> {
        self.kept_off.values().map(|(_, text)| text)
    }

    /// Gives the memberships of this host whose name an earlier one has another number, and returns whether there were any.
    pub(super) fn give_way(&mut self, now: Instant, believed: &mut Vec<Event>) -> bool {
        let contested: Vec<Key> =
            self.ghosts.keys().filter(|key| self.is_name_of_an_earlier_one(key)).cloned().collect();
        let mut gave_way = false;
        for key in contested {
            let Some(Held { fact: Fact { about: About::Member { member, .. }, .. }, .. }) = self.held.get(&key) else {
                continue;
            };
            if member.host != self.own {
                continue;
            }
            let Some((member, records)) = self.under_another_number(&Member::clone(member), &key) else { continue };
            tracing::warn!(
                network = %member.network,
                "an earlier membership has the name {}, which the store had lost: the one of this host that has it too goes on \
                 as {}",
                key.as_str().rsplit('/').next().unwrap_or_default(),
                member.container
            );
            self.hold_written(records, now, believed);
            believed.push(self.drop_record(&key, now));
            gave_way = true;
        }
        gave_way
    }

    /// Gives the further names of this host's memberships that an earlier one has another number, and returns whether there were
    /// any.
    pub(super) fn give_further_names_way(&mut self, now: Instant, believed: &mut Vec<Event>) -> bool {
        let contested: Vec<Key> =
            self.refused.keys().filter(|key| self.is_further_name_of_an_earlier_one(key)).cloned().collect();
        let mut gave_way = false;
        for key in contested {
            let Some(record) = self.record_of_pointer(&key).cloned() else { continue };
            let Some(member) = self.member(&record).filter(|member| member.host == self.own).cloned() else { continue };
            let Some(records) = self.with_another_further_name(&member, &record, &key) else { continue };
            tracing::warn!(
                network = %member.network,
                "an earlier membership has the further name {}, which the store had lost: {} goes on with the next number of it",
                key.as_str().rsplit('/').next().unwrap_or_default(),
                member.container
            );
            self.hold_written(records, now, believed);
            believed.push(self.drop_record(&key, now));
            gave_way = true;
        }
        gave_way
    }

    /// Whether the store has a pointer of an earlier membership under a further name of another one that goes on.
    pub(super) fn is_further_name_of_an_earlier_one(&self, key: &Key) -> bool {
        let earlier = || {
            let Ok(Some(Fact { about: About::MemberPointer { member: Some(id), .. }, .. })) =
                Fact::read(self.refused.get(key)?)
            else {
                return None;
            };
            let (other, own) = (self.members.get(&id)?, self.record_of_pointer(key)?);
            let (other_row, own_row) = (self.row(self.member(other)?)?, self.row(self.member(own)?)?);
            Some(
                other != own
                    && self.points_to(key, other)
                    && self.points_to(key, own)
                    && other_row.is_earlier_than(own_row),
            )
        };
        earlier().unwrap_or(false)
    }

    /// The key of the record of the membership that a pointer is believed to lead to.
    fn record_of_pointer(&self, key: &Key) -> Option<&Key> {
        let About::MemberPointer { member: Some(id), .. } = &self.held.get(key)?.fact.about else { return None };
        self.members.get(id)
    }

    /// The records of a membership whose further name under `key` has the next free number.
    fn with_another_further_name(&self, before: &Member, record: &Key, key: &Key) -> Option<Vec<Written>> {
        let (network, mut member) = (before.network, before.clone());
        let name = member.names.iter_mut().find(|name| keys::member_name(network, &name.container) == *key)?;
        name.container = self.next_free(network, &name.container)?;
        let pointer = keys::member_name(network, &name.container);
        let stored = self.stored_as::<MemberPointer>(key)?;
        Some(vec![
            (
                record.clone(),
                records::encode(&member, &self.stored_as::<Member>(record)?.envelope.next()),
                self.found(record),
            ),
            (pointer, records::encode(&stored.record, &stored.envelope.next()), Expected::Absent),
        ])
    }

    /// Believes records that this host is to write.
    fn hold_written(&mut self, written: Vec<Written>, now: Instant, believed: &mut Vec<Event>) {
        for (key, value, found) in written {
            let entry = Entry { key, value, revision: Revision::default(), lease: None };
            // What this build has written it reads.
            let Ok(Some(fact)) = Fact::read(&entry) else { continue };
            let stored = Stored::Lost { since: now, found, is_over: false };
            believed.push(Event::Put { key: entry.key.clone(), value: entry.value.clone(), revision: entry.revision });
            self.hold(entry.key, Held { value: entry.value, fact, stored });
        }
    }

    /// The name with the lowest number that no name has.
    fn next_free(&self, network: NetworkId, name: &ContainerRef) -> Option<ContainerRef> {
        (ContainerNumber::FIRST.get()..=ContainerNumber::MAX.get()).find_map(|number| {
            let container = ContainerRef { number: ContainerNumber::try_from(number).ok()?, ..name.clone() };
            let names = [keys::member(network, &container), keys::member_name(network, &container)];
            let is_free = |key: &Key| !self.held.contains_key(key) && !self.ghosts.contains_key(key);
            names.iter().all(is_free).then_some(container)
        })
    }

    /// The records of the store under whose keys nothing is believed any more: a name or a pointer whose holder has ended, or a
    /// membership whose row says after all that it goes on.
    pub(super) fn heirs(&self) -> Vec<Entry> {
        let goes_on = |Ghost { member, .. }: &Ghost| {
            let row = self.row(member).filter(|row| row.member == Some(member.id) && row.holder.is_some());
            row.is_some() && !self.members.contains_key(&member.id) && self.marks.of(member).is_none()
        };
        let is_free = |key: &Key| !self.held.contains_key(key);
        let free = self.ghosts.iter().filter(|(key, ghost)| is_free(key) && (!ghost.is_over || goes_on(ghost)));
        let entry = |(key, ghost): (&Key, &Ghost)| Entry {
            key: key.clone(),
            value: ghost.value.clone(),
            revision: ghost.revision,
            lease: None,
        };
        let is_believed = |key: &Key| is_free(key) && self.ends.row(key).is_none();
        let refused = self.refused.iter().filter(|(key, _)| is_believed(key)).map(|(_, entry)| entry.clone());
        free.map(entry).chain(refused).collect()
    }

    /// Whether the store has an earlier membership under the name of another one that goes on.
    pub(super) fn is_name_of_an_earlier_one(&self, key: &Key) -> bool {
        let earlier = || {
            let ghost = self.ghosts.get(key).filter(|ghost| !ghost.is_over)?;
            let About::Member { member: holder, .. } = &self.held.get(key)?.fact.about else { return None };
            let (other, own) = (self.row(&ghost.member)?, self.row(holder)?);
            let are_theirs = other.member == Some(ghost.member.id) && own.member == Some(holder.id);
            Some(are_theirs && other.is_earlier_than(own))
        };
        earlier().unwrap_or(false)
    }

    /// A membership under the next free number, and the records that say so, with what the store has in their places.
    fn under_another_number(&self, before: &Member, key: &Key) -> Option<(Member, Vec<Written>)> {
        let network = before.network;
        let member = Member { container: self.next_free(network, &before.container)?, ..before.clone() };
        let stored = self.stored_as::<Member>(key)?;
        let record = records::encode(&member, &stored.envelope.next());
        let mut written = vec![(keys::member(network, &member.container), record, Expected::Absent)];
        let row = keys::address(network, member.address);
        if let Some(stored) = self.stored_as::<AddressRecord>(&row) {
            let held = AddressRecord { holder: Some(member.container.clone()), ..stored.record };
            written.push((row.clone(), records::encode(&held, &stored.envelope.next()), self.found(&row)));
        }
        let names = member.names.iter().map(|name| keys::member_name(network, &name.container));
        for pointer in names.chain([keys::public_key(network, member.public_key)]) {
            if let Some(stored) = self.stored_as::<MemberPointer>(&pointer) {
                let leads = MemberPointer { holder: member.container.clone(), ..stored.record };
                written.push((pointer.clone(), records::encode(&leads, &stored.envelope.next()), self.found(&pointer)));
            }
        }
        Some((member, written))
    }

    /// What is believed under a key, as a record.
    pub(super) fn stored_as<T: Record>(&self, key: &Key) -> Option<records::Stored<T>> {
        let value = self.held.get(key)?.value.clone();
        records::read(&Entry { key: key.clone(), value, revision: Revision::default(), lease: None }).ok()
    }

    /// What the store has under the key of a record that is believed.
    pub(super) fn found(&self, key: &Key) -> Expected {
        match self.held.get(key).map(|held| held.stored) {
            Some(Stored::Same(revision)) => Expected::Revision(revision),
            Some(Stored::Lost { found, .. }) => found,
            None => Expected::Absent,
        }
    }
}
