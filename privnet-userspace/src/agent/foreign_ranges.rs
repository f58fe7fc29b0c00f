//! The ranges that a namespace reaches by interfaces that are no private network's.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use crate::agent::host::journal::Record;
use crate::ipam::{ForeignRange, Reach};
use crate::link::{self, Address, Link, Links, Route, RouteTarget};
use crate::model::IfName;
use crate::netns::NetnsId;
use crate::topology::ownership;

/// The interfaces of a namespace that are private networks': those of its records.
pub fn own_interfaces<'a>(records: impl IntoIterator<Item = &'a Record>, netns: NetnsId) -> BTreeSet<IfName> {
    let here = records.into_iter().filter(|record| record.netns == netns);
    here.map(Record::interface).collect()
}

/// What a namespace has, without what belongs to the interfaces in `own`.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn read(links: &Links, own: &BTreeSet<IfName>) -> Result<BTreeSet<ForeignRange>, link::Error> {
    Ok(of(&links.links().await?, &links.addresses().await?, &links.routes().await?, own))
}

/// The ranges of links, addresses and routes that were read.
pub fn of(links: &[Link], addresses: &[Address], routes: &[Route], own: &BTreeSet<IfName>) -> BTreeSet<ForeignRange> {
    let foreign = |index: u32| {
        let link = links.iter().find(|link| link.index == index)?;
        (!own.iter().any(|own| own.as_str() == link.name)).then(|| link.name.clone())
    };
    let mut ranges = BTreeSet::new();
    for address in addresses {
        if let Some(interface) = foreign(address.index) {
            let range = address.address.trunc();
            ranges.insert(ForeignRange { range, reach: Reach::Connected, interface: Some(interface) });
        }
    }
    for route in routes {
        let range = route.destination;
        match route.target {
            RouteTarget::Link { index, gateway } => {
                let Some(interface) = foreign(index) else { continue };
                if let Some(gateway) = gateway {
                    let interface = Some(interface.clone());
                    ranges.insert(ForeignRange { range: gateway.into(), reach: Reach::Gateway, interface });
                }
                let connected = |reach| ForeignRange { range, reach, interface: Some(interface.clone()) };
                if !ranges.contains(&connected(Reach::Connected)) {
                    ranges.insert(connected(Reach::Route));
                }
            }
            RouteTarget::Unreachable if ownership::is_own_metric(route.metric) => {}
            RouteTarget::Unreachable | RouteTarget::Other(_) => {
                ranges.insert(ForeignRange { range, reach: Reach::Route, interface: None });
            }
        }
    }
    ranges
}

/// The ranges from which a new network with a subnet of `prefix_length` keeps away.
pub fn avoided(ranges: impl IntoIterator<Item = ForeignRange>, prefix_length: u8) -> Vec<Ipv4Net> {
    ranges.into_iter().filter(|range| range.is_avoided(prefix_length)).map(|range| range.range).collect()
}
