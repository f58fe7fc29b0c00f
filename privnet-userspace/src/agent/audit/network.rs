//! The network netns: who is connected there, and where the programs' maps and the forwarding entries lead.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::Result;
use privnet_ebpf::net::MacAddr;

use super::known::Known;
use super::{AGENT_REPAIRS, Fault, Room, hooks, is_of_kernel, settings_fault};
use crate::agent::host::journal::Record;
use crate::agent::netns_links::NetnsLinks;
use crate::agent::network::objects::bridge::is_sound_port;
use crate::datapath::{self, Hook, Side};
use crate::link::{Link, LinkKind};
use crate::topology::ownership::{self, MemberLink};

/// The network netns is privnet's alone.
const STRANGERS: &str = "it is not privnet's: see what made it, and remove it";

/// What is not as it must be in the network netns.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn faults(room: &Room, known: &Known) -> Result<Vec<Fault>> {
    let Some(netns) = &room.netns else {
        let detail = "there is no network netns: the members are not connected".to_owned();
        return Ok(vec![Fault { check: "network_netns", detail, remedy: AGENT_REPAIRS }]);
    };
    let links = netns.links.links().await?;
    let ports: BTreeMap<String, &Record> =
        room.records.iter().map(|record| (record.link().name().to_string(), record)).collect();
    let mut faults = link_faults(&links, &ports);
    let own: Vec<&str> = links.iter().map(|link| &*link.name).filter(|name| is_own(name)).collect();
    faults.extend(settings_fault(netns, &own, "network").await?);
    if let Some(vtep) = links.iter().find(|link| link.name == ownership::VTEP) {
        faults.extend(vtep_faults(netns, vtep, room, known).await?);
    }
    // Programs that know ports are those of the eBPF datapath, whatever else is called `br0`.
    let has_ports =
        room.programs.as_ref().map(datapath::Network::ports).transpose()?.is_some_and(|ports| !ports.is_empty());
    if let Some(bridge) = links.iter().find(|link| link.name == ownership::BRIDGE && !has_ports) {
        for link in links.iter().filter(|link| is_own(&link.name)) {
            for side in [Side::Ingress, Side::Egress] {
                faults.extend(hooks::is_empty(netns, link, side).await?);
            }
        }
        faults.extend(bridge_faults(netns, bridge, room, known, &links, &ports).await?);
        return Ok(faults);
    }
    let Some(programs) = &room.programs else {
        let detail = "the programs of the network are not pinned".to_owned();
        faults.push(Fault { check: "program", detail, remedy: AGENT_REPAIRS });
        return Ok(faults);
    };
    for link in links.iter().filter(|link| is_own(&link.name)) {
        let hook = if link.name == ownership::VTEP { Hook::FromVtep } else { Hook::FromMember };
        faults.extend(hooks::is_first(programs, netns, link, hook, &[]).await?);
        faults.extend(hooks::is_empty(netns, link, Side::Egress).await?);
    }
    faults.extend(map_faults(programs, room, known, &links, &ports)?);
    Ok(faults)
}

fn is_own(name: &str) -> bool {
    [ownership::VTEP, ownership::BRIDGE].contains(&name) || MemberLink::parse(name).is_some()
}

/// Every interface is the VTEP, the bridge, or the end of the veth pair of a member that this host has a record of.
fn link_faults(links: &[Link], ports: &BTreeMap<String, &Record>) -> Vec<Fault> {
    let is_known = |link: &Link| {
        is_of_kernel(link)
            || [ownership::VTEP, ownership::BRIDGE].contains(&&*link.name)
            || ports.contains_key(&link.name)
    };
    let strangers = links.iter().filter(|link| !is_known(link));
    let fault = |link: &Link| Fault {
        check: "foreign_interface",
        detail: format!("the network netns has the interface {}, which is no member's", link.name),
        remedy: STRANGERS,
    };
    strangers.map(fault).collect()
}

