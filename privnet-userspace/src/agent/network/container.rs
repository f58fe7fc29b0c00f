//! What a member needs of its container and privnet does not change, for it is the container's own.

use std::net::Ipv4Addr;

use anyhow::Result;
use ipnet::Ipv4Net;

use super::handle::Fault;
use super::local::LocalNetwork;
use super::objects::departed;
use super::scan::MemberScan;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::foreign_ranges;
use crate::agent::host::journal::Record;
use crate::ipam::{Conflict, ForeignRange};
use crate::link::{LOOPBACK_INDEX, Link, Links, Route};
use crate::model::MemberId;

/// The worst that is in the way in a member's container.
///
/// # Errors
/// When its links, addresses or routes cannot be read.
pub async fn fault(scan: &MemberScan<'_>) -> Result<Option<Fault>> {
    let Some(app) = &scan.namespaces.app else { return Ok(None) };
    of_container(scan.net(), scan.record, &app.links, scan.app_links().await?, scan.app_routes().await?).await
}

/// The same of a member that was just made.
///
/// # Errors
/// As [`fault`].
pub async fn fault_of_new(net: &LocalNetwork, member: MemberId) -> Result<Option<Fault>> {
    let (namespaces, record) = (net.namespaces_of(member).await?, net.record(member)?);
    let Some(app) = &namespaces.app else { return Ok(None) };
    of_container(net, record, &app.links, &app.links.links().await?, &app.links.routes().await?).await
}

async fn of_container(
    net: &LocalNetwork,
    record: &Record,
    app: &Links,
    links: &[Link],
    routes: &[Route],
) -> Result<Option<Fault>> {
    if record.leaving {
        return Ok(None);
    }
    let loopback = links.iter().find(|link| link.index == LOOPBACK_INDEX);
    if net.host.config.names.is_some() && !loopback.is_some_and(|link| link.up) {
        return Ok(Some(Fault { error: loopback_is_down(), is_warning: false }));
    }
    let Some(subnet) = net.subnet() else { return Ok(None) };
    let own = foreign_ranges::own_interfaces(net.journal.lock().records().values(), record.netns);
    // The most frequent case costs no dump: a container with no interface but ours has no address that matters.
    let is_own = |link: &Link| link.index == LOOPBACK_INDEX || own.iter().any(|own| own.as_str() == link.name);
    let addresses = if links.iter().all(is_own) { Vec::new() } else { app.addresses().await? };
    let ranges = foreign_ranges::of(links, &addresses, routes, &own);
    let found = |conflict| ranges.iter().find(|range| range.conflict(subnet) == Some(conflict));
    let breaks = found(Conflict::Breaks).map(|range| Fault { error: breaks(subnet, range), is_warning: false });
    let narrows = || found(Conflict::Narrows).map(|range| Fault { error: narrows(subnet, range), is_warning: true });
    if breaks.is_some() {
        return Ok(breaks);
    }
    let diverted = diverted(record, subnet, app, links, routes).await?;
    let fault = diverted.map(|error| Fault { error, is_warning: false });
    Ok(fault.or_else(narrows))
}

/// Rules of the container that lead what is for the network past it. They are its root's, and stay; the guard and the backstop
/// hold back what they lead astray.
async fn diverted(
    record: &Record,
    subnet: Ipv4Net,
    app: &Links,
    links: &[Link],
    routes: &[Route],
) -> Result<Option<ControlError>> {
    let interface = record.interface();
    let tunnel = links.iter().find(|link| link.name == interface.as_str() && link.up);
    let Some(tunnel) = tunnel else { return Ok(None) };
    // The most frequent case costs one dump of three rules.
    let changes = app.rule_changes().await?;
    if changes.is_empty() {
        return Ok(None);
    }
    let departed = departed::departed(routes, subnet);
    let is_peer = |address: &Ipv4Addr| *address != record.address && !departed.contains(address);
    let Some(peer) = subnet.hosts().find(is_peer) else { return Ok(None) };
    if app.way(record.address, peer).await? == Some(tunnel.index) {
        return Ok(None);
    }
    Ok(Some(ControlError::new(
        ErrorCode::Internal,
        format!("the rules of the container lead packets to subnet {subnet} past {interface}: {changes}"),
        format!(
            "`ip rule` in the container shows them; `ip rule add to {subnet} lookup main priority 1` goes before them"
        ),
    )))
}

fn loopback_is_down() -> ControlError {
    ControlError::new(
        ErrorCode::Internal,
        "the loopback of the container is down, so that it can neither ask for names nor reach its own address",
        "ip link set lo up, in the container",
    )
}

/// An interface, a gateway or a route of the container that came after the attach, and is in the network's subnet.
fn breaks(subnet: Ipv4Net, range: &ForeignRange) -> ControlError {
    ControlError::new(
        ErrorCode::SubnetOverlap,
        format!("subnet {subnet} overlaps {range} of the container: packets to one of the two go the wrong way"),
        "give the container's interface another range, or attach the container to a network with another subnet",
    )
}

/// A route of the container that is wider than the network's subnet and no default route.
fn narrows(subnet: Ipv4Net, range: &ForeignRange) -> ControlError {
    ControlError::new(
        ErrorCode::SubnetOverlap,
        format!(
            "subnet {subnet} is inside {range} of the container: packets to the subnet go into the network instead"
        ),
        "nothing, if the container needs no address of the subnet there; else attach it to a network with another subnet",
    )
}
