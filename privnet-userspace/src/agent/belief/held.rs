//! The records that are believed, and how the store's transactions change them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::fact::{About, Fact, is_presence, rises};
use crate::model::{ContainerRef, HostName, Member, MemberId, NetworkId};
use crate::store::records::{AddressRecord, RecordError};
use crate::store::{Entry, Event, Expected, Key, Listing, Revision, Value, keys};

/// How long a presence that was deleted is believed: its host writes it again meanwhile, if it is there.
pub(super) const PRESENCE_PATIENCE: Duration = Duration::from_secs(10);

/// What is believed of the store.
#[derive(Clone, Debug)]
pub struct Belief {
    pub(super) own: HostName,
    pub(super) held: BTreeMap<Key, Held>,
    /// Records of memberships that the store has and that are not believed.
    pub(super) ghosts: BTreeMap<Key, Ghost>,
    /// Other records that the store has and that are not believed, since others are believed under their keys.
    pub(super) refused: BTreeMap<Key, Entry>,
    /// The key of each membership's record.
    pub(super) members: BTreeMap<MemberId, Key>,
    /// The memberships that are believed to have an address: more than one only where the build before is at work.
    pub(super) at: BTreeMap<(NetworkId, Ipv4Addr), BTreeSet<MemberId>>,
    /// The keys of which the store has not what is believed.
    pub(super) lost: BTreeSet<Key>,
    /// What became of the memberships of this host whose address an earlier one has.
    pub(super) kept_off: BTreeMap<MemberId, (ContainerRef, String)>,
    /// When the store was last seen to step back.
    pub(super) stepped_back: Option<Instant>,
    /// The newest revision of the store that was seen.
    pub(super) revision: Revision,
    /// Rises with each change of what is believed.
    pub(super) version: u64,
}

/// A record that is believed.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) value: Value,
    pub(super) fact: Fact,
    pub(super) stored: Stored,
}

/// What the store has under the key of a record that is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// It.
    Same(Revision),
    /// Nothing, or a record that is not believed.
    Lost {
        since: Instant,
        found: Expected,
        /// Whether it is not believed any more; of presences only.
        is_over: bool,
    },
}

/// A record of a membership that the store has and that is not believed.
#[derive(Clone, Debug)]
pub(super) struct Ghost {
    pub(super) member: Member,
    pub(super) value: Value,
    pub(super) revision: Revision,
    pub(super) since: Instant,
    /// Whether the membership has ended, or its record stands under another key; otherwise it is another one's name.
    pub(super) is_over: bool,
}

impl Held {
    const fn is_over(&self) -> bool {
        matches!(self.stored, Stored::Lost { is_over: true, .. })
    }
}

impl Belief {
    /// The belief of a host's agent that has seen nothing.
    #[must_use]
    pub const fn new(own: HostName) -> Self {
        Self {
            own,
            held: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            refused: BTreeMap::new(),
            members: BTreeMap::new(),
            at: BTreeMap::new(),
            lost: BTreeSet::new(),
            kept_off: BTreeMap::new(),
            stepped_back: None,
            revision: Revision(0),
            version: 0,
        }
    }

    /// Believes a record that was seen at an earlier time, unless a later form of it is believed.
    ///
    /// # Errors
    /// When it is of a newer version, or damaged.
    pub fn remember(&mut self, key: Key, value: Value, now: Instant) -> Result<(), RecordError> {
        let entry = Entry { key, value, revision: Revision::default(), lease: None };
        let Some(fact) = Fact::read(&entry)? else { return Ok(()) };
        if self.held.get(&entry.key).is_none_or(|held| fact.follows(&held.fact)) {
            let stored = Stored::Lost { since: now, found: Expected::Absent, is_over: false };
            self.hold(entry.key, Held { value: entry.value, fact, stored });
        }
        Ok(())
    }

