//! What has to be written so that the store has what is believed, and when it is this host's turn to write it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::fact::About;
use super::held::{Belief, Held, Stored};
use crate::model::{HostName, Member, NetworkId};
use crate::store::{Expected, Key, Transaction, Value, keys};

/// How long another host has to put back what is its own, before this one does it in its place.
pub(super) const OTHERS_PATIENCE: Duration = Duration::from_secs(3);
/// How long a host that is there has to put back what is its own. It may not know the membership any more: it sees the record
/// then, and ends the membership unless its container runs.
pub(super) const OWNERS_PATIENCE: Duration = Duration::from_secs(30);
/// How long what is lost again and again waits at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long what was put back has to stay before its next loss counts as the first.
const FORGIVEN: Duration = Duration::from_secs(600);
/// How many records one transaction puts back, besides a membership's own and its row: each is two operations.
pub(super) const MAX_RECORDS: usize = 50;

/// What is put back, or taken away, together. In the order in which it is to be done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// That an operator ended something.
    Mark(Marked),
    /// A network, its name and its VNI.
    Network(NetworkId),
    /// A host.
    Host(HostName),
    /// A membership.
    Membership(Key),
    /// Addresses of a network that are free.
    Rows(NetworkId),
    /// A record of a membership that is over.
    Ghost(Key),
    /// Records that marks beat, this one first.
    Beaten(Key),
}

/// What an operator ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Marked {
    /// A network, with its members.
    Network(NetworkId),
    /// The agent of a host, with the members that it made.
    Instance(Uuid),
}

impl Unit {
    /// Whether both are of one kind, so that neither has to come first.
    #[must_use]
    pub fn is_of_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Whether its record is taken away, and not put back.
    #[must_use]
    pub const fn is_removed(&self) -> bool {
        matches!(self, Self::Ghost(_) | Self::Beaten(_))
    }
}

/// What makes the store have what is believed of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// What it puts back.
    pub unit: Unit,
    /// The same, for a person.
    pub what: String,
    /// The command that ends it for good, where there is one.
    pub end: Option<String>,
    /// The transactions, one after another: they change nothing that is not as it was seen.
    pub transactions: Vec<Transaction>,
}

/// Records of one unit that the store has lost.
#[derive(Default)]
struct Lost<'a> {
    records: Vec<(&'a Key, &'a Value, Expected)>,
    since: Option<Instant>,
}

impl Belief {
    /// What this host is to write by now.
    #[must_use]
    pub fn repairs(&self, now: Instant) -> Vec<Repair> {
        if !self.was_read {
            return Vec::new();
        }
        let mut units: BTreeMap<Unit, Lost<'_>> = BTreeMap::new();
        // The host of the later membership gives it another further name.
        for key in self.lost.iter().filter(|key| !self.is_further_name_of_an_earlier_one(key)) {
            let Some(Held { value, fact, stored: Stored::Lost { since, found, .. } }) = self.held.get(key) else {
                continue;
            };
            let Some(unit) = self.unit_of(key, &fact.about) else { continue };
            let lost = units.entry(unit).or_default();
            lost.records.push((key, value, *found));
            lost.since = Some(lost.since.map_or(*since, |earlier| earlier.min(*since)));
        }
        let repairs = units.into_iter().filter(|(unit, lost)| self.is_due(unit, lost.since, now));
        let put_back = repairs.map(|(unit, lost)| {
            let transactions = self.transactions(&unit, lost.records);
            let (what, end) = (self.describe(&unit), self.command_that_ends(&unit));
            Repair { unit, what, end, transactions }
        });
        put_back.chain(self.removals(now)).chain(self.beaten_records(now)).collect()
    }

    /// What puts back the records of a unit: what leads to a membership first, its row and its record last. Each takes what one
    /// transaction of etcd can.
    fn transactions(&self, unit: &Unit, mut records: Vec<(&Key, &Value, Expected)>) -> Vec<Transaction> {
        let row = self.row_of(unit);
        let is_last = |key: &Key| {
            matches!(unit, Unit::Membership(record) if key == record) || row.as_ref().is_some_and(|(row, _)| row == key)
        };
        records.sort_by_key(|(key, ..)| is_last(key));
        let first = records.iter().take_while(|(key, ..)| !is_last(key)).count();
        let (before, last) = records.split_at(first);
        let put_one = |transaction: Transaction, (key, value, found): &(&Key, &Value, Expected)| {
            transaction.require(Key::clone(key), *found).put(Key::clone(key), Value::clone(value))
        };
        // An end that this agent has not seen yet must not be undone: the row of the membership, or a mark.
        let row_stands = row.iter().map(|(key, found)| (key.clone(), *found));
        let unmarked = self.network_of(unit).map(|network| (keys::network_mark(network), Expected::Absent));
        let instance =
            if let Unit::Membership(key) = unit { self.member(key).and_then(|it| it.instance) } else { None };
        let remembered = instance.map(|instance| (keys::instance_mark(instance), Expected::Absent));
        let stands: Vec<(Key, Expected)> = row_stands.chain(unmarked).chain(remembered).collect();
        let begun = || stands.iter().fold(Transaction::new(), |begun, (key, found)| begun.require(key.clone(), *found));
        let over = self.ghost_in_place_of(unit).map(|over| self.without_pointers(begun(), over));
        let put = before.chunks(MAX_RECORDS).chain([last]).filter(|chunk| !chunk.is_empty());
        let put = put.map(|chunk| chunk.iter().fold(begun(), put_one));
        over.into_iter().chain(put).collect()
    }

