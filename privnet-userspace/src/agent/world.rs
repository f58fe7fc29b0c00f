//! What the store says, as a value that follows its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::model::{ContainerRef, HostName, Member, Network, NetworkId};
use crate::store::records::{self, HostRecord, RecordError};
use crate::store::{Entry, Event, Key, Store, keys};

/// Everything of the store that an agent acts on.
#[derive(Clone, Debug, Default)]
pub struct World {
    networks: BTreeMap<NetworkId, Network>,
    members: BTreeMap<NetworkId, BTreeMap<ContainerRef, Member>>,
    hosts: BTreeMap<HostName, HostRecord>,
    /// Records that could not be read; what they said before goes on to hold.
    problems: BTreeMap<String, String>,
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
        let hosts = records::list_hosts(store).await?;
        let revisions = Revisions { networks: networks.revision, members: members.revision, hosts: hosts.revision };
        let mut world = Self::default();
        world.networks.extend(networks.records.into_iter().map(|network| (network.id, network)));
        for member in members.records {
            world.put_member(member);
        }
        world.hosts.extend(hosts.records.into_iter().map(|host| (host.name.clone(), host)));
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
                        self.problems.insert(key.to_string(), error.to_string());
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
        } else if entry.key.below(&keys::hosts()).is_some() {
            let host: HostRecord = records::decode(&entry.key, &entry.value)?;
            let moved = self.hosts.get(&host.name).is_none_or(|known| known.vtep != host.vtep);
            self.hosts.insert(host.name.clone(), host);
            Ok(if moved { Concerns::Everything } else { Concerns::Nothing })
        } else {
            Ok(Concerns::Nothing)
        }
    }

    fn put_member(&mut self, member: Member) {
        self.members.entry(member.network).or_default().insert(member.container.clone(), member);
    }

    fn delete(&mut self, key: &Key) -> Concerns {
        if let Some(id) = key.below(&keys::networks()).and_then(|id| id.parse().ok()) {
            self.networks.remove(&id);
            return one(id);
        }
        if let Some((network, container)) = key.below(&keys::all_members()).and_then(|rest| rest.split_once('/')) {
            let (Ok(network), Ok(container)) = (network.parse(), container.parse()) else { return Concerns::Nothing };
            if let Some(members) = self.members.get_mut(&network) {
                members.remove::<ContainerRef>(&container);
            }
            return one(network);
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
    /// Of the hosts.
    pub hosts: crate::store::Revision,
}

fn one(network: NetworkId) -> Concerns {
    Concerns::Networks(BTreeSet::from([network]))
}
