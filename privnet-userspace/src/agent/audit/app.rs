//! The app netns of a member: what leaves it for the network leaves by its WireGuard device, to its peers alone.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use ipnet::IpNet;

use super::known::Known;
use super::{AGENT_REPAIRS, Fault, Place, Room, hooks, route_past};
use crate::agent::config::Config;
use crate::agent::network::objects::guard;
use crate::datapath::{self, Hook};
use crate::link::{Link, LinkKind, Route, RouteTarget};
use crate::topology::ownership;
use crate::wireguard::{Device, DeviceState, PeerState};

/// Of how many members the kernel is asked, where nothing leads one of them elsewhere than another.
pub(super) const SAMPLE: usize = 8;
/// Routes and rules of a container are its root's.
const CONTAINERS_OWN: &str = "`ip route` and `ip rule` in the container show what leads there: remove it";

/// What is not as it must be in a member's app netns.
///
/// # Errors
/// When the kernel or the WireGuard process cannot be asked.
pub async fn faults(config: &Config, place: &Place, room: &Room, known: &Known) -> Result<Vec<Fault>> {
    let links = place.app.links.links().await?;
    let interface = place.record.interface();
    let own = links.iter().find(|link| link.name == interface.as_str());
    let mut faults = Vec::new();
    match own {
        Some(link) => faults.extend(device_faults(config, place, link, known).await?),
        None => faults.push(fault("device", format!("{interface} is not in the container"))),
    }
    faults.extend(route_faults(place, own, &links, known).await?);
    faults.extend(guard_faults(config, place, room, &links, known).await?);
    Ok(faults)
}

fn fault(check: &'static str, detail: String) -> Fault {
    Fault { check, detail, remedy: AGENT_REPAIRS }
}

async fn device_faults(config: &Config, place: &Place, link: &Link, known: &Known) -> Result<Vec<Fault>> {
    let (record, name) = (&place.record, &link.name);
    let device = match link.kind {
        LinkKind::Wireguard => Device::kernel(place.app.netns.clone(), record.interface()),
        LinkKind::Tun => Device::userspace(&config.wireguard_dir(record.network, record.address)),
        LinkKind::Veth | LinkKind::Vxlan(_) | LinkKind::Bridge | LinkKind::Loopback | LinkKind::Other(_) => {
            return Ok(vec![fault(
                "device",
                format!("{name} is no WireGuard device: what is sent by it is not encrypted"),
            )]);
        }
    };
    let Some(state) = device.observe().await? else {
        return Ok(vec![fault("device", format!("the WireGuard of {name} does not answer"))]);
    };
    let mut faults = Vec::new();
    if let Some(member) = known.member(record.id) {
        if state.public_key != Some(member.public_key) {
            faults.push(fault("device", format!("{name} has another key than the store says")));
        }
        if state.listen_port != member.wireguard_port {
            let (is, should) = (state.listen_port, member.wireguard_port);
            faults.push(fault("device", format!("{name} receives on UDP port {is} instead of {should}")));
        }
    }
    if state.mark != 0 {
        faults.push(fault(
            "device",
            format!("what {name} sends has the mark {:#x}, which rules can lead elsewhere", state.mark),
        ));
    }
    faults.extend(peer_faults(place, name, &state, known));
    Ok(faults)
}

/// A peer is a member of the network, may send from its address alone, and is where that is on the carrier.
fn peer_faults(place: &Place, name: &str, state: &DeviceState, known: &Known) -> Vec<Fault> {
    let of_peer = |(key, peer): (&_, &PeerState)| {
        let Some(member) = known.with_key(place.record.network, *key) else {
            return Some(format!("{name} has a peer that is no member of the network, with key {key}"));
        };
        let own = BTreeSet::from([IpNet::from(IpAddr::V4(member.address))]);
        if peer.allowed_ips != own {
            let shown: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
            return Some(format!("the peer {} of {name} may send from {}", member.address, shown.join(", ")));
        }
        let there = SocketAddr::from((member.address, member.wireguard_port));
        let elsewhere = peer.endpoint.filter(|endpoint| *endpoint != there)?;
        Some(format!("what {name} sends to {} goes to {elsewhere} instead of {there}", member.address))
    };
    state.peers.iter().filter_map(of_peer).map(|detail| fault("peers", detail)).collect()
}

