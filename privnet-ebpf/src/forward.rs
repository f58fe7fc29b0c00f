//! The whole isolation policy: what becomes of a frame, as pure functions of what was read and looked up.
//!
//! **Invariant**: nothing is forwarded that is not ARP for a known member or IPv4/UDP between the WireGuard ports of
//! two known members of this network, with the sender's own MAC and address.

use crate::abi::{Config, MemberRow, PortRow};
use crate::net::MacAddr;
use crate::packet::{Claim, Kind, Packet};
use crate::verdict::{DropReason, PassReason, Verdict};

/// Decides about a frame that a member of this host sent.
///
/// `port` is the ports map's row of the interface that it came in by; `member` looks an address up in the members map,
/// once at most and only for a sender that is who it says.
#[must_use]
#[inline(always)]
pub fn from_member<'a>(
    config: Option<&Config>,
    port: Option<&PortRow>,
    packet: &Packet,
    member: impl FnOnce([u8; 4]) -> Option<&'a MemberRow>,
) -> Verdict {
    let (Some(config), Some(port)) = (current(config), port) else {
        return Verdict::Drop(if current(config).is_none() {
            DropReason::AbiMismatch
        } else {
            DropReason::UnknownPort
        });
    };
    match packet.kind() {
        Kind::Udp => match udp_from_member(config, port, packet, member) {
            Ok(verdict) => verdict,
            Err(reason) => Verdict::Drop(reason),
        },
        Kind::Arp => match answer(port, packet, member) {
            Ok(mac) => Verdict::AnswerArp { mac },
            Err(reason) => Verdict::Drop(reason),
        },
        Kind::Refused(reason) => Verdict::Drop(reason),
    }
}

/// Decides about a frame that came from another host.
///
/// `destination` is the members map's row of the address that it is for; `member` looks another address up there.
#[must_use]
#[inline(always)]
pub fn from_vtep<'a>(
    config: Option<&Config>,
    packet: &Packet,
    destination: Option<&MemberRow>,
    member: impl FnOnce([u8; 4]) -> Option<&'a MemberRow>,
) -> Verdict {
    if current(config).is_none() {
        return Verdict::Drop(DropReason::AbiMismatch);
    }
    match packet.kind() {
        Kind::Udp => match udp_from_vtep(packet, destination, member) {
            Ok(ifindex) => Verdict::DeliverLocal { ifindex, rewrite: None },
            Err(reason) => Verdict::Drop(reason),
        },
        Kind::Arp => Verdict::Drop(DropReason::ArpFromVtep),
        Kind::Refused(reason) => Verdict::Drop(reason),
    }
}

/// Decides about a packet on an interface of the app netns that is not ours, in either direction.
#[must_use]
#[inline(always)]
pub fn guard(config: Option<&Config>, claim: &Claim) -> Verdict {
    let Some(config) = current(config) else {
        return Verdict::Drop(DropReason::AbiMismatch);
    };
    match claim {
        Claim::Ipv4 { source, .. } if config.contains(*source) => Verdict::Drop(DropReason::GuardSource),
        Claim::Ipv4 { destination, .. } if config.contains(*destination) => Verdict::Drop(DropReason::GuardDestination),
        Claim::Arp { sender, target } if config.contains(*sender) || config.contains(*target) => {
            Verdict::Drop(DropReason::GuardArp)
        }
        Claim::Ipv4 { .. } | Claim::Arp { .. } => Verdict::Pass(PassReason::OutsidePrefix),
        Claim::Truncated => Verdict::Drop(DropReason::Truncated),
        Claim::Other => Verdict::Pass(PassReason::OtherProtocol),
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
    member: impl FnOnce([u8; 4]) -> Option<&'a MemberRow>,
) -> Result<Verdict, DropReason> {
    let udp = packet.udp();
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
        // The sender still remembers an earlier holder of the address: correct it, so that it heals at once.
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
fn answer<'a>(
    port: &PortRow,
    packet: &Packet,
    member: impl FnOnce([u8; 4]) -> Option<&'a MemberRow>,
) -> Result<MacAddr, DropReason> {
    let arp = packet.arp();
    if packet.source_mac() != port.mac() {
        return Err(DropReason::SpoofedMac);
    }
    if !arp.is_request() {
        return Err(DropReason::ArpNotRequest);
    }
    if arp.sender_mac() != port.mac() || arp.sender() != port.address() {
        return Err(DropReason::ArpSpoofed);
    }
    // Answering an announcement would tell the member that its address is taken.
    if arp.target() == arp.sender() {
        return Err(DropReason::ToItself);
    }
    member(arp.target()).map(MemberRow::mac).ok_or(DropReason::ArpUnknownTarget)
}

#[inline(always)]
fn udp_from_vtep<'a>(
    packet: &Packet,
    destination: Option<&MemberRow>,
    member: impl FnOnce([u8; 4]) -> Option<&'a MemberRow>,
) -> Result<u32, DropReason> {
    let udp = packet.udp();
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
    Ok(ifindex)
}

#[cfg(test)]
mod tests;
