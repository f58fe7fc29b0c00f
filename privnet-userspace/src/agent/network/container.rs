//! What a member needs of its container and privnet does not change, for it is the container's own.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::local::LocalNetwork;
use super::objects::departed;
use super::scan::MemberScan;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::foreign_ranges;
use crate::agent::host::journal::Record;
use crate::ipam::Conflict;
use crate::link::{LOOPBACK_INDEX, Link};
use crate::model::MemberId;
use crate::topology::ownership;

/// What of a member's container is in the way of what is promised.
///
/// # Errors
/// When its links cannot be read.
pub async fn fault(scan: &MemberScan<'_>) -> Result<Option<ControlError>> {
    if scan.namespaces.app.is_none() {
        return Ok(None);
    }
    let loopback = scan.app_links().await?.iter().find(|link| link.index == LOOPBACK_INDEX);
    if let Some(fault) = of_loopback(scan.net(), scan.record, loopback) {
        return Ok(Some(fault));
    }
    match overlap(scan).await? {
        Some(fault) => Ok(Some(fault)),
        None => diverted(scan).await,
    }
}

/// Rules of the container that lead what is for the network past it. They are its root's, and stay; the guard and the backstop
/// hold back what they lead astray.
async fn diverted(scan: &MemberScan<'_>) -> Result<Option<ControlError>> {
    let (Some(app), Some(subnet)) = (&scan.namespaces.app, scan.net().subnet()) else { return Ok(None) };
    let interface = ownership::wireguard_interface(scan.record.index);
    let tunnel = scan.app_links().await?.iter().find(|link| link.name == interface.as_str() && link.up);
    let Some(tunnel) = tunnel.filter(|_| !scan.record.leaving) else { return Ok(None) };
    // The most frequent case costs one dump of three rules.
    let changes = app.links.rule_changes().await?;
    if changes.is_empty() {
        return Ok(None);
    }
    let departed = departed::departed(scan.app_routes().await?, subnet);
    let is_peer = |address: &Ipv4Addr| *address != scan.record.address && !departed.contains(address);
    let Some(peer) = subnet.hosts().find(is_peer) else { return Ok(None) };
    if app.links.way(scan.record.address, peer).await? == Some(tunnel.index) {
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

/// An interface, a gateway or a route of the container that came after the attach, and is in the network's subnet.
async fn overlap(scan: &MemberScan<'_>) -> Result<Option<ControlError>> {
    let (Some(app), Some(subnet)) = (&scan.namespaces.app, scan.net().subnet()) else { return Ok(None) };
    if scan.record.leaving {
        return Ok(None);
    }
    let own = foreign_ranges::own_interfaces(scan.net().journal.lock().records().values(), scan.record.netns);
    let links = scan.app_links().await?;
    // The most frequent case costs no dump: a container with no interface but ours has no address that matters.
    let is_own = |link: &Link| link.index == LOOPBACK_INDEX || own.iter().any(|own| own.as_str() == link.name);
    let addresses = if links.iter().all(is_own) { Vec::new() } else { app.links.addresses().await? };
    let ranges = foreign_ranges::of(links, &addresses, scan.app_routes().await?, &own);
    Ok(ranges.iter().find(|range| range.conflict(subnet) == Some(Conflict::Breaks)).map(|range| {
        ControlError::new(
            ErrorCode::SubnetOverlap,
            format!("subnet {subnet} overlaps {range} of the container: packets to one of the two go the wrong way"),
            "give the container's interface another range, or attach the container to a network with another subnet",
        )
    }))
}

/// The same of a member that was just made, by one question.
///
/// # Errors
/// When its loopback cannot be read.
pub async fn fault_of_new(net: &LocalNetwork, member: MemberId) -> Result<Option<ControlError>> {
    let (namespaces, record) = (net.namespaces_of(member).await?, net.record(member)?);
    let Some(app) = &namespaces.app else { return Ok(None) };
    Ok(of_loopback(net, record, app.find("lo").await?.as_ref()))
}

fn of_loopback(net: &LocalNetwork, record: &Record, loopback: Option<&Link>) -> Option<ControlError> {
    let is_needed = !record.leaving && net.host.config.names.is_some();
    (is_needed && !loopback.is_some_and(|link| link.up)).then(|| {
        ControlError::new(
            ErrorCode::Internal,
            "the loopback of the container is down, so that it can neither ask for names nor reach its own address",
            "ip link set lo up, in the container",
        )
    })
}
