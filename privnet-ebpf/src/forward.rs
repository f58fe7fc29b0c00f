//! The whole isolation policy: what becomes of a frame, and which counters it is charged to, as pure functions of the
//! frame's headers and of the network's tables.
//!
//! Each function is given the rows that the program has at hand, and `member`, which looks an address up in the members
//! map. The programs pass a lookup in the kernel's map, tests pass one in their own.
//!
//! **Invariant**: a member's ARP request for a known member is answered, and IPv4/UDP between the WireGuard ports of
//! two known members of this network, with the sender's own MAC and address, is forwarded. Every other frame is
//! dropped.

use crate::abi::{Config, MemberRow, PortRow};
use crate::account::Account;
use crate::packet::{Addresses, Arp, Kind, Packet, Protocol, Udp};
use crate::verdict::{Direction, DropReason, PassReason, Verdict};

/// Decides about a frame that a member of this host sent, and charges it to that member.
///
/// `port` is the ports map's row of the interface that the frame came in by. A frame too short for a [`Packet`] comes
/// with its reason to be dropped.
#[must_use]
#[inline(always)]
pub fn from_member<'a>(
    config: Option<&Config>,
    port: Option<&PortRow>,
    packet: &Result<Packet, DropReason>,
    member: impl Fn([u8; 4]) -> Option<&'a MemberRow>,
) -> (Account, Verdict) {
    let account = match port {
        Some(port) => Account::of_member(port.address(), Direction::Out),
        None => Account::of_network(Direction::Out),
    };
    let packet = match packet {
        Ok(packet) => packet,
        Err(reason) => return (account, Verdict::Drop(*reason)),
    };
    let (Some(config), Some(port)) = (current(config), port) else {
        let reason = if current(config).is_none() { DropReason::AbiMismatch } else { DropReason::UnknownPort };
        return (account, Verdict::Drop(reason));
    };
    let verdict = match packet.kind() {
        Kind::Udp(udp) => udp_from_member(config, port, packet, udp, member),
        Kind::Arp(arp) => arp_from_member(port, packet, arp, member),
        Kind::Refused(reason) => Err(reason),
    };
    (account, verdict.unwrap_or_else(Verdict::Drop))
}

/// Decides about a frame that came from another host, and charges it to the member of this host that it is for, else to
/// the network.
///
/// A frame too short for a [`Packet`] comes with its reason to be dropped.
#[must_use]
#[inline(always)]
pub fn from_vtep<'a>(
    config: Option<&Config>,
    packet: &Result<Packet, DropReason>,
    member: impl Fn([u8; 4]) -> Option<&'a MemberRow>,
) -> (Account, Verdict) {
    let network = Account::of_network(Direction::In);
    let packet = match packet {
        Ok(packet) => packet,
        Err(reason) => return (network, Verdict::Drop(*reason)),
    };
    let (account, destination) = match packet.kind() {
        Kind::Udp(udp) => {
            let row = member(udp.destination());
            (Account::of_local(udp.destination(), row, Direction::In), row)
        }
        Kind::Arp(_) | Kind::Refused(_) => (network, None),
    };
    if current(config).is_none() {
        return (account, Verdict::Drop(DropReason::AbiMismatch));
    }
    let verdict = match packet.kind() {
        Kind::Udp(udp) => udp_from_vtep(packet, udp, destination, member),
        Kind::Arp(_) => Err(DropReason::ArpFromVtep),
        Kind::Refused(reason) => Err(reason),
    };
    (account, verdict.unwrap_or_else(Verdict::Drop))
}

/// Decides about a packet on a foreign interface of the app netns, and charges a refusal to the member of this host
/// whose address stands on the container's side of the packet, else to the network.
///
/// `direction` is that of the hook: [`Direction::Out`] for what the container sends.
#[must_use]
#[inline(always)]
pub fn guard<'a>(
    config: Option<&Config>,
    direction: Direction,
    addresses: &Addresses,
    member: impl Fn([u8; 4]) -> Option<&'a MemberRow>,
) -> (Account, Verdict) {
    let network = Account::of_network(direction);
    match guard_passes(config, addresses) {
        Ok(reason) => (network, Verdict::Pass(reason)),
        Err(reason) => {
            let account = match addresses.of_container(direction) {
                Some(own) => Account::of_local(own, member(own), direction),
                None => network,
            };
            (account, Verdict::Drop(reason))
        }
    }
}

