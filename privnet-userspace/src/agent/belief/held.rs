//! The records that are believed, and how the store's transactions change them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Instant;

use super::fact::{About, Fact, is_presence};
use super::kept_ends::Ends;
use super::marks::{Beaten, Marks};
use crate::model::{ContainerRef, HostName, Member, MemberId, NetworkId};
use crate::store::records::{AddressRecord, RecordError};
use crate::store::{Entry, Event, Expected, Key, Listing, Revision, Value, keys};

/// What is believed of the store.
#[derive(Clone, Debug)]
pub struct Belief {
    pub(super) own: HostName,
    pub(super) held: BTreeMap<Key, Held>,
    /// Records of memberships that the store has and that are not believed.
    pub(super) ghosts: BTreeMap<Key, Ghost>,
    /// Other records that the store has and that are not believed, since others are believed under their keys.
    pub(super) refused: BTreeMap<Key, Entry>,
    /// What an operator ended.
    pub(super) marks: Marks,
    /// The ends of memberships in networks that are not there: they are as they were once the network is there again.
    pub(super) ends: Ends,
    /// The key of each membership's record.
    pub(super) members: BTreeMap<MemberId, Key>,
    /// The memberships that are believed to have an address: more than one only where the build before is at work.
    pub(super) at: BTreeMap<(NetworkId, Ipv4Addr), BTreeSet<MemberId>>,
    /// The keys of which the store has not what is believed.
    pub(super) lost: BTreeSet<Key>,
    /// What became of the memberships of this host whose address an earlier one has.
    pub(super) kept_off: BTreeMap<MemberId, (ContainerRef, String)>,
    /// Whether the store has been read: before, nothing is known to be lost.
    pub(super) was_read: bool,
    /// Whether nothing is remembered of the store that its first reading can be compared with.
    pub(super) is_without_memory: bool,
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
    pub(super) const fn is_over(&self) -> bool {
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
            marks: Marks::none(),
            ends: Ends::none(),
            members: BTreeMap::new(),
            at: BTreeMap::new(),
            lost: BTreeSet::new(),
            kept_off: BTreeMap::new(),
            was_read: false,
            is_without_memory: false,
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
        if self.is_beaten(&fact.about) {
            return Ok(());
        }
        if self.held.get(&entry.key).is_none_or(|held| fact.follows(&held.fact)) {
            let stored = Stored::Lost { since: now, found: Expected::Absent, is_over: false };
            self.hold(entry.key, Held { value: entry.value, fact, stored });
        }
        Ok(())
    }

    /// Whether every record of a reading can be read.
    ///
    /// # Errors
    /// Those of the first record that cannot.
    pub fn read_all(listing: &Listing) -> Result<(), RecordError> {
        listing.entries.iter().try_for_each(|entry| Fact::read(entry).map(drop))
    }

    /// Compares a reading of the whole store with what is believed, and returns the changes of what is believed. A record that
    /// cannot be read is named and changes nothing, as where it comes by a watch.
    pub fn compare(&mut self, listing: &Listing, now: Instant) -> Vec<Event> {
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
        let missing = self
            .held
            .keys()
            .chain(self.refused.keys().filter(|key| !self.held.contains_key(key)))
            .chain(self.ghosts.keys())
            .chain(self.marks.beaten.keys())
            .filter(|key| !read.contains_key(key));
        let deletions = missing.map(|key| Event::Delete { key: key.clone(), revision: listing.revision });
        let changes: Vec<Event> = puts.chain(deletions).collect();
        if listing.revision < self.revision {
            self.stepped_back = Some(now);
        }
        self.revision = listing.revision;
        let believed = self.follow(&changes, now);
        let may_lack_members = std::mem::take(&mut self.is_without_memory) && self.believes_in_members();
        // Also what a snapshot remembered before this first reading.
        if may_lack_members || self.lost.iter().any(|key| !is_presence(key)) {
            self.stepped_back = Some(now);
        }
        believed
    }

    /// Follows a transaction of the store, and returns the changes of what is believed, in their order.
    pub fn follow(&mut self, changes: &[Event], now: Instant) -> Vec<Event> {
        if self.comes_back(changes) { self.take_back(changes) } else { self.weigh(changes, now) }
    }