    /// Compares a reading of the whole store with what is believed, and returns the changes of what is believed.
    ///
    /// # Errors
    /// When a record cannot be read of which nothing is believed: nothing has changed then.
    pub fn compare(&mut self, listing: &Listing, now: Instant) -> Result<Vec<Event>, RecordError> {
        for entry in listing.entries.iter().filter(|entry| !self.held.contains_key(&entry.key)) {
            Fact::read(entry)?;
        }
        let read: BTreeMap<&Key, &Entry> = listing.entries.iter().map(|entry| (&entry.key, entry)).collect();
        let is_known = |entry: &Entry| {
            self.held
                .get(&entry.key)
                .is_some_and(|held| held.stored == Stored::Same(entry.revision) && held.value == entry.value)
        };
        let puts = listing.entries.iter().filter(|entry| !is_known(entry)).map(|entry| Event::Put {
            key: entry.key.clone(),
            value: entry.value.clone(),
            revision: entry.revision,
        });
        let missing = self.held.keys().chain(self.ghosts.keys()).filter(|key| !read.contains_key(key));
        let deletions = missing.map(|key| Event::Delete { key: key.clone(), revision: listing.revision });
        let changes: Vec<Event> = puts.chain(deletions).collect();
        if listing.revision < self.revision {
            self.stepped_back = Some(now);
        }
        self.revision = listing.revision;
        let believed = self.follow(&changes, now);
        // Also what a snapshot remembered before this first reading.
        if self.lost.iter().any(|key| !is_presence(key)) {
            self.stepped_back = Some(now);
        }
        Ok(believed)
    }

    /// Follows a transaction of the store, and returns the changes of what is believed, in their order.
    pub fn follow(&mut self, changes: &[Event], now: Instant) -> Vec<Event> {
        let is_row = |event: &&Event| matches!(event, Event::Put { key, .. } if keys::parse_address(key).is_some());
        let (mut believed, mut touched) = (Vec::new(), BTreeSet::new());
        let before = self.lost.clone();
        // What the rows say decides what the other records of the transaction mean.
        let (rows, others): (Vec<&Event>, Vec<&Event>) = changes.iter().partition(is_row);
        for event in rows.into_iter().chain(others) {
            if let Event::Put { key, value, revision } = event {
                let entry = Entry { key: key.clone(), value: value.clone(), revision: *revision, lease: None };
                self.put(&entry, changes, now, &mut believed, &mut touched);
            }
        }
        for event in changes {
            if let Event::Put { revision, .. } | Event::Delete { revision, .. } = event {
                self.revision = self.revision.max(*revision);
            }
            if let Event::Delete { key, revision } = event {
                self.ghosts.remove(key);
                self.refused.remove(key);
                if self.held.contains_key(key) {
                    self.lose(key, Expected::Absent, now);
                } else {
                    believed.push(Event::Delete { key: key.clone(), revision: *revision });
                }
            }
        }
        self.settle(&touched, now, &mut believed);
        // A name whose holder has ended, or has given way, is that of the membership which the store has under it.
        loop {
            let heirs = self.heirs();
            if heirs.is_empty() && !self.give_way(now, &mut believed) {
                break;
            }
            for entry in heirs {
                self.put(&entry, changes, now, &mut believed, &mut touched);
            }
            self.settle(&touched, now, &mut believed);
        }
        let is_loss = |key: &&Key| !before.contains(*key) && !is_presence(key);
        if self.lost.iter().any(|key| is_loss(&key)) {
            self.stepped_back = Some(now);
        }
        believed
    }

