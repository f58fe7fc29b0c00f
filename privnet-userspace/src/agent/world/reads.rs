//! What is asked of the image.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{World, kept_for};
use crate::model::ids::ContainerNumber;
use crate::model::{AppId, ContainerRef, ContainerType, HostName, Member, MemberId, Network, NetworkId, NetworkName};
use crate::store::claims::Occupancy;
use crate::store::records::{AddressRecord, HostRecord, InstanceMark, NetworkMark, PresenceRecord, Stored};

impl World {
    /// The networks, by id.
    #[must_use]
    pub const fn networks(&self) -> &BTreeMap<NetworkId, Network> {
        &self.networks
    }

    /// The network that has a name. Of two the name is that one's which the store says: it was given out anew while the store
    /// had lost the other.
    #[must_use]
    pub fn network_named(&self, name: &NetworkName) -> Option<&Network> {
        let pointed = self.names.get(name).and_then(|id| self.networks.get(id)).filter(|network| network.name == *name);
        pointed.or_else(|| self.networks.values().find(|network| network.name == *name))
    }

    /// The networks whose names other networks have, each with that one.
    pub fn nameless(&self) -> impl Iterator<Item = (&Network, &Network)> {
        let with_holder = self.networks.values().filter_map(|own| Some((own, self.network_named(&own.name)?)));
        with_holder.filter(|(own, holder)| own.id != holder.id)
    }

    /// The mark of a network that was ended with its members.
    #[must_use]
    pub fn network_mark(&self, network: NetworkId) -> Option<&NetworkMark> {
        self.network_marks.get(&network)
    }

    /// The mark of an agent's instance that was forgotten.
    #[must_use]
    pub fn instance_mark(&self, instance: Uuid) -> Option<&InstanceMark> {
        self.instance_marks.get(&instance)
    }

    /// Whether an agent of a host was forgotten.
    #[must_use]
    pub fn was_forgotten(&self, host: &HostName) -> bool {
        self.instance_marks.values().any(|mark| mark.host == *host)
    }

    /// Whether an operator empties a host: it takes no new members, and those that it has have no names.
    #[must_use]
    pub fn is_draining(&self, host: &HostName) -> bool {
        self.draining.contains(host)
    }

    /// Whether a host's agent is heard.
    #[must_use]
    pub fn is_heard(&self, host: &HostName) -> bool {
        self.present.contains_key(host)
    }

    /// What the agent of a host that is heard says of itself.
    fn presence(&self, host: &HostName) -> Option<&PresenceRecord> {
        self.present.get(host)?.as_ref()
    }

    /// Since when the agent of a host has held the lease of its presence, by that host's clock, in seconds since 1970-01-01 UTC;
    /// nothing while it is not heard, and where its build does not say.
    #[must_use]
    pub fn lease_since(&self, host: &HostName) -> Option<u64> {
        self.presence(host)?.since_unix_seconds
    }

    /// A network's members.
    pub fn members(&self, network: NetworkId) -> impl Iterator<Item = &Arc<Member>> {
        self.members.get(&network).into_iter().flat_map(BTreeMap::values)
    }

    /// A network's addresses whose members have left, and which have had no holder since.
    #[must_use]
    pub fn departed(&self, network: NetworkId) -> BTreeSet<Ipv4Addr> {
        self.quarantine.of(network).collect()
    }

    /// Whether a member of another host than `own` waits until no client of this one can have its address by the name of its last
    /// holder: neither peers nor names know it before.
    #[must_use]
    pub fn is_held_off(&self, member: &Member, own: &HostName, now: Instant) -> bool {
        let ttl = self.networks.get(&member.network).map_or(Duration::ZERO, kept_for);
        member.host != *own && self.left.holds_off(member, ttl, now)
    }

    /// One member, by its oldest name.
    #[must_use]
    pub fn member(&self, network: NetworkId, container: &ContainerRef) -> Option<&Arc<Member>> {
        self.members.get(&network)?.get(container)
    }

    /// One member, by its membership.
    #[must_use]
    pub fn membership(&self, id: MemberId) -> Option<&Arc<Member>> {
        let (network, container) = self.oldest.get(&id)?;
        self.member(*network, container)
    }

    /// What is given out in a network.
    #[must_use]
    pub fn occupancy(&self, network: NetworkId) -> Option<&Occupancy> {
        self.occupancy.get(&network)
    }

    /// The record of an address.
    #[must_use]
    pub fn row(&self, network: NetworkId, address: Ipv4Addr) -> Option<&Stored<AddressRecord>> {
        self.occupancy.get(&network)?.known_row(address)
    }

    /// The numbers that containers of an app and a type have in networks other than this one.
    #[must_use]
    pub fn numbers_elsewhere(&self, network: NetworkId, app: AppId, kind: &ContainerType) -> BTreeSet<ContainerNumber> {
        let others = self.occupancy.iter().filter(|(other, _)| **other != network);
        others.flat_map(|(_, occupancy)| occupancy.numbers(app, kind)).collect()
    }

    /// All members of a host, in all networks.
    pub fn members_on(&self, host: &HostName) -> impl Iterator<Item = &Arc<Member>> {
        self.by_host.get(host).into_iter().flat_map(BTreeMap::values)
    }

    /// The VTEP addresses of the hosts that have members in a network.
    #[must_use]
    pub fn vteps(&self, network: NetworkId) -> BTreeMap<HostName, Ipv4Addr> {
        let hosts: BTreeSet<&HostName> = self.members(network).map(|member| &member.host).collect();
        let known = hosts.into_iter().filter_map(|host| self.hosts.get(host));
        known.map(|host| (host.name.clone(), host.vtep)).collect()
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
        self.hosts.contains_key(host) && !self.present.contains_key(host)
    }

    /// How many members of a host another instance of its agent made than the one that is there; `own` is this agent's host
    /// and instance.
    #[must_use]
    pub fn unadopted(&self, host: &HostName, own: (&HostName, Uuid)) -> usize {
        let instance = if own.0 == host { Some(own.1) } else { self.presence(host).map(|presence| presence.instance) };
        let Some(instance) = instance else { return 0 };
        self.members_on(host).filter(|member| member.instance.is_some_and(|other| other != instance)).count()
    }

    /// The hosts that told of themselves, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &HostRecord> {
        self.hosts.values()
    }

    /// Records that could not be read, one line each.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.values()
    }
}
