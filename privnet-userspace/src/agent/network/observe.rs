//! What the kernel holds of one network on this host, as a [`State`]. Whole, or an error: nothing is planned from a part.
//!
//! What is in a container is its root's to disturb, so what cannot be read there is that member's error and nobody else's.

mod bridge;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use ipnet::{IpNet, Ipv4Net};
use privnet_ebpf::net::MacAddr;

use super::apply::{DEPARTED_METRIC, PORT};
use super::local::{LocalNetwork, MemberNamespaces, Programs};
use crate::agent::host::journal::Record;
use crate::agent::netns_links::NetnsLinks;
use crate::datapath::{self, Attachment, Hook, Method};
use crate::link::{self, Address, Link, LinkKind, Route, RouteTarget};
use crate::model::PublicKey;
use crate::topology::object::{Peer, PeerTable};
use crate::topology::{Key, Spec, State, ownership};
use crate::wireguard::{DeviceState, PeerState};

/// How many members are looked at at once.
const CONCURRENCY: usize = 8;

/// The links of the network netns, by name.
type Links = BTreeMap<String, Link>;

/// What was seen, and the members in whose container nothing could be: why, for each. Of these [`Key::is_in_container`]
/// is absent, whether it is there or not.
#[derive(Default)]
pub(super) struct Observation {
    pub(super) state: State,
    pub(super) unobserved: BTreeMap<Ipv4Addr, anyhow::Error>,
}

impl LocalNetwork {
    /// Looks at everything.
    ///
    /// # Errors
    /// When anything outside of the containers could not be read. Nothing was changed.
    pub async fn observe(&self) -> Result<Observation> {
        let mut state = State::new();
        self.adopt_programs()?;
        let programs = self.programs();
        if let Some(programs) = &programs {
            let spec = programs.lock().await.spec()?;
            state.insert(Key::Programs, Spec::Programs { vni: spec.vni, prefix: spec.prefix });
        }
        let mut links = Links::new();
        if let Some(room) = self.reopen_netns().await? {
            state.insert(Key::NetworkNetns, Spec::Present);
            links = room.links.links().await?.into_iter().map(|link| (link.name.clone(), link)).collect();
            self.observe_netns(&room, &links, programs.as_ref(), &mut state).await?;
        }
        if let Some(programs) = &programs {
            rows::observe_rows(&*programs.lock().await, &links, &mut state)?;
        }
        let looks: Vec<_> =
            self.records.values().map(|record| self.observe_member(record, &links, programs.as_ref())).collect();
        let members: Vec<Observation> =
            futures::stream::iter(looks).buffer_unordered(CONCURRENCY).try_collect().await?;
        let mut observation = Observation { state, unobserved: BTreeMap::new() };
        for member in members {
            observation.state.extend(member.state);
            observation.unobserved.extend(member.unobserved);
        }
        Ok(observation)
    }

    /// Opens what an earlier agent pinned; forgets what a stranger unpinned.
    fn adopt_programs(&self) -> Result<()> {
        let pins = self.host.config.pins_of(self.network);
        match (self.programs(), pins.exists()) {
            (Some(_), false) => self.set_programs(None),
            (None, true) => {
                let adopted =
                    datapath::Network::adopt(&pins).with_context(|| format!("adopting {}", pins.display()))?;
                self.set_programs(adopted);
            }
            (Some(_), true) | (None, false) => {}
        }
        Ok(())
    }

    async fn observe_netns(
        &self,
        room: &NetnsLinks,
        links: &Links,
        programs: Option<&Programs>,
        state: &mut State,
    ) -> Result<()> {
        let bridge = links.get(ownership::BRIDGE).filter(|link| link.kind == LinkKind::Bridge);
        if let Some(bridge) = bridge {
            state.insert(Key::Bridge, or_broken(bridge.up, "down", Spec::Bridge { mtu: bridge.mtu }));
            let rows = room.links.bridge_fdb(bridge.index).await?;
            bridge::observe(&rows, links, |member| self.records.contains_key(&member), state);
        }
        if let Some(vtep) = links.get(ownership::VTEP) {
            state.insert(Key::Vtep, rows::observe_vtep(vtep, bridge));
            rows::observe_fdb(&room.links.fdb(vtep.index).await?, state);
            if let Some(programs) = programs {
                let programs = programs.lock().await;
                if is_attached(&programs, room, vtep.index, ownership::VTEP, Hook::FromVtep).await? {
                    let known = programs.vtep()? == Some(vtep.index);
                    state.insert(
                        Key::VtepProgram,
                        or_broken(known, "the programs send to another interface", Spec::Present),
                    );
                }
            }
        }
        // A record is removed last, so a veth pair without one is on its way out with its binding netns, or a stranger.
        let orphans = links.keys().filter_map(|name| ownership::parse_member_veth(name));
        for address in self.overdue(orphans.filter(|address| !self.records.contains_key(address)).collect()) {
            state.insert(Key::Veth(address), Spec::Broken("no record".to_owned()));
        }
        Ok(())
    }

