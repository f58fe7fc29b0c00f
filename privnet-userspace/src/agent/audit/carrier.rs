//! The binding netns of a member: its WireGuard socket is there, and what that sends leaves by the member's veth alone.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};

use super::known::Known;
use super::{AGENT_REPAIRS, Fault, Place, Room, app, hooks, is_of_kernel, route_past, settings_fault};
use crate::agent::netns_links::NetnsLinks;
use crate::agent::recovery::seen::udp_ports;
use crate::datapath::Side;
use crate::link::Link;
use crate::topology::ownership;

/// The binding netns is privnet's alone.
const STRANGERS: &str = "it is not privnet's: see what made it, and remove it";

/// What is not as it must be in a member's binding netns.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn faults(place: &Place, room: &Room, known: &Known) -> Result<Vec<Fault>> {
    let Some(binding) = &place.binding else {
        return Ok(vec![Fault {
            check: "socket",
            detail: "there is no binding netns: the WireGuard socket is in none that privnet can look into".to_owned(),
            remedy: AGENT_REPAIRS,
        }]);
    };
    let links = binding.links.links().await?;
    let mut faults = Vec::new();
    faults.extend(socket_fault(place, binding).await?);
    faults.extend(link_faults(place, &links, known));
    faults.extend(way_fault(place, binding, &links, room, known).await?);
    let names: Vec<&str> = links.iter().map(|link| &*link.name).filter(|name| is_veth(name)).collect();
    faults.extend(settings_fault(binding, &names, "binding").await?);
    for link in links.iter().filter(|link| link.name == veth(place)) {
        for side in [Side::Ingress, Side::Egress] {
            faults.extend(hooks::is_empty(binding, link, side).await?);
        }
    }
    Ok(faults)
}

fn veth(place: &Place) -> String {
    ownership::binding_veth(place.record.index).to_string()
}

fn is_veth(name: &str) -> bool {
    (0..ownership::MAX_NETWORKS_PER_CONTAINER).any(|index| ownership::binding_veth(index).as_str() == name)
}

/// The socket of the device is among those of the binding netns, the kernel's as well as that of a process.
async fn socket_fault(place: &Place, binding: &NetnsLinks) -> Result<Option<Fault>> {
    let interface = place.record.interface();
    if place.app.find(interface.as_str()).await?.is_none() {
        return Ok(None);
    }
    let ports = binding.netns.run(udp_ports).await?.context("listing the sockets of the binding netns")?;
    let is_there = ports.contains(&ownership::wireguard_port(place.record.index));
    let detail = || format!("the UDP socket of {interface} is not in the binding netns");
    Ok((!is_there).then(|| Fault { check: "socket", detail: detail(), remedy: AGENT_REPAIRS }))
}

/// The binding netns has the veths of the container's networks, and no other interface.
fn link_faults(place: &Place, links: &[Link], known: &Known) -> Vec<Fault> {
    let of_container = known.records.iter().filter(|other| other.binding() == place.record.binding());
    let own: Vec<String> = of_container.map(|other| ownership::binding_veth(other.index).to_string()).collect();
    let strangers = links.iter().filter(|link| !is_of_kernel(link) && !own.contains(&link.name));
    let fault = |link: &Link| Fault {
        check: "foreign_interface",
        detail: format!("the binding netns has the interface {}", link.name),
        remedy: STRANGERS,
    };
    strangers.map(fault).collect()
}

/// What the socket sends to a peer leaves by the member's veth or not at all.
async fn way_fault(
    place: &Place,
    binding: &NetnsLinks,
    links: &[Link],
    room: &Room,
    known: &Known,
) -> Result<Option<Fault>> {
    let (own, veth) = (place.record.address, veth(place));
    let index = links.iter().find(|link| link.name == veth).map(|link| link.index);
    let routes = binding.links.routes().await?;
    if let Some(part) = route_past(&routes, place.subnet, index) {
        let detail = format!("in the binding netns a route leads {part} elsewhere than to {veth}");
        return Ok(Some(Fault { check: "carrier_route", detail, remedy: STRANGERS }));
    }
    // A binding netns has no rules but a new one's: `settings` says so where it has.
    let peers = known.members(room.id).map(|member| member.address).filter(|address| *address != own);
    let peers: Vec<Ipv4Addr> = peers.take(app::SAMPLE).collect();
    for peer in peers {
        if let Some(by) = binding.links.way(own, peer).await?.filter(|by| Some(*by) != index) {
            let by = links.iter().find(|link| link.index == by).map_or("?", |link| &*link.name);
            let detail = format!("in the binding netns what goes to {peer} leaves by {by} instead of {veth}");
            return Ok(Some(Fault { check: "carrier_route", detail, remedy: STRANGERS }));
        }
    }
    Ok(None)
}