    /// The memberships, networks and hosts of which the store has lost a record for that long, for a person.
    #[must_use]
    pub fn lost_for(&self, patience: Duration, now: Instant) -> Vec<String> {
        let is_lost_for_long = |key: &&Key| {
            self.was_read && self.held.get(*key).is_some_and(|held| {
                matches!(held.stored, Stored::Lost { since, .. } if now.saturating_duration_since(since) >= patience)
            })
        };
        let lost = self.lost.iter().filter(is_lost_for_long);
        let units: BTreeSet<Unit> = lost.filter_map(|key| self.unit_of(key, &self.held.get(key)?.fact.about)).collect();
        let line = |unit: &Unit| match self.command_that_ends(unit) {
            Some(end) => format!("{} ({end})", self.describe(unit)),
            None => self.describe(unit),
        };
        units.iter().map(line).collect()
    }

    /// What a record is put back with; nothing for a presence, which its own host writes again.
    pub(super) fn unit_of(&self, key: &Key, about: &About) -> Option<Unit> {
        Some(match about {
            About::NetworkMark(network) => Unit::Mark(Marked::Network(*network)),
            About::InstanceMark(mark) => Unit::Mark(Marked::Instance(mark.instance)),
            About::Network(network) | About::NetworkPointer(network) => Unit::Network(*network),
            About::Host { host, .. } | About::Drain(host) => Unit::Host(host.clone()),
            About::Member { .. } => Unit::Membership(key.clone()),
            About::MemberPointer { network, member, holder } => {
                let known = member.and_then(|id| self.members.get(&id).cloned());
                Unit::Membership(known.unwrap_or_else(|| keys::member(*network, holder)))
            }
            About::Address { network, address, row, .. } => {
                let holder = row.holder.as_ref().and(row.member).and_then(|id| self.members.get(&id).cloned());
                let held = || self.at.get(&(*network, *address))?.first().and_then(|id| self.members.get(id).cloned());
                holder.or_else(held).map_or(Unit::Rows(*network), Unit::Membership)
            }
            About::Presence { .. } => return None,
        })
    }

    /// Whether it is this host's turn: at once for what is its own, and for what is a host's that is away after some time.
    fn is_due(&self, unit: &Unit, since: Option<Instant>, now: Instant) -> bool {
        let owner = match unit {
            // One that is absent is believed where this host has members in it; a mark is that of all.
            Unit::Network(_) | Unit::Mark(_) => return true,
            Unit::Host(host) => Some(host),
            // Its host gives it another number.
            Unit::Membership(key) if self.is_name_of_an_earlier_one(key) => return false,
            Unit::Membership(key) => self.member(key).map(|member| &member.host),
            Unit::Rows(_) | Unit::Beaten(_) => None,
            Unit::Ghost(key) => self.ghosts.get(key).map(|ghost| &ghost.member.host),
        };
        let is_late = |patience| since.is_some_and(|since| now.saturating_duration_since(since) >= patience);
        match owner {
            Some(owner) if *owner == self.own => true,
            Some(owner) if self.is_stored(&keys::presence(owner)) => is_late(OWNERS_PATIENCE),
            Some(_) | None => is_late(OTHERS_PATIENCE),
        }
    }

