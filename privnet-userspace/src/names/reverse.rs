//! What an address stands for: the names below `in-addr.arpa` of the subnets of the client's networks.
//!
//! A subnet's zone is cut at the octet at or below its prefix: 10.240.0.0/22 has the four zones `0.240.10` to `3.240.10`.
//! So nothing of a stranger's is ever claimed, and nothing of ours is ever asked elsewhere.

use std::net::Ipv4Addr;

use super::zone::{DnsClient, Zone, Zones};
use crate::model::{ContainerRef, NetworkId};

/// What exists under the name of an address, or of several.
pub(super) struct Reverse<'a> {
    /// The network whose subnet it is in.
    pub(super) zone: &'a Zone,
    /// Its id, for the name that the address has.
    pub(super) network: NetworkId,
    /// How many labels are left of the zone's apex.
    pub(super) skip: usize,
    pub(super) place: Place<'a>,
}

pub(super) enum Place<'a> {
    Nothing,
    /// Nothing itself, but something below it.
    Bare,
    Apex,
    Member(&'a ContainerRef),
}

/// Looks up `labels`, those left of `in-addr.arpa`; nothing when they are not of a subnet of the client's.
pub(super) fn find<'a>(zones: &'a Zones, client: &'a DnsClient, labels: &[&[u8]]) -> Option<Reverse<'a>> {
    let mut octets = [0; 4];
    let mut known = 0;
    for (label, octet) in labels.iter().rev().zip(&mut octets) {
        match number(label) {
            Some(value) => *octet = value,
            None => break,
        }
        known += 1;
    }
    let first = Ipv4Addr::from(octets);
    let (network, zone) = zones.by_address(client, first)?;
    let cut = usize::from(zone.head.subnet.prefix_len()).div_ceil(8);
    if known < cut {
        return None;
    }
    let place = if known < labels.len() {
        Place::Nothing
    } else if known == cut && known < 4 {
        Place::Apex
    } else {
        below(zone, octets, known)
    };
    Some(Reverse { zone, network, skip: labels.len() - cut, place })
}

fn below(zone: &Zone, first: [u8; 4], known: usize) -> Place<'_> {
    let mut last = first;
    last[known..].fill(u8::MAX);
    match zone.holders.range(Ipv4Addr::from(first)..=Ipv4Addr::from(last)).next() {
        Some((_, holder)) if known == 4 => Place::Member(holder),
        Some(_) => Place::Bare,
        None => Place::Nothing,
    }
}

/// An octet as it is displayed: no leading zero.
fn number(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok().filter(|text| !text.starts_with('+'))?;
    let canonical = text == "0" || !text.starts_with('0');
    canonical.then(|| text.parse().ok()).flatten()
}
