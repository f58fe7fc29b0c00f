//! What is believed of the store, as a value that follows its changes.
//!
//! Members are indexed by network and by host, and shared: what a pass or a check costs follows what it asks for.

mod applied;
mod left;
mod quarantine;
mod reads;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use self::left::Left;
use self::quarantine::Quarantine;
use super::belief::Belief;
pub use super::concerns::Concerns;
use super::door::explain;
use crate::model::{ContainerRef, HostName, Member, MemberId, MemberState, Network, NetworkId, NetworkName};
use crate::store::claims::Occupancy;
use crate::store::records::{
    self, AddressRecord, DrainRecord, HostRecord, InstanceMark, NetworkMark, NetworkPointer, PresenceRecord,
    RecordError, Stored,
};
use crate::store::{Entry, Event, Key, Listing, Revision, keys};

/// Everything of the store that an agent acts on.
#[derive(Clone, Debug, Default)]
pub struct World {
    networks: BTreeMap<NetworkId, Network>,
    /// By their oldest names.
    members: BTreeMap<NetworkId, BTreeMap<ContainerRef, Arc<Member>>>,
    /// The oldest name of each membership.
    oldest: BTreeMap<MemberId, (NetworkId, ContainerRef)>,
    /// The same members, by host.
    by_host: BTreeMap<HostName, BTreeMap<(NetworkId, ContainerRef), Arc<Member>>>,
    /// The members of this host that are ready, and of which the store has not been seen to say so.
    ready: BTreeSet<MemberId>,
    /// What is given out in each network.
    occupancy: BTreeMap<NetworkId, Occupancy>,
    hosts: BTreeMap<HostName, HostRecord>,
    /// The hosts whose agents were heard of late, and what these say of themselves; nothing where that cannot be read.
    present: BTreeMap<HostName, Option<PresenceRecord>>,
    /// The network that has each name.
    names: BTreeMap<NetworkName, NetworkId>,
    /// The networks that were ended with their members.
    network_marks: BTreeMap<NetworkId, NetworkMark>,
    /// The agents of hosts that were forgotten with the members that they made.
    instance_marks: BTreeMap<Uuid, InstanceMark>,
    /// The hosts that operators empty.
    draining: BTreeSet<HostName>,
    quarantine: Quarantine,
    left: Left,
    /// The newest change of a network, a member or an address; those of hosts are told by hosts about themselves.
    applied: Revision,
    /// Records that could not be read; what they said before goes on to hold.
    problems: BTreeMap<String, String>,
}

/// The image, and what it is an image of, shared by the agent's tasks.
#[derive(Debug)]
pub struct SharedWorld {
    /// Taken before the image.
    belief: Mutex<Belief>,
    world: RwLock<World>,
    changed: watch::Sender<()>,
}

impl SharedWorld {
    /// Shares an image of what is believed.
    pub fn new(belief: Belief) -> Self {
        let mut world = World::default();
        let everything: Vec<Event> = belief.everything().collect();
        world.follow_all(&everything);
        Self { belief: Mutex::new(belief), world: RwLock::new(world), changed: watch::Sender::new(()) }
    }

