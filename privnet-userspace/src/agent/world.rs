//! What the store says, as a value that follows its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{PoisonError, RwLock};

use super::door::explain;
use crate::ipam;
use crate::model::{ContainerRef, HostName, Member, Network, NetworkId};
use crate::store::records::{self, AddressRecord, HostRecord, RecordError};
use crate::store::{Entry, Event, Key, Store, keys};

/// Since when an address rests whose member has gone, and whose record has not been seen to say so yet.
const SINCE_UNKNOWN: u64 = u64::MAX;

/// Everything of the store that an agent acts on.
#[derive(Clone, Debug, Default)]
pub struct World {
    networks: BTreeMap<NetworkId, Network>,
    members: BTreeMap<NetworkId, BTreeMap<ContainerRef, Member>>,
    hosts: BTreeMap<HostName, HostRecord>,
    /// The hosts whose agents were heard of late.
    present: BTreeSet<HostName>,
    /// Addresses that rest, and since when, in seconds since 1970-01-01 UTC; [`NOT_YET_SAID`] until that is known.
    quarantined: BTreeMap<NetworkId, BTreeMap<Ipv4Addr, u64>>,
    /// Records that could not be read; what they said before goes on to hold.
    problems: BTreeMap<String, String>,
}

/// The image, shared by the agent's tasks.
#[derive(Debug)]
pub struct SharedWorld(RwLock<World>);

impl SharedWorld {
    /// Shares an image.
    pub const fn new(world: World) -> Self {
        Self(RwLock::new(world))
    }