    /// The records of memberships that are over, with what belongs to them alone.
    fn removals(&self, now: Instant) -> impl Iterator<Item = Repair> + '_ {
        let over = self
            .ghosts
            .iter()
            .filter(|(_, ghost)| ghost.is_over)
            .map(|(key, ghost)| (Unit::Ghost(key.clone()), key, ghost));
        over.filter(move |(unit, _, ghost)| self.is_due(unit, Some(ghost.since), now)).map(|(unit, key, ghost)| {
            let transaction =
                Transaction::new().require(key.clone(), Expected::Revision(ghost.revision)).delete(key.clone());
            let transaction = self.without_pointers(transaction, &ghost.member);
            let what = format!(
                "the record of {} in {network}, which has ended",
                ghost.member.container,
                network = ghost.member.network
            );
            Repair { unit, what, end: None, transactions: vec![transaction] }
        })
    }

    /// The network that a unit ends with.
    fn network_of(&self, unit: &Unit) -> Option<NetworkId> {
        match unit {
            Unit::Network(network) | Unit::Rows(network) => Some(*network),
            Unit::Membership(key) => self.held.get(key)?.fact.about.network(),
            Unit::Mark(_) | Unit::Host(_) | Unit::Ghost(_) | Unit::Beaten(_) => None,
        }
    }

    /// Deletes what leads to a membership that is over, too.
    fn without_pointers(&self, mut transaction: Transaction, over: &Member) -> Transaction {
        // A membership that goes on under another name keeps its key.
        if self.members.contains_key(&over.id) {
            return transaction;
        }
        let names = over.names.iter().map(|name| keys::member_name(over.network, &name.container));
        for pointer in names.chain([keys::public_key(over.network, over.public_key)]) {
            let Some(Held { fact, stored: Stored::Same(revision), .. }) = self.held.get(&pointer) else { continue };
            if matches!(&fact.about, About::MemberPointer { member: Some(id), .. } if *id == over.id) {
                transaction = transaction.require(pointer.clone(), Expected::Revision(*revision)).delete(pointer);
            }
        }
        transaction
    }

    /// The row of a membership's address, and what the store has there.
    fn row_of(&self, unit: &Unit) -> Option<(Key, Expected)> {
        let Unit::Membership(key) = unit else { return None };
        let member = self.member(key)?;
        let row = keys::address(member.network, member.address);
        let found = match self.held.get(&row)?.stored {
            Stored::Same(revision) => Expected::Revision(revision),
            Stored::Lost { found, .. } => found,
        };
        Some((row, found))
    }

    /// The membership that is over and whose record stands in a membership's place.
    fn ghost_in_place_of(&self, unit: &Unit) -> Option<&Member> {
        let Unit::Membership(key) = unit else { return None };
        self.ghosts.get(key).filter(|ghost| ghost.is_over).map(|ghost| &ghost.member)
    }

    pub(super) fn member(&self, key: &Key) -> Option<&Member> {
        let held = self.held.get(key)?;
        if let About::Member { member, .. } = &held.fact.about { Some(member) } else { None }
    }

    fn describe(&self, unit: &Unit) -> String {
        match unit {
            Unit::Mark(Marked::Network(network)) => format!("the end of network {network}"),
            Unit::Mark(Marked::Instance(instance)) => format!("the end of the host whose agent was {instance}"),
            Unit::Network(network) => format!("network {network}"),
            Unit::Host(host) => format!("host {host}"),
            Unit::Membership(key) => match self.member(key) {
                Some(member) => format!("{} ({}) in {}", member.container, member.address, member.network),
                None => key.to_string(),
            },
            Unit::Rows(network) => format!("free addresses of {network}"),
            Unit::Ghost(key) | Unit::Beaten(key) => key.to_string(),
        }
    }

    fn command_that_ends(&self, unit: &Unit) -> Option<String> {
        if let Unit::Network(network) = unit {
            return Some(format!("`privnet network delete {network} --force` ends it, with its members"));
        }
        let Unit::Membership(key) = unit else { return None };
        let Member { network, container, host, .. } = self.member(key)?;
        let (app, kind, number) = (container.app, &container.kind, container.number);
        Some(format!(
            "`privnet detach --network {network} --app {app} --type {kind} --number {number}` on host {host} ends it"
        ))
    }
}

/// The growing pauses between the times that something is put back which is lost again and again.
#[derive(Debug, Default)]
pub struct Pauses(BTreeMap<Unit, Pause>);

#[derive(Debug)]
struct Pause {
    times: u32,
    last: Instant,
}

impl Pauses {
    /// Forgets what has not been lost for long.
    pub fn forgive(&mut self, now: Instant) {
        self.0.retain(|_, pause| now.saturating_duration_since(pause.last) < FORGIVEN);
    }

    /// Whether something may be put back now.
    #[must_use]
    pub fn may(&self, unit: &Unit, now: Instant) -> bool {
        self.0.get(unit).is_none_or(|pause| {
            let wait = Duration::from_secs(1 << pause.times.min(6)).min(LONGEST_PAUSE);
            now.saturating_duration_since(pause.last) >= wait
        })
    }

    /// Notes that something was put back, and returns how often it has been, this time included.
    pub fn note(&mut self, unit: &Unit, now: Instant) -> u32 {
        let pause = self.0.entry(unit.clone()).or_insert(Pause { times: 0, last: now });
        *pause = Pause { times: pause.times + 1, last: now };
        pause.times
    }
}
