//! What a network must not take away: the ranges of the host, and of the containers on it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::error::{ControlError, ErrorCode};
use crate::agent::foreign_ranges;
use crate::agent::host::journal::Record;
use crate::agent::shared::Shared;
use crate::ipam::{self, Conflict};
use crate::link::Links;
use crate::model::Network;
use crate::netns::{Netns, NetnsId};

/// Refuses a network whose subnet takes packets from the container's own interfaces, or its packets go there.
///
/// # Errors
/// [`ErrorCode::SubnetOverlap`] with the range and its interface; or when the kernel cannot be asked.
pub(in crate::agent) async fn check_own_interfaces(
    shared: &Shared,
    network: &Network,
    container: &Netns,
) -> Result<(), ControlError> {
    let links = Links::open(container).await?;
    let own = foreign_ranges::own_interfaces(shared.journal().records().values(), container.id());
    let ranges = foreign_ranges::read(&links, &own).await?;
    match ranges.iter().find(|range| range.conflict(network.subnet) == Some(Conflict::Breaks)) {
        None => Ok(()),
        Some(range) => Err(ControlError::new(
            ErrorCode::SubnetOverlap,
            format!(
                "subnet {} of network {} overlaps {range} of the container: one of the two would be dead",
                network.subnet, network.name
            ),
            "use a network with another subnet (`privnet network create NAME --subnet PREFIX`), or give the container's \
             interface another range",
        )),
    }
}

/// The ranges of the host and of the containers on it, from which a new network keeps away.
///
/// A container that cannot be asked is passed over: the check at its attach decides.
pub(in crate::agent) async fn avoided_ranges(shared: &Shared) -> Vec<Ipv4Net> {
    let records: Vec<Record> = shared.journal().records().values().cloned().collect();
    let mut ranges = foreign_ranges::read(&shared.host.netns.links, &BTreeSet::new()).await.unwrap_or_default();
    let containers: BTreeMap<NetnsId, &Record> = records.iter().map(|record| (record.netns, record)).collect();
    for (id, record) in containers {
        // The path may lead to another namespace by now.
        let Some(netns) =
            Netns::open(record.best_path(&shared.host.facts.boot_id)).ok().filter(|netns| netns.id() == id)
        else {
            continue;
        };
        let Ok(links) = Links::open(&netns).await else { continue };
        let own = foreign_ranges::own_interfaces(&records, id);
        ranges.extend(foreign_ranges::read(&links, &own).await.unwrap_or_default());
    }
    foreign_ranges::avoided(ranges, ipam::subnet::POOL_SUBNET_PREFIX_LENGTH)
}