#[inline(always)]
fn guard_passes(config: Option<&Config>, addresses: &Addresses) -> Result<PassReason, DropReason> {
    let config = current(config).ok_or(DropReason::AbiMismatch)?;
    match addresses.protocol() {
        Protocol::Ipv4 if config.contains(addresses.from()) => Err(DropReason::GuardSource),
        Protocol::Ipv4 if config.contains(addresses.to()) => Err(DropReason::GuardDestination),
        Protocol::Arp if config.contains(addresses.from()) || config.contains(addresses.to()) => {
            Err(DropReason::GuardArp)
        }
        Protocol::Ipv4 | Protocol::Arp => Ok(PassReason::OutsidePrefix),
        Protocol::Truncated => Err(DropReason::Truncated),
        Protocol::Other => Ok(PassReason::OtherProtocol),
    }
}

#[inline(always)]
fn current(config: Option<&Config>) -> Option<&Config> {
    config.filter(|config| config.is_current())
}

#[inline(always)]
fn udp_from_member<'a>(
    config: &Config,
    port: &PortRow,
    packet: &Packet,
    udp: Udp<'_>,
    member: impl Fn([u8; 4]) -> Option<&'a MemberRow>,
) -> Result<Verdict, DropReason> {
    if packet.source_mac() != port.mac() {
        return Err(DropReason::SpoofedMac);
    }
    if udp.source() != port.address() {
        return Err(DropReason::SpoofedAddress);
    }
    if udp.source_port() != port.wireguard_port() {
        return Err(DropReason::WrongSourcePort);
    }
    if udp.destination() == udp.source() {
        return Err(DropReason::ToItself);
    }
    let target = member(udp.destination()).ok_or(DropReason::UnknownDestination)?;
    if udp.destination_port() != target.wireguard_port() {
        return Err(DropReason::WrongDestinationPort);
    }
    let rewrite = if packet.destination_mac() == target.mac() {
        None
    } else if packet.destination_mac().is_of_member(udp.destination()) {
        // The sender's neighbour entry is of an earlier holder of the address: the frame is delivered with the MAC of
        // the present one.
        Some(target.mac())
    } else {
        return Err(DropReason::WrongDestinationMac);
    };
    match target.ifindex() {
        Some(ifindex) => Ok(Verdict::DeliverLocal { ifindex, rewrite }),
        None => match config.vtep() {
            Some(ifindex) => Ok(Verdict::SendRemote { ifindex, rewrite }),
            None => Err(DropReason::NoVtep),
        },
    }
}

#[inline(always)]
fn arp_from_member<'a>(
    port: &PortRow,
    packet: &Packet,
    arp: Arp<'_>,
    member: impl Fn([u8; 4]) -> Option<&'a MemberRow>,
) -> Result<Verdict, DropReason> {
    if packet.source_mac() != port.mac() {
        return Err(DropReason::SpoofedMac);
    }
    if !arp.is_request() {
        return Err(DropReason::ArpNotRequest);
    }
    if arp.sender_mac() != port.mac() || arp.sender() != port.address() {
        return Err(DropReason::ArpSpoofed);
    }
    // The answer to an announcement would tell the member that its address is taken.
    if arp.target() == arp.sender() {
        return Err(DropReason::ToItself);
    }
    let target = member(arp.target()).ok_or(DropReason::ArpUnknownTarget)?;
    Ok(Verdict::AnswerArp { mac: target.mac() })
}

#[inline(always)]
fn udp_from_vtep<'a>(
    packet: &Packet,
    udp: Udp<'_>,
    destination: Option<&MemberRow>,
    member: impl Fn([u8; 4]) -> Option<&'a MemberRow>,
) -> Result<Verdict, DropReason> {
    let destination = destination.ok_or(DropReason::UnknownDestination)?;
    let ifindex = destination.ifindex().ok_or(DropReason::DestinationNotLocal)?;
    if packet.destination_mac() != destination.mac() {
        return Err(DropReason::WrongDestinationMac);
    }
    if udp.destination_port() != destination.wireguard_port() {
        return Err(DropReason::WrongDestinationPort);
    }
    let source = member(udp.source()).ok_or(DropReason::UnknownSource)?;
    if source.ifindex().is_some() {
        return Err(DropReason::SourceIsLocal);
    }
    if packet.source_mac() != source.mac() {
        return Err(DropReason::SpoofedMac);
    }
    if udp.source_port() != source.wireguard_port() {
        return Err(DropReason::WrongSourcePort);
    }
    Ok(Verdict::DeliverLocal { ifindex, rewrite: None })
}

#[cfg(test)]
mod tests;