    async fn observe_member(&self, record: &Record, links: &Links, programs: Option<&Programs>) -> Result<Observation> {
        let member = record.address;
        let mut state = State::new();
        let namespaces = self.namespaces_of(member).await?;
        if namespaces.binding.get().is_some() && !(record.leaving && self.is_shared(record)) {
            state.insert(Key::BindingNetns(member), Spec::BindingNetns { container: record.container.clone() });
        }
        self.observe_veth(record, &namespaces, links, programs, &mut state).await?;
        let mut observation = Observation { state, unobserved: BTreeMap::new() };
        match self.observe_container(record, &namespaces, programs).await {
            Ok(container) => observation.state.extend(container),
            Err(error) => drop(observation.unobserved.insert(member, error.context("looking into its container"))),
        }
        Ok(observation)
    }

    async fn observe_container(
        &self,
        record: &Record,
        namespaces: &MemberNamespaces,
        programs: Option<&Programs>,
    ) -> Result<State> {
        let member = record.address;
        let mut state = State::new();
        let app_links = match &namespaces.app {
            Some(app) => app.links.links().await?,
            None => Vec::new(),
        };
        if let Some(app) = &namespaces.app {
            let routes = app.links.routes().await?;
            let backstop = routes.iter().find(|route| is_backstop(route, member)).map(|route| route.destination);
            if let Some(prefix) = backstop {
                state.insert(Key::Backstop(member), Spec::Backstop { prefix });
            }
            let subnet = self.world.read(|world| world.networks().get(&self.network).map(|network| network.subnet));
            let departed: BTreeSet<Ipv4Addr> =
                subnet.or(backstop).map(|subnet| departed(&routes, subnet)).unwrap_or_default();
            if !departed.is_empty() {
                state.insert(Key::Departed(member), Spec::Departed(Arc::new(departed)));
            }
            if let Some(guard) = self.observe_guard(record, app, &app_links, programs).await? {
                state.insert(Key::Guard(member), guard);
            }
        }
        self.observe_device(record, namespaces, &app_links, &mut state).await?;
        Ok(state)
    }

    async fn observe_veth(
        &self,
        record: &Record,
        namespaces: &MemberNamespaces,
        links: &Links,
        programs: Option<&Programs>,
        state: &mut State,
    ) -> Result<()> {
        let member = record.address;
        let Some(near) = links.get(ownership::member_veth(member).as_str()) else { return Ok(()) };
        let binding_name = ownership::binding_veth(record.index);
        let (Some(binding), Some(room)) = (namespaces.binding.get(), self.netns().await?) else { return Ok(()) };
        let far = match binding.find(binding_name.as_str()).await? {
            Some(far) if far.mtu == near.mtu => far,
            Some(_) | None => {
                state.insert(Key::Veth(member), Spec::Broken("its two ends do not fit".to_owned()));
                return Ok(());
            }
        };
        let bridge = links.get(ownership::BRIDGE).map(|bridge| bridge.index);
        let bridged = near.controller.is_some() && near.controller == bridge;
        let mac = far.mac.unwrap_or(MacAddr::BROADCAST);
        state.insert(Key::Veth(member), Spec::Veth { binding_name, mac, mtu: near.mtu, bridged });
        let address = address_of(&binding.links.addresses().await?, far.index);
        if let Some(address) = address {
            state.insert(Key::Carrier(member), or_broken(near.up && far.up, "down", Spec::Address { address }));
        }
        if bridged && let Some(neighbours) = bridge::observe_neighbours(&binding.links.neighbours(far.index).await?) {
            state.insert(Key::Neighbours(member), neighbours);
        }
        if let Some(programs) = programs
            && is_attached(&*programs.lock().await, &room, near.index, &near.name, Hook::FromMember).await?
        {
            state.insert(Key::MemberProgram(member), Spec::Present);
        }
        Ok(())
    }

    async fn observe_guard(
        &self,
        record: &Record,
        app: &NetnsLinks,
        app_links: &[Link],
        programs: Option<&Programs>,
    ) -> Result<Option<Spec>> {
        let Some(programs) = programs else { return Ok(None) };
        let (mut guarded, mut bare) = (0, Vec::new());
        for link in self.foreign(record, app_links) {
            if is_guarded(app, link, &*programs.lock().await).await? {
                guarded += 1
            } else {
                bare.push(link.name.clone())
            }
        }
        Ok(match (guarded, bare.is_empty()) {
            // Who leaves has no guard when no interface has it; who is here to stay needs none when there is no interface.
            (0, true) if record.leaving => None,
            (_, true) => Some(Spec::Present),
            (0, false) => None,
            (_, false) => Some(Spec::Broken(format!("not on {}", bare.join(", ")))),
        })
    }