/// The VTEP sends to the hosts of the network's members alone.
async fn vtep_faults(netns: &NetnsLinks, vtep: &Link, room: &Room, known: &Known) -> Result<Vec<Fault>> {
    let fault = |detail: String| Fault { check: "fdb", detail, remedy: AGENT_REPAIRS };
    let LinkKind::Vxlan(settings) = &vtep.kind else {
        return Ok(vec![fault(format!("{} is no VXLAN device", vtep.name))]);
    };
    let mut faults = Vec::new();
    if settings.learning || settings.external || settings.remote.is_some() {
        faults.push(fault(format!("{} learns where members are, or sends to a default destination", vtep.name)));
    }
    if let Some(vni) = room.programs.as_ref().map(datapath::Network::spec).transpose()?.map(|spec| spec.vni.get())
        && settings.vni != vni
    {
        faults.push(fault(format!("{} has VNI {} instead of {vni}: another network's", vtep.name, settings.vni)));
    }
    let wanted: BTreeMap<MacAddr, Option<Ipv4Addr>> =
        known.members(room.id).filter(|member| !known.is_here(member)).map(|m| (m.mac(), known.vtep_of(m))).collect();
    for row in netns.links.fdb(vtep.index).await? {
        let Some(destination) = row.destination else {
            faults.push(fault(format!("frames to {} go to no single host: its row has a group or none", row.mac)));
            continue;
        };
        let detail = match wanted.get(&row.mac) {
            Some(Some(host)) if *host == destination => continue,
            Some(Some(host)) => format!("frames to {} go to {destination}, and its member is at {host}", row.mac),
            Some(None) => format!("frames to {} go to {destination}, and the host of its member is not known", row.mac),
            None => format!("frames to {} go to {destination}, and no member of another host has that MAC", row.mac),
        };
        faults.push(fault(detail));
    }
    Ok(faults)
}

/// The bridge sends each member's MAC to its own port, or to the VTEP.
async fn bridge_faults(
    netns: &NetnsLinks,
    bridge: &Link,
    room: &Room,
    known: &Known,
    links: &[Link],
    ports: &BTreeMap<String, &Record>,
) -> Result<Vec<Fault>> {
    let own = links.iter().filter(|link| is_own(&link.name) && link.index != bridge.index);
    let unsound = own.filter(|link| link.controller != Some(bridge.index) || !is_sound_port(link, Some(bridge)));
    let detail =
        |link: &Link| format!("{} is a port of the bridge that learns, floods or is closed, or is none", link.name);
    let mut faults: Vec<Fault> =
        unsound.map(|link| Fault { check: "settings", detail: detail(link), remedy: AGENT_REPAIRS }).collect();
    for row in netns.links.bridge_fdb(bridge.index).await? {
        let member = known.members(room.id).find(|member| member.mac() == row.mac);
        let name = links.iter().find(|link| link.index == row.port).map_or("?", |link| &*link.name);
        let is_its = member.is_some_and(|member| match ports.get(name) {
            Some(record) => record.id == member.id,
            None => name == ownership::VTEP && !known.is_here(member),
        });
        if !is_its {
            let detail = format!("the bridge sends frames to {} to {name}, which is not that member's", row.mac);
            faults.push(Fault { check: "fdb", detail, remedy: AGENT_REPAIRS });
        }
    }
    Ok(faults)
}

/// The maps have members of this network alone, each at the interface, MAC and port that are its own.
fn map_faults(
    programs: &datapath::Network,
    room: &Room,
    known: &Known,
    links: &[Link],
    ports: &BTreeMap<String, &Record>,
) -> Result<Vec<Fault>> {
    let fault = |detail: String| Fault { check: "maps", detail, remedy: AGENT_REPAIRS };
    let mut faults = Vec::new();
    let vtep = links.iter().find(|link| link.name == ownership::VTEP).map(|link| link.index);
    if let Some(index) = programs.vtep()?.filter(|index| Some(*index) != vtep) {
        faults.push(fault(format!("what is for other hosts goes to interface {index}, which is not vxlan0")));
    }
    let prefix = programs.spec()?.prefix;
    if let Some(subnet) = known.subnets.get(&room.id).filter(|subnet| **subnet != prefix) {
        faults.push(fault(format!("the guards hold back {prefix}, and the network's subnet is {subnet}")));
    }
    let index_of = |address: Ipv4Addr| {
        let name = ports.iter().find(|(_, record)| record.address == address).map(|(name, _)| name);
        links.iter().find(|link| Some(&link.name) == name).map(|link| link.index)
    };
    for (address, row) in programs.members()? {
        let Some(member) = known.at(room.id, address) else {
            faults.push(fault(format!("{address} can be sent to, and is no member's")));
            continue;
        };
        let is_local = known.is_here(member);
        let index = index_of(address).filter(|_| is_local);
        if row.mac() != member.mac() || row.wireguard_port() != member.wireguard_port || row.ifindex() != index {
            faults.push(fault(format!(
                "what is sent to {address} goes to another MAC, port or interface than the member's"
            )));
        }
    }
    for (index, row) in programs.ports()? {
        let address = Ipv4Addr::from(row.address());
        let is_its = index_of(address) == Some(index);
        let member = known.at(room.id, address).filter(|member| is_its && member.mac() == row.mac());
        if member.is_none() {
            let link = links.iter().find(|link| link.index == index).map_or("?", |link| &*link.name);
            faults.push(fault(format!(
                "interface {index} ({link}) may send as {address}, which is not the member's there"
            )));
        }
    }
    Ok(faults)
}