    /// Follows a transaction that may end the belief in anything.
    pub(super) fn weigh(&mut self, changes: &[Event], now: Instant) -> Vec<Event> {
        let is_mark = |event: &&Event| matches!(event, Event::Put { key, .. } if key.below(&keys::marks()).is_some());
        let is_row = |event: &&Event| matches!(event, Event::Put { key, .. } if keys::parse_address(key).is_some());
        let (mut believed, mut touched) = (Vec::new(), BTreeSet::new());
        self.begin_to_lose(now);
        // What marks say, and then rows, decides what the other records of the transaction mean.
        let (marks, others): (Vec<&Event>, Vec<&Event>) = changes.iter().partition(is_mark);
        let (rows, others): (Vec<&Event>, Vec<&Event>) = others.into_iter().partition(is_row);
        self.put_all(&marks, changes, now, &mut believed, &mut touched);
        self.end_marked_members(now, &mut believed, &mut touched);
        let before = self.lost.clone();
        self.put_all(&rows, changes, now, &mut believed, &mut touched);
        self.put_all(&others, changes, now, &mut believed, &mut touched);
        for event in changes {
            if let Event::Put { revision, .. } | Event::Delete { revision, .. } = event {
                self.revision = self.revision.max(*revision);
            }
            if let Event::Delete { key, revision } = event {
                self.ghosts.remove(key);
                self.refused.remove(key);
                self.marks.beaten.remove(key);
                if self.is_swept(key) {
                    believed.push(self.drop_record(key, now));
                    self.ends.forget(key);
                } else if self.held.contains_key(key) {
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
            let give_way = |belief: &mut Self, believed: &mut Vec<Event>| {
                belief.give_way(now, believed) || belief.give_further_names_way(now, believed)
            };
            if heirs.is_empty() && !give_way(self, &mut believed) {
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

    /// What the agent after this one is to remember: the records that are believed, and the ends that are kept.
    pub fn memory(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.records().chain(self.ends.records())
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

    /// Has the first reading of a store with members taken for one of a store that may have stepped back: nothing was seen of it
    /// before.
    pub const fn begin_without_memory(&mut self) {
        self.is_without_memory = true;
    }

    /// Takes the store for one that may have stepped back: what it says may be less than it said.
    pub const fn doubt(&mut self, now: Instant) {
        self.stepped_back = Some(now);
    }

    /// The number of a record that is believed; 0 where none is.
    #[must_use]
    pub fn serial(&self, key: &Key) -> u64 {
        self.held.get(key).map_or(0, |held| held.fact.serial)
    }

    pub(super) fn row(&self, member: &Member) -> Option<&AddressRecord> {
        let key = keys::address(member.network, member.address);
        match self.held.get(&key).map(|held| &held.fact.about) {
            Some(About::Address { row, .. }) => Some(row),
            Some(_) => None,
            None => self.ends.row(&key),
        }
    }

    pub(super) fn hold(&mut self, key: Key, held: Held) {
        self.version += 1;
        self.forget_indexes(&key);
        self.ends.forget(&key);
        match held.stored {
            Stored::Same(_) => self.lost.remove(&key),
            Stored::Lost { .. } => self.lost.insert(key.clone()),
        };
        self.marks.note(&held.fact.about);
        if let About::Member { member, .. } = &held.fact.about {
            self.members.insert(member.id, key.clone());
            self.at.entry((member.network, member.address)).or_default().insert(member.id);
        }
        self.held.insert(key, held);
    }

    pub(super) fn lose(&mut self, key: &Key, found: Expected, now: Instant) {
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
        let delete = Event::Delete { key: key.clone(), revision: Revision::default() };
        let Some(Held { value, fact, stored }) = self.held.remove(key) else { return delete };
        let is_beaten = self.is_beaten(&fact.about);
        if !is_beaten {
            self.ends.keep(key, &value, &fact);
        }
        let Stored::Same(revision) = stored else { return delete };
        if is_beaten {
            self.marks.beaten.insert(key.clone(), Beaten { revision, since: now });
        } else if let About::Member { member, .. } = fact.about {
            let since = self.marks.of(&member).map_or(now, |mark| self.since(mark, now));
            let ghost = Ghost { member: Member::clone(&member), value, revision, since, is_over: true };
            self.ghosts.insert(key.clone(), ghost);
        }
        delete
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