    /// Everything that is believed, as changes of nothing.
    pub fn everything(&self) -> impl Iterator<Item = Event> + '_ {
        self.held.iter().filter(|(_, held)| !held.is_over()).map(|(key, held)| {
            let revision = match held.stored {
                Stored::Same(revision) | Stored::Lost { found: Expected::Revision(revision), .. } => revision,
                Stored::Lost { .. } => Revision::default(),
            };
            Event::Put { key: key.clone(), value: held.value.clone(), revision }
        })
    }

    /// The records that are believed, as they were written.
    pub fn records(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.held.iter().filter(|(_, held)| !held.is_over()).map(|(key, held)| (key, &held.value))
    }

    /// Rises with each change of what is believed.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// When the store was last seen to step back.
    #[must_use]
    pub const fn stepped_back(&self) -> Option<Instant> {
        self.stepped_back
    }

    /// Takes the store for one that may have stepped back: what it says may be less than it said.
    pub const fn doubt(&mut self, now: Instant) {
        self.stepped_back = Some(now);
    }

    /// Whether any membership is believed.
    #[must_use]
    pub fn believes_in_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// The number of a record that is believed; 0 where none is.
    #[must_use]
    pub fn serial(&self, key: &Key) -> u64 {
        self.held.get(key).map_or(0, |held| held.fact.serial)
    }

    fn put(
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
        let fact = match Fact::read(entry) {
            Ok(Some(fact)) => fact,
            // What cannot be read changes nothing of what is believed, and is named.
            Ok(None) | Err(_) => {
                if let Some(held) = self.held.get_mut(key) {
                    held.stored = Stored::Same(*revision);
                    self.lost.remove(key);
                }
                believed.push(told());
                return;
            }
        };
        if let Some((value, fact)) = self.row_above(entry, &fact) {
            let stored = Stored::Lost { since: now, found: Expected::Revision(*revision), is_over: false };
            believed.push(Event::Put { key: key.clone(), value: value.clone(), revision: *revision });
            self.hold(key.clone(), Held { value, fact, stored });
            return;
        }
        if let About::Member { member, .. } = &fact.about
            && let Some(is_over) = self.is_ghost(key, member, fact.serial)
        {
            let (member, value) = (Member::clone(member), value.clone());
            let ghost = Ghost { member, value, revision: *revision, since: now, is_over };
            self.ghosts.insert(key.clone(), ghost);
            if self.held.contains_key(key) {
                self.lose(key, Expected::Revision(*revision), now);
            }
            return;
        }
        let is_told_by_host = || {
            let About::Host(host) = &fact.about else { return false };
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
        let follows = |held: &Held| !is_kept(held) && (is_other(held) || fact.follows(&held.fact));
        if self.held.get(key).is_none_or(follows) || is_told_by_host() {
            if let About::Address { network, address, .. } = &fact.about {
                touched.insert((*network, *address));
            }
            self.note_kept_off(key, &fact);
            self.hold(key.clone(), Held { value: value.clone(), fact, stored: Stored::Same(*revision) });
            believed.push(told());
        } else {
            self.refused.insert(key.clone(), entry.clone());
            self.lose(key, Expected::Revision(*revision), now);
        }
    }

    /// Whether a member's record is not to be believed: it is over, or it has another one's name.
    fn is_ghost(&self, key: &Key, member: &Member, serial: u64) -> Option<bool> {
        if self.row(member).is_some_and(|row| !row.goes_on(member.id)) {
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

    pub(super) fn row(&self, member: &Member) -> Option<&AddressRecord> {
        let held = self.held.get(&keys::address(member.network, member.address))?;
        if let About::Address { row, .. } = &held.fact.about { Some(row) } else { None }
    }

    pub(super) fn hold(&mut self, key: Key, held: Held) {
        self.version += 1;
        self.forget_indexes(&key);
        match held.stored {
            Stored::Same(_) => self.lost.remove(&key),
            Stored::Lost { .. } => self.lost.insert(key.clone()),
        };
        if let About::Member { member, .. } = &held.fact.about {
            self.members.insert(member.id, key.clone());
            self.at.entry((member.network, member.address)).or_default().insert(member.id);
        }
        self.held.insert(key, held);
    }

    fn lose(&mut self, key: &Key, found: Expected, now: Instant) {
        let Some(held) = self.held.get_mut(key) else { return };
        let (since, is_over) = match held.stored {
            Stored::Lost { since, is_over, .. } => (since, is_over),
            Stored::Same(_) => (now, false),
        };
        held.stored = Stored::Lost { since, found, is_over };
        self.lost.insert(key.clone());
    }

    /// Takes a record out of what is believed.
    pub(super) fn drop_record(&mut self, key: &Key, now: Instant) -> Event {
        self.version += 1;
        self.forget_indexes(key);
        self.lost.remove(key);
        if let Some(Held { value, fact, stored: Stored::Same(revision) }) = self.held.remove(key)
            && let About::Member { member, .. } = fact.about
        {
            let ghost = Ghost { member: Member::clone(&member), value, revision, since: now, is_over: true };
            self.ghosts.insert(key.clone(), ghost);
        }
        Event::Delete { key: key.clone(), revision: Revision::default() }
    }

    fn forget_indexes(&mut self, key: &Key) {
        let Some(Held { fact: Fact { about: About::Member { member, .. }, .. }, .. }) = self.held.get(key) else {
            return;
        };
        let (id, place) = (member.id, (member.network, member.address));
        // The membership may stand under another key by now.
        if self.members.get(&id) == Some(key) {
            self.members.remove(&id);
            if let Some(ids) = self.at.get_mut(&place) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.at.remove(&place);
                }
            }
        }
    }
}
