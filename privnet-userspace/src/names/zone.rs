//! The snapshot, indexed: one zone per network, and all of them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::catalogue::{Difference, MemberNames, NetworkDifference, NetworkHead};
use crate::model::ids::ContainerNumber;
use crate::model::{AppId, ContainerRef, ContainerType, Forwarding, NetworkId, Protocol};

/// A container as a client of the DNS: the networks that it is in, and the address of the server that it asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsClient {
    /// The networks that it is in, in the order in which they are searched. No other exists for it.
    pub networks: Vec<NetworkId>,
    /// The address at which it asks, which is the name server's as far as it knows.
    pub server: Option<Ipv4Addr>,
    /// The apps that it belongs to, in the order in which their types are looked for: a name that is a type is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<AppId>,
    /// The servers that it asked before it was attached: other names are asked of these, from its namespace, and not of the
    /// host's resolvers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<SocketAddr>,
}

/// All zones of a host.
#[derive(Clone, Debug, Default)]
pub struct Zones {
    zones: BTreeMap<NetworkId, Zone>,
}

/// One network's names, indexed by the parts of a name and by address.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    pub(super) head: NetworkHead,
    pub(super) apps: BTreeMap<AppId, App>,
    pub(super) holders: BTreeMap<Ipv4Addr, ContainerRef>,
}

/// An app's containers, by type. Never empty.
pub(super) type App = BTreeMap<ContainerType, Kind>;
/// An app's containers of one type, by number. Never empty.
pub(super) type Kind = BTreeMap<ContainerNumber, MemberNames>;

impl Zones {
    /// No network at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over what changed.
    pub fn apply(&mut self, difference: Difference) {
        for id in &difference.gone {
            self.zones.remove(id);
        }
        for (id, change) in difference.changed {
            match self.zones.get_mut(&id) {
                Some(zone) => zone.apply(change),
                None => drop(self.zones.insert(id, Zone::new(change))),
            }
        }
    }

    /// How many networks there are.
    #[must_use]
    pub fn networks(&self) -> usize {
        self.zones.len()
    }

    /// How many members there are, in all networks.
    #[must_use]
    pub fn members(&self) -> usize {
        self.zones.values().map(|zone| zone.holders.len()).sum()
    }

    /// Where a container may ask for names that are none of ours. A network that says no is heeded, whatever the others
    /// of the container say; servers that are named come before the host's own.
    #[must_use]
    pub fn forwarding(&self, client: &DnsClient) -> Forwarding {
        let mut servers: Vec<SocketAddr> = Vec::new();
        for (_, zone) in self.of(client) {
            match &zone.head.options.forwarding {
                Forwarding::Off => return Forwarding::Off,
                Forwarding::Host => {}
                Forwarding::Servers(more) => servers.extend(more),
            }
        }
        if servers.is_empty() { Forwarding::Host } else { Forwarding::Servers(servers) }
    }

    /// The zones that exist for `client`.
    pub(super) fn of<'a>(&'a self, client: &'a DnsClient) -> impl Iterator<Item = (NetworkId, &'a Zone)> {
        client.networks.iter().filter_map(|id| Some((*id, self.zones.get(id)?)))
    }

    /// The zone of a network, if `client` is in it.
    pub(super) fn by_id(&self, client: &DnsClient, id: NetworkId) -> Option<&Zone> {
        client.networks.contains(&id).then(|| self.zones.get(&id)).flatten()
    }

    /// The zone of the one network of `client` that bears `name`.
    pub(super) fn by_name<'a>(&'a self, client: &'a DnsClient, name: &str) -> Option<(NetworkId, &'a Zone)> {
        let mut named = self.of(client).filter(|(_, zone)| zone.head.name.as_str() == name);
        // Two of one name would make an answer a matter of luck.
        named.next().filter(|_| named.next().is_none())
    }

    /// The zone of the network of `client` whose subnet holds `address`.
    pub(super) fn by_address<'a>(&'a self, client: &'a DnsClient, address: Ipv4Addr) -> Option<(NetworkId, &'a Zone)> {
        self.of(client).find(|(_, zone)| zone.head.subnet.contains(&address))
    }
}

impl Zone {
    fn new(change: NetworkDifference) -> Self {
        let mut zone = Self { head: change.head.clone(), apps: BTreeMap::new(), holders: BTreeMap::new() };
        zone.apply(change);
        zone
    }

    fn apply(&mut self, change: NetworkDifference) {
        self.head = change.head;
        for container in &change.removed {
            self.remove(container);
        }
        // All that change leave first: two members may have exchanged their addresses.
        for member in &change.set {
            self.remove(&member.container);
        }
        for member in change.set {
            if !member.further {
                self.holders.insert(member.address, member.container.clone());
            }
            let ContainerRef { app, kind, number } = member.container.clone();
            self.apps.entry(app).or_default().entry(kind).or_default().insert(number, member);
        }
    }

    fn remove(&mut self, container: &ContainerRef) {
        let Some(app) = self.apps.get_mut(&container.app) else { return };
        let Some(kind) = app.get_mut(&container.kind) else { return };
        if let Some(member) = kind.remove(&container.number)
            && self.holders.get(&member.address) == Some(container)
        {
            self.holders.remove(&member.address);
        }
        // An empty app or type would go on to exist as a name.
        if kind.is_empty() {
            app.remove(&container.kind);
        }
        if app.is_empty() {
            self.apps.remove(&container.app);
        }
    }
}

/// Whether a member declared a port of this protocol.
pub(super) fn has_port(member: &MemberNames, protocol: Protocol) -> bool {
    member.ports.iter().any(|port| port.protocol == protocol)
}