    /// A copy of the image, or a part of it.
    pub fn read<T>(&self, read: impl FnOnce(&World) -> T) -> T {
        read(&self.world.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A copy of what is believed, or a part of it.
    pub fn belief<T>(&self, read: impl FnOnce(&Belief) -> T) -> T {
        read(&self.belief.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows a transaction of the store, and says what it concerns.
    pub fn follow(&self, changes: &[Event], now: Instant) -> Concerns {
        let mut belief = self.belief.lock().unwrap_or_else(PoisonError::into_inner);
        let believed = belief.follow(changes, now);
        self.write(|world| world.follow_all(&believed))
    }

    /// Compares a reading of the whole store with what is believed.
    pub fn compare(&self, listing: &Listing, now: Instant) {
        let mut belief = self.belief.lock().unwrap_or_else(PoisonError::into_inner);
        let believed = belief.compare(listing, now);
        self.write(|world| world.read_again(&believed, listing));
    }

    /// Ends the belief in presences that were deleted long enough ago, and says what that concerns.
    pub fn expire_presences(&self, now: Instant) -> Concerns {
        let mut belief = self.belief.lock().unwrap_or_else(PoisonError::into_inner);
        let believed = belief.expire(now);
        if believed.is_empty() { Concerns::Nothing } else { self.write(|world| world.follow_all(&believed)) }
    }

    /// Ends the quarantine of the addresses that have rested by now, and says what that concerns.
    pub fn expire_quarantine(&self, now_unix_seconds: u64) -> BTreeSet<NetworkId> {
        self.write(|world| world.expire_quarantine(now_unix_seconds))
    }

    /// Ends the wait of the next holders of addresses that were left long enough ago, and says what that concerns.
    pub fn expire_left(&self, now: Instant) -> BTreeSet<NetworkId> {
        self.write(|world| world.expire_left(now))
    }

    /// Takes members of this host for ready, which the store is told after that.
    pub fn are_ready(&self, members: &[MemberId]) {
        self.write(|world| world.are_ready(members));
    }

    /// Takes the store for one that may lack what others have claimed, if there are members: nothing was seen of it before.
    pub fn doubt_members(&self, now: Instant) {
        let mut belief = self.belief.lock().unwrap_or_else(PoisonError::into_inner);
        if belief.believes_in_members() {
            belief.doubt(now);
        }
    }

    fn write<T>(&self, write: impl FnOnce(&mut World) -> T) -> T {
        let written = write(&mut self.world.write().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_replace(());
        written
    }

    /// Follows the changes of what the store is known to say.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Waits until the store is known to say so, or patience ends: what this host has just written comes by the watch too.
    pub async fn wait_until(&self, patience: Duration, is_so: impl Fn(&World) -> bool) {
        let mut changes = self.changed.subscribe();
        let seen = async { while !self.read(&is_so) && changes.changed().await.is_ok() {} };
        // What is not seen by then is asked of the store when it matters.
        let _ = tokio::time::timeout(patience, seen).await;
    }
}

impl World {
    /// Ends the quarantine of the addresses that have rested by now, and returns the networks in which there were some.
    pub fn expire_quarantine(&mut self, now_unix_seconds: u64) -> BTreeSet<NetworkId> {
        self.quarantine.expire(now_unix_seconds)
    }

    /// Ends the wait of the next holders of addresses that were left long enough ago, and returns the networks of these.
    pub fn expire_left(&mut self, now: Instant) -> BTreeSet<NetworkId> {
        let networks = &self.networks;
        let over = self.left.expire(|network| networks.get(&network).map_or(Duration::ZERO, kept_for), now);
        let has_holder = |(network, address): &(NetworkId, Ipv4Addr)| {
            self.row(*network, *address).is_none_or(|row| row.record.holder.is_some())
        };
        over.into_iter().filter(has_holder).map(|(network, _)| network).collect()
    }

    /// Follows the changes of one transaction, and says whom they concern.
    pub fn follow_all(&mut self, changes: &[Event]) -> Concerns {
        changes.iter().fold(Concerns::Nothing, |concerns, change| concerns.and(self.follow(change)))
    }

    /// Follows one change and says whom it concerns.
    pub fn follow(&mut self, event: &Event) -> Concerns {
        if let Event::Put { key, revision, .. } | Event::Delete { key, revision } = event {
            self.note_applied(key, *revision);
        }
        match event {
            Event::Put { key, value, revision } => {
                let entry = Entry { key: key.clone(), value: value.clone(), revision: *revision, lease: None };
                match self.put(&entry) {
                    Ok(concerns) => {
                        self.problems.remove(key.as_str());
                        concerns
                    }
                    Err(error) => {
                        self.problems.insert(key.to_string(), explain::problem(&error.into()));
                        Concerns::Nothing
                    }
                }
            }
            Event::Delete { key, .. } => {
                self.problems.remove(key.as_str());
                self.delete(key)
            }
            Event::Resync(_) => Concerns::Everything,
        }
    }

    fn put(&mut self, entry: &Entry) -> Result<Concerns, RecordError> {
        if entry.key.below(&keys::network_marks()).is_some() {
            let mark = records::network_mark_from(entry)?;
            let id = mark.network;
            self.network_marks.insert(id, mark);
            Ok(one(id))
        } else if entry.key.below(&keys::instance_marks()).is_some() {
            let mark = records::instance_mark_from(entry)?;
            self.instance_marks.insert(mark.instance, mark);
            Ok(Concerns::Everything)
        } else if entry.key.below(&keys::drains()).is_some() {
            let DrainRecord { host, draining, .. } = records::drain_from(entry)?;
            let is_new = if draining { self.draining.insert(host.clone()) } else { self.draining.remove(&host) };
            Ok(if is_new { self.networks_of(&host) } else { Concerns::Nothing })
        } else if let Some(name) = network_name(&entry.key) {
            let NetworkPointer { network } = records::decode(&entry.key, &entry.value)?;
            self.names.insert(name, network);
            Ok(one(network))
        } else if entry.key.below(&keys::networks()).is_some() {
            let network = records::network_from(entry)?;
            let id = network.id;
            self.networks.insert(id, network);
            Ok(one(id))
        } else if entry.key.below(&keys::all_members()).is_some() {
            let member = records::member_from(entry)?;
            let id = member.network;
            self.put_member(member);
            Ok(one(id))
        } else if entry.key.below(&keys::all_addresses()).is_some() {
            let (network, address, row) = records::address_from(entry)?;
            Ok(if self.put_address(network, address, row) { one(network) } else { Concerns::Nothing })
        } else if entry.key.below(&keys::hosts()).is_some() {
            let host = records::host_from(entry)?;
            let is_as_before = |known: &HostRecord| known.vtep == host.vtep && known.clock_steps == host.clock_steps;
            let changed = !self.hosts.get(&host.name).is_some_and(is_as_before);
            self.hosts.insert(host.name.clone(), host);
            Ok(if changed { Concerns::Everything } else { Concerns::Nothing })
        } else if let Some(host) = keys::host_of_presence(&entry.key) {
            let presence = records::read::<PresenceRecord>(entry).ok().map(|presence| presence.record);
            let is_new = self.present.insert(host.clone(), presence).is_none();
            Ok(if is_new { self.networks_of(&host) } else { Concerns::Nothing })
        } else {
            Ok(Concerns::Nothing)
        }
    }

    /// The networks that a host has members in.
    fn networks_of(&self, host: &HostName) -> Concerns {
        Concerns::Networks(self.members_on(host).map(|member| member.network).collect())
    }

    /// Takes members of this host for ready, before the store says so.
    pub fn are_ready(&mut self, members: &[MemberId]) {
        for id in members {
            if let Some(member) = self.membership(*id).map(|member| Member::clone(member)) {
                self.ready.insert(*id);
                self.put_member(member);
            }
        }
    }

    /// The members of a network that this host takes for ready, and of which the store has not been seen to say so.
    pub fn taken_for_ready(&self, network: NetworkId) -> impl Iterator<Item = MemberId> {
        self.members(network).map(|member| member.id).filter(|id| self.ready.contains(id))
    }

    fn put_member(&mut self, mut member: Member) {
        if member.state >= MemberState::Ready {
            self.ready.remove(&member.id);
        } else if self.ready.contains(&member.id) {
            member.state = MemberState::Ready;
        }
        let (network, container, host) = (member.network, member.container.clone(), member.host.clone());
        if let Some(before) = self.forget_member(network, &container).filter(|before| before.address != member.address)
        {
            self.note_left(&before);
        }
        // The end of its record under the name that was the oldest before comes after this.
        if let Some((_, before)) = self.oldest.remove(&member.id).filter(|(of, _)| *of == network) {
            self.forget_member(network, &before);
        }
        let member = Arc::new(member);
        self.occupancy.entry(network).or_default().put_member(&member);
        self.oldest.insert(member.id, (network, container.clone()));
        self.by_host.entry(host).or_default().insert((network, container.clone()), Arc::clone(&member));
        self.members.entry(network).or_default().insert(container, member);
    }

    /// Notes that a member has left its address, if a client can have that by its name: it was ready, and waited for nobody itself.
    fn note_left(&mut self, member: &Member) {
        let (now, ttl) = (Instant::now(), self.networks.get(&member.network).map_or(Duration::ZERO, kept_for));
        if member.each_name().any(|name| name.state >= MemberState::Ready) && !self.left.holds_off(member, ttl, now) {
            self.left.note(member, now);
        }
    }

    /// Takes a member out of every index.
    fn forget_member(&mut self, network: NetworkId, container: &ContainerRef) -> Option<Arc<Member>> {
        let member = self.members.get_mut(&network)?.remove(container)?;
        if let Some(of_host) = self.by_host.get_mut(&member.host) {
            of_host.remove(&(network, container.clone()));
            if of_host.is_empty() {
                self.by_host.remove(&member.host);
            }
        }
        self.oldest.remove(&member.id);
        self.occupancy.entry(network).or_default().remove_member(&member);
        Some(member)
    }

    /// Follows an address record; whether the address rests now and did not, or the other way round.
    fn put_address(&mut self, network: NetworkId, address: Ipv4Addr, row: Stored<AddressRecord>) -> bool {
        let changed = match (&row.record.holder, row.record.released_unix_seconds) {
            (None, Some(since)) => self.quarantine.begin(network, address, since),
            (Some(_), _) | (None, None) => self.quarantine.end(network, address),
        };
        self.occupancy.entry(network).or_default().put_row(address, row);
        changed
    }

    /// A network that the store has lost may come back, and what is given out in it stays given out until its records go too.
    fn forget_occupancy_if_over(&mut self, network: NetworkId) {
        let is_empty = self.occupancy.get(&network).is_some_and(Occupancy::is_empty);
        if is_empty && !self.networks.contains_key(&network) {
            self.occupancy.remove(&network);
        }
    }

    fn delete(&mut self, key: &Key) -> Concerns {
        if let Some(id) = key.below(&keys::networks()).and_then(|id| id.parse().ok()) {
            self.networks.remove(&id);
            self.forget_occupancy_if_over(id);
            return one(id);
        }
        if let Some(name) = network_name(key) {
            return self.names.remove(&name).map_or(Concerns::Nothing, one);
        }
        if let Some((network, container)) = key.below(&keys::all_members()).and_then(|rest| rest.split_once('/')) {
            let (Ok(network), Ok(container)) = (network.parse(), container.parse()) else { return Concerns::Nothing };
            if let Some(member) = self.forget_member(network, &container) {
                self.ready.remove(&member.id);
                self.note_left(&member);
                // Its address record says since when, and comes by another way: before this, or after.
                self.quarantine.begin_unknown(network, member.address);
                self.forget_occupancy_if_over(network);
            }
            return one(network);
        }
        if let Some((network, address)) = keys::parse_address(key) {
            if let Some(occupancy) = self.occupancy.get_mut(&network) {
                occupancy.remove_row(address);
                self.forget_occupancy_if_over(network);
            }
            return if self.quarantine.end(network, address) { one(network) } else { Concerns::Nothing };
        }
        if let Some(host) = keys::host_of_presence(key) {
            return if self.present.remove(&host).is_some() { self.networks_of(&host) } else { Concerns::Nothing };
        }
        if let Some(host) = key.below(&keys::drains()).and_then(|host| host.parse().ok()) {
            return if self.draining.remove::<HostName>(&host) { self.networks_of(&host) } else { Concerns::Nothing };
        }
        if let Some(host) = key.below(&keys::hosts()).and_then(|host| host.parse().ok()) {
            // A host that goes takes its members' rows along when they are deleted; its VTEP alone concerns everybody.
            self.hosts.remove::<HostName>(&host);
            return Concerns::Everything;
        }
        Concerns::Nothing
    }
}

/// For how long a client may keep the answer for a name of a network.
fn kept_for(network: &Network) -> Duration {
    Duration::from_secs(network.names.ttl_seconds.into())
}

fn network_name(key: &Key) -> Option<NetworkName> {
    key.below(&keys::names())?.parse().ok()
}

fn one(network: NetworkId) -> Concerns {
    Concerns::Networks(BTreeSet::from([network]))
}