    /// A copy of what the store says, or a part of it.
    pub fn read<T>(&self, read: impl FnOnce(&World) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what the store is known to say.
    pub fn write<T>(&self, write: impl FnOnce(&mut World) -> T) -> T {
        write(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which networks a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concerns {
    /// None.
    Nothing,
    /// These.
    Networks(BTreeSet<NetworkId>),
    /// All of them.
    Everything,
}

impl World {
    /// Reads everything, each room of the store as of one revision.
    ///
    /// # Errors
    /// When the store or a record is at fault.
    pub async fn read(store: &dyn Store) -> Result<(Self, Revisions), RecordError> {
        let networks = records::list_networks(store).await?;
        let members = records::list_members(store, None).await?;
        let addresses = records::list_addresses(store).await?;
        let hosts = records::list_hosts(store).await?;
        // After the hosts: one that begins in between is there.
        let presences = store.list(&keys::presences()).await?;
        let revisions = Revisions {
            networks: networks.revision,
            members: members.revision,
            addresses: addresses.revision,
            hosts: hosts.revision,
            presences: presences.revision,
        };
        let mut world = Self::default();
        world.networks.extend(networks.records.into_iter().map(|network| (network.id, network)));
        for member in members.records {
            world.put_member(member);
        }
        for (network, address, row) in addresses.records {
            world.put_address(network, address, &row.record);
        }
        world.hosts.extend(hosts.records.into_iter().map(|host| (host.name.clone(), host)));
        world.present.extend(presences.entries.iter().filter_map(|entry| present_host(&entry.key)));
        Ok((world, revisions))
    }

    /// The networks, by id.
    #[must_use]
    pub const fn networks(&self) -> &BTreeMap<NetworkId, Network> {
        &self.networks
    }

    /// A network's members, by address.
    #[must_use]
    pub fn members(&self, network: NetworkId) -> BTreeMap<Ipv4Addr, Member> {
        let members = self.members.get(&network).into_iter().flat_map(BTreeMap::values);
        members.map(|member| (member.address, member.clone())).collect()
    }

    /// A network's addresses whose members have left, and which nobody has had since.
    #[must_use]
    pub fn departed(&self, network: NetworkId) -> BTreeSet<Ipv4Addr> {
        self.quarantined.get(&network).into_iter().flat_map(BTreeMap::keys).copied().collect()
    }

    /// Forgets the addresses that have rested by now, and returns the networks in which there were some.
    pub fn expire_quarantine(&mut self, now_unix_seconds: u64) -> BTreeSet<NetworkId> {
        let mut expired = BTreeSet::new();
        for (network, addresses) in &mut self.quarantined {
            for since in addresses.values_mut().filter(|since| **since > now_unix_seconds) {
                // Not said, or said by a host whose clock is ahead: as if it were now.
                *since = now_unix_seconds;
            }
            let before = addresses.len();
            addresses.retain(|_, since| !ipam::has_rested(*since, now_unix_seconds, ipam::DEPARTED_SECONDS));
            if addresses.len() < before {
                expired.insert(*network);
            }
        }
        self.quarantined.retain(|_, addresses| !addresses.is_empty());
        expired
    }

    /// One member.
    #[must_use]
    pub fn member(&self, network: NetworkId, container: &ContainerRef) -> Option<&Member> {
        self.members.get(&network)?.get(container)
    }

    /// All members of a host, in all networks.
    pub fn members_on<'a>(&'a self, host: &'a HostName) -> impl Iterator<Item = &'a Member> {
        self.members.values().flat_map(BTreeMap::values).filter(move |member| member.host == *host)
    }

    /// The VTEP addresses of all hosts.
    #[must_use]
    pub fn vteps(&self) -> BTreeMap<HostName, Ipv4Addr> {
        self.hosts.values().map(|host| (host.name.clone(), host.vtep)).collect()
    }

    /// How often the clocks of hosts have stepped back; those that never did are left out.
    #[must_use]
    pub fn clock_steps(&self) -> BTreeMap<HostName, u64> {
        let stepped = self.hosts.values().filter(|host| host.clock_steps > 0);
        stepped.map(|host| (host.name.clone(), host.clock_steps)).collect()
    }

    /// Whether a host told of itself and has not been heard since for long. Its members may be well: nothing but their
    /// names depends on it.
    #[must_use]
    pub fn is_gone(&self, host: &HostName) -> bool {
        self.hosts.contains_key(host) && !self.present.contains(host)
    }

    /// Records that could not be read, one line each.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.values()
    }

    /// Follows one change and says whom it concerns.
    pub fn follow(&mut self, event: &Event) -> Concerns {
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
        if entry.key.below(&keys::networks()).is_some() {
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
            Ok(if self.put_address(network, address, &row.record) { one(network) } else { Concerns::Nothing })
        } else if entry.key.below(&keys::hosts()).is_some() {
            let host: HostRecord = records::decode(&entry.key, &entry.value)?;
            let is_as_before = |known: &HostRecord| known.vtep == host.vtep && known.clock_steps == host.clock_steps;
            let changed = !self.hosts.get(&host.name).is_some_and(is_as_before);
            self.hosts.insert(host.name.clone(), host);
            Ok(if changed { Concerns::Everything } else { Concerns::Nothing })
        } else if let Some(host) = present_host(&entry.key) {
            Ok(if self.present.insert(host.clone()) { self.networks_of(&host) } else { Concerns::Nothing })
        } else {
            Ok(Concerns::Nothing)
        }
    }

    /// The networks that a host has members in.
    fn networks_of(&self, host: &HostName) -> Concerns {
        Concerns::Networks(self.members_on(host).map(|member| member.network).collect())
    }

    fn put_member(&mut self, member: Member) {
        self.members.entry(member.network).or_default().insert(member.container.clone(), member);
    }

    /// Follows an address record; whether the address rests now and did not, or the other way round.
    fn put_address(&mut self, network: NetworkId, address: Ipv4Addr, record: &AddressRecord) -> bool {
        let quarantined = self.quarantined.entry(network).or_default();
        match (&record.holder, record.released_unix_seconds) {
            (None, Some(since)) => quarantined.insert(address, since).is_none(),
            (Some(_), _) | (None, None) => quarantined.remove(&address).is_some(),
        }
    }

    fn delete(&mut self, key: &Key) -> Concerns {
        if let Some(id) = key.below(&keys::networks()).and_then(|id| id.parse().ok()) {
            self.networks.remove(&id);
            return one(id);
        }
        if let Some((network, container)) = key.below(&keys::all_members()).and_then(|rest| rest.split_once('/')) {
            let (Ok(network), Ok(container)) = (network.parse(), container.parse()) else { return Concerns::Nothing };
            let members = self.members.get_mut(&network);
            if let Some(member) = members.and_then(|members| members.remove::<ContainerRef>(&container)) {
                // Its address record says since when, and comes by another way: before this, or after.
                self.quarantined.entry(network).or_default().entry(member.address).or_insert(SINCE_UNKNOWN);
            }
            return one(network);
        }
        if let Some((network, address)) = keys::parse_address(key) {
            let rested = self.quarantined.get_mut(&network).and_then(|quarantined| quarantined.remove(&address));
            return if rested.is_some() { one(network) } else { Concerns::Nothing };
        }
        if let Some(host) = present_host(key) {
            return if self.present.remove(&host) { self.networks_of(&host) } else { Concerns::Nothing };
        }
        if let Some(host) = key.below(&keys::hosts()).and_then(|host| host.parse().ok()) {
            // A host that goes takes its members' rows along when they are deleted; its VTEP alone concerns everybody.
            self.hosts.remove::<HostName>(&host);
            return Concerns::Everything;
        }
        Concerns::Nothing
    }
}

/// The revisions from which to watch.
#[derive(Clone, Copy, Debug)]
pub struct Revisions {
    /// Of the networks.
    pub networks: crate::store::Revision,
    /// Of the members.
    pub members: crate::store::Revision,
    /// Of the addresses.
    pub addresses: crate::store::Revision,
    /// Of the hosts.
    pub hosts: crate::store::Revision,
    /// Of who is there.
    pub presences: crate::store::Revision,
}

fn present_host(key: &Key) -> Option<HostName> {
    key.below(&keys::presences())?.parse().ok()
}

fn one(network: NetworkId) -> Concerns {
    Concerns::Networks(BTreeSet::from([network]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::names::desired::tests::{APP, SHOP, world};
    use crate::store::Revision;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 2);

    fn shop() -> NetworkId {
        SHOP.parse().expect("an id")
    }

    fn put(world: &mut World, record: &str) -> Concerns {
        let key = keys::address(shop(), ADDRESS);
        let value = record.as_bytes().to_vec().into();
        world.follow(&Event::Put { key, value, revision: Revision::default() })
    }

    fn member_leaves(world: &mut World) -> Concerns {
        let container = format!("1.web.{APP}").parse().expect("a container");
        world.follow(&Event::Delete { key: keys::member(shop(), &container), revision: Revision::default() })
    }

    fn released(at: u64) -> String {
        format!(r#"{{"version":1,"holder":null,"generation":0,"released_unix_seconds":{at}}}"#)
    }

    #[test]
    fn an_address_rests_from_its_members_end_whichever_word_of_it_comes_first() {
        for record_first in [true, false] {
            let mut world = world(&["ready"]);
            assert_eq!(world.departed(shop()), [].into());
            if record_first {
                assert_eq!(put(&mut world, &released(1000)), one(shop()));
                assert_eq!(member_leaves(&mut world), one(shop()));
            } else {
                assert_eq!(member_leaves(&mut world), one(shop()));
                assert_eq!(world.departed(shop()), [ADDRESS].into(), "before its record says so");
                assert_eq!(put(&mut world, &released(1000)), Concerns::Nothing, "that was known");
            }
            assert_eq!(world.expire_quarantine(1000 + ipam::DEPARTED_SECONDS - 1), [].into());
            assert_eq!(world.departed(shop()), [ADDRESS].into());
            assert_eq!(world.expire_quarantine(1000 + ipam::DEPARTED_SECONDS), [shop()].into());
            assert_eq!(world.departed(shop()), [].into());
        }
    }

    #[test]
    fn an_address_that_is_held_again_or_forgotten_rests_no_longer() {
        let mut world = world(&["ready"]);
        member_leaves(&mut world);
        put(&mut world, &released(1000));
        let held = format!(r#"{{"version":1,"holder":"2.web.{APP}","generation":1,"released_unix_seconds":null}}"#);
        assert_eq!(put(&mut world, &held), one(shop()));
        assert_eq!(world.departed(shop()), [].into());
        put(&mut world, &released(1000));
        let key = keys::address(shop(), ADDRESS);
        assert_eq!(world.follow(&Event::Delete { key, revision: Revision::default() }), one(shop()));
        assert_eq!(world.departed(shop()), [].into());
    }

    #[test]
    fn a_host_that_is_not_heard_is_gone_until_it_is_heard_again() {
        let mut world = world(&["ready"]);
        let host: HostName = "a".parse().expect("a name");
        let revision = Revision::default();
        assert!(!world.is_gone(&host), "it has told nothing of itself yet");
        let record = r#"{"version":1,"name":"a","vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":0}"#;
        let told = Event::Put { key: keys::host(&host), value: record.as_bytes().to_vec().into(), revision };
        assert_eq!(world.follow(&told), Concerns::Everything);
        assert!(world.is_gone(&host));
        let heard = Event::Put { key: keys::presence(&host), value: [].into(), revision };
        assert_eq!((world.follow(&heard), world.is_gone(&host)), (one(shop()), false));
        assert_eq!(world.follow(&heard), Concerns::Nothing, "that was known");
        let silent = Event::Delete { key: keys::presence(&host), revision };
        assert_eq!((world.follow(&silent), world.is_gone(&host)), (one(shop()), true));
    }

    #[test]
    fn a_clock_that_steps_back_concerns_everybody_once() {
        let mut world = world(&["ready"]);
        let host: HostName = "a".parse().expect("a name");
        let mut told = |steps: &str| {
            let record = format!(
                r#"{{"version":1,"name":"a","vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":0{steps}}}"#
            );
            let value = record.into_bytes().into();
            let concerns = world.follow(&Event::Put { key: keys::host(&host), value, revision: Revision::default() });
            (concerns, world.clock_steps().get(&host).copied())
        };
        assert_eq!(told(""), (Concerns::Everything, None));
        assert_eq!(told(""), (Concerns::Nothing, None), "as an older agent tells it");
        assert_eq!(told(r#","clock_steps":1"#), (Concerns::Everything, Some(1)));
        assert_eq!(told(r#","clock_steps":1"#), (Concerns::Nothing, Some(1)), "that was known");
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_address_rest_for_ever() {
        let mut world = world(&["ready"]);
        member_leaves(&mut world);
        put(&mut world, &released(9000));
        assert_eq!(world.expire_quarantine(1000), [].into());
        assert_eq!(world.expire_quarantine(1000 + ipam::DEPARTED_SECONDS), [shop()].into());
    }
}
