//! What a member needs of its container and privnet does not change, for it is the container's own.

use anyhow::Result;

use super::local::LocalNetwork;
use super::scan::MemberScan;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::foreign_ranges;
use crate::agent::host::journal::Record;
use crate::ipam::Conflict;
use crate::link::{LOOPBACK_INDEX, Link};
use crate::model::MemberId;

/// What of a member's container is in the way of what is promised.
///
/// # Errors
/// When its links cannot be read.
pub async fn fault(scan: &MemberScan<'_>) -> Result<Option<ControlError>> {
    if scan.namespaces.app.is_none() {
        return Ok(None);
    }
    let loopback = scan.app_links().await?.iter().find(|link| link.index == LOOPBACK_INDEX);
    match of_loopback(scan.net(), scan.record, loopback) {
        Some(fault) => Ok(Some(fault)),
        None => overlap(scan).await,
    }
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