    async fn observe_device(
        &self,
        record: &Record,
        namespaces: &MemberNamespaces,
        app_links: &[Link],
        state: &mut State,
    ) -> Result<()> {
        let member = record.address;
        let Some(device) = self.device(member).await? else { return Ok(()) };
        let seen = match device.observe().await {
            Ok(Some(seen)) => seen,
            Ok(None) => return Ok(()),
            // A process that cannot be worked with, or another link under the device's name, is a device to be made anew.
            Err(error) if error.needs_new_device() => {
                state.insert(Key::Device(member), Spec::Broken(error.to_string()));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let interface = ownership::wireguard_interface(record.index);
        let link = app_links.iter().find(|link| link.name == interface.as_str());
        let (Some(link), Some(public_key)) = (link, seen.public_key) else {
            state.insert(Key::Device(member), Spec::Broken("it has no interface, or no key".to_owned()));
            return Ok(());
        };
        state.insert(
            Key::Device(member),
            Spec::Device { interface, public_key, listen_port: seen.listen_port, mtu: link.mtu },
        );
        state.insert(Key::Peers(member), Spec::Peers(self.peers(record, &seen)));
        if let Some(app) = &namespaces.app
            && let Some(address) = address_of(&app.links.addresses().await?, link.index)
        {
            state.insert(Key::Tunnel(member), or_broken(link.up, "down", Spec::Address { address }));
        }
        Ok(())
    }

    /// A device's peers. Under which clocks they were made, only the record says.
    fn peers(&self, record: &Record, seen: &DeviceState) -> PeerTable {
        // What no plan contains is set right.
        let nowhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let steps = |key: &PublicKey| self.stepped.get(key).and_then(|host| record.clock_steps.get(host)).copied();
        let peer = |(key, peer): (&PublicKey, &PeerState)| {
            let endpoint = match peer.endpoint {
                Some(SocketAddr::V4(endpoint)) => endpoint,
                Some(SocketAddr::V6(_)) | None => nowhere,
            };
            let allowed_ip = match (peer.allowed_ips.len(), peer.allowed_ips.first()) {
                (1, Some(IpNet::V4(only))) if only.prefix_len() == 32 => only.addr(),
                (_, _) => Ipv4Addr::UNSPECIFIED,
            };
            (*key, Peer { endpoint, allowed_ip, clock_steps: steps(key).unwrap_or(0) })
        };
        PeerTable::of(seen.peers.iter().map(peer).collect())
    }

    /// The interfaces of an app netns that are foreign to the member's network: neither the loopback nor its own `wg<n>`.
    ///
    /// Those of the container's other networks are foreign too: Linux takes a packet for any of its addresses from any
    /// interface, and a member of one network has no business with an address of another.
    pub fn foreign<'a>(&self, record: &Record, app_links: &'a [Link]) -> impl Iterator<Item = &'a Link> {
        let own = ownership::wireguard_interface(record.index).to_string();
        app_links.iter().filter(move |link| link.kind != LinkKind::Loopback && link.name != own)
    }

    /// Whether another network needs the container's binding netns.
    pub fn is_shared(&self, record: &Record) -> bool {
        let journal = self.journal.lock();
        journal.records().values().any(|other| other.container == record.container && other.network != record.network)
    }
}

/// Whether an interface has both filters of `guard`.
pub(super) async fn is_guarded(app: &NetnsLinks, link: &Link, programs: &datapath::Network) -> Result<bool> {
    Ok(is_attached(programs, app, link.index, &link.name, Hook::GuardIngress).await?
        && is_attached(programs, app, link.index, &link.name, Hook::GuardEgress).await?)
}

/// Whether the very program of `hook` is on an interface, by whichever method.
async fn is_attached(
    programs: &datapath::Network,
    room: &NetnsLinks,
    index: u32,
    name: &str,
    hook: Hook,
) -> Result<bool> {
    let Ok(interface) = name.parse() else { return Ok(false) };
    match programs.attached_by_tcx(&room.netns, &interface, hook).await {
        Ok(Attachment::Current) => return Ok(true),
        Ok(Attachment::Overtaken) => return Ok(false),
        Ok(Attachment::Absent | Attachment::Older) => {}
        // It went meanwhile, or its name is no text.
        Err(datapath::Error::NoInterface { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    if hook.method() == Method::Tcx {
        return Ok(false);
    }
    let direction = match hook {
        Hook::FromMember | Hook::FromVtep | Hook::GuardIngress => link::Hook::Ingress,
        Hook::GuardEgress => link::Hook::Egress,
    };
    let filters = room.links.filters(index, direction).await?;
    Ok(filters.iter().any(|filter| filter.program_id == Some(programs.program_id(hook))))
}

pub(super) fn is_backstop(route: &Route, member: Ipv4Addr) -> bool {
    route.target == RouteTarget::Unreachable && route.metric == u32::MAX && route.destination.contains(&member)
}

/// The addresses of `subnet` that our routes say nobody has.
fn departed(routes: &[Route], subnet: Ipv4Net) -> BTreeSet<Ipv4Addr> {
    let ours = routes.iter().filter(|route| {
        route.target == RouteTarget::Unreachable
            && route.metric == DEPARTED_METRIC
            && route.destination.prefix_len() == 32
    });
    ours.map(|route| route.destination.addr()).filter(|address| subnet.contains(address)).collect()
}

fn address_of(addresses: &[Address], index: u32) -> Option<Ipv4Net> {
    addresses.iter().find(|address| address.index == index).map(|address| address.address)
}

fn or_broken(fits: bool, why: &str, spec: Spec) -> Spec {
    if fits { spec } else { Spec::Broken(why.to_owned()) }
}