/// What is for a member of the network leaves by the device or not at all.
async fn route_faults(place: &Place, own: Option<&Link>, links: &[Link], known: &Known) -> Result<Vec<Fault>> {
    let (record, app) = (&place.record, &place.app.links);
    let mut faults = Vec::new();
    let name = |index: u32| links.iter().find(|link| link.index == index).map_or("?", |link| &*link.name);
    let peers: BTreeSet<Ipv4Addr> = known
        .members(record.network)
        .map(|member| member.address)
        .filter(|address| *address != record.address)
        .collect();
    // An address that no member has is led by the same routes.
    let other = place.subnet.hosts().rev().find(|address| *address != record.address && !peers.contains(address));
    let routes = app.routes().await?;
    let index = own.map(|own| own.index);
    if let Some(part) = route_past(&routes, place.subnet, index) {
        let detail = format!("a route of the container leads {part} past the tunnel");
        faults.push(Fault { check: "route", detail, remedy: CONTAINERS_OWN });
    }
    // Without rules of its own, what holds for some holds for all but those of the route above.
    let asked = if app.rule_changes().await?.is_empty() { SAMPLE } else { usize::MAX };
    let mut led = BTreeSet::new();
    for peer in peers.into_iter().take(asked).chain(other) {
        // The application may bind its address or leave the choice to the kernel.
        for from in [record.address, Ipv4Addr::UNSPECIFIED] {
            if let Some(by) = app.way(from, peer).await?.filter(|by| Some(*by) != index) {
                led.insert((peer, name(by)));
            }
        }
    }
    let shown: Vec<String> = led.iter().take(3).map(|(peer, by)| format!("{peer} by {by}")).collect();
    if !shown.is_empty() {
        let more = if led.len() > shown.len() { ", and others" } else { "" };
        let detail = format!("packets to {}{more} leave past the tunnel", shown.join(", "));
        faults.push(Fault { check: "route", detail, remedy: CONTAINERS_OWN });
    }
    let is_backstop = |route: &Route| {
        route.target == RouteTarget::Unreachable
            && route.destination == place.subnet
            && route.metric == ownership::BACKSTOP_METRIC
    };
    if !routes.iter().any(is_backstop) {
        let detail =
            format!("there is no unreachable route to {}: without its device, packets leave elsewhere", place.subnet);
        faults.push(fault("backstop", detail));
    }
    Ok(faults)
}

/// The guard is the first program on every interface that is not the network's.
async fn guard_faults(
    config: &Config,
    place: &Place,
    room: &Room,
    links: &[Link],
    known: &Known,
) -> Result<Vec<Fault>> {
    let Some(programs) = &room.programs else {
        let bare: Vec<&str> = guard::foreign(&place.record, links).map(|link| &*link.name).collect();
        let detail =
            || format!("the programs of the network are not pinned: there is no guard for {}", bare.join(", "));
        return Ok(if bare.is_empty() { Vec::new() } else { vec![fault("program", detail())] });
    };
    let others = known.records.iter().filter(|other| other.netns == place.record.netns && other.network != room.id);
    let others: Vec<datapath::Network> = others
        .filter_map(|other| datapath::Network::look(&config.pins_of(other.network)).transpose())
        .collect::<Result<_, _>>()?;
    let mut faults = Vec::new();
    for link in guard::foreign(&place.record, links) {
        for hook in [Hook::GuardIngress, Hook::GuardEgress] {
            let equals: Vec<u32> = others.iter().map(|other| other.program_id(hook)).collect();
            faults.extend(hooks::is_first(programs, &place.app, link, hook, &equals).await?);
        }
    }
    Ok(faults)
}
