//! The parts that the fuzz tests share: a network's tables as values, and the result of the policy by them.
//!
//! [`Expected`] comes from `forward`, the library's policy. [`broken_lock`] and [`wrong_account`] state its rules once
//! more, by hand, from the bytes alone, so that an error of the library is found although the programs share it.

#![allow(dead_code, missing_docs, reason = "each test binary uses some of it; the names say it")]

pub mod frames;

use std::collections::BTreeMap;

use privnet::datapath::{Hook, MemberRow, Network, PortRow};
use privnet_ebpf::abi::{Config, CounterKey};
use privnet_ebpf::account::Account;
use privnet_ebpf::forward;
use privnet_ebpf::net::{MacAddr, Vni};
use privnet_ebpf::packet::{Addresses, Kind, Packet};
use privnet_ebpf::verdict::{Direction, DropReason, Outcome, Verdict};

use crate::datapath::{DROP, Member, NEXT, REDIRECT};

/// The mark that every frame has when it comes in.
pub const MARK: u32 = 0xbeef;

/// A network's tables.
#[derive(Clone, Debug)]
pub struct World {
    pub config: Config,
    pub ports: BTreeMap<u32, PortRow>,
    pub members: BTreeMap<[u8; 4], MemberRow>,
    /// The senders and receivers that frames are made of: the members, and some that are not members.
    pub people: Vec<Member>,
}

/// The result of a program for a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub action: i32,
    pub frame: Vec<u8>,
    pub mark: u32,
    pub counted: Option<CounterKey>,
    /// The interface that it goes to.
    pub target: Option<u32>,
}

impl World {
    pub fn new(vni: u32, vtep: u32) -> Self {
        let config = Config::new(Vni::new(vni).expect("VNI"), [10, 240, 0, 0], 22).with_vtep(Some(vtep));
        Self { config, ports: BTreeMap::new(), members: BTreeMap::new(), people: Vec::new() }
    }

    /// A member of this host behind `ifindex`.
    #[must_use]
    pub fn local(mut self, member: Member, ifindex: u32) -> Self {
        let address = member.address.octets();
        self.ports.insert(ifindex, PortRow::new(address, member.mac, member.port));
        self.members.insert(address, MemberRow::local(member.mac, member.port, ifindex));
        self.people.push(member);
        self
    }

    /// A member of another host.
    #[must_use]
    pub fn remote(mut self, member: Member) -> Self {
        self.members.insert(member.address.octets(), MemberRow::remote(member.mac, member.port));
        self.people.push(member);
        self
    }

    /// A sender or receiver that is not a member.
    #[must_use]
    pub fn stranger(mut self, member: Member) -> Self {
        self.people.push(member);
        self
    }

    /// Writes the tables into a network's maps.
    pub fn fill(&self, network: &mut Network) {
        network.set_vtep(self.config.vtep()).expect("vtep");
        for (address, row) in &self.members {
            network.set_member((*address).into(), *row).expect("member");
        }
        for (ifindex, row) in &self.ports {
            network.set_port(*ifindex, *row).expect("port");
        }
    }

    /// The result of the program of `hook`, by the library's policy. `tagged`: the kernel takes a VLAN tag off `frame`.
    pub fn expect(&self, hook: Hook, ifindex: u32, frame: &[u8], tagged: bool) -> Expected {
        let (config, member) = (Some(&self.config), |address: [u8; 4]| self.members.get(&address));
        let packet = Packet::read(&frame, tagged);
        let guard = |direction| {
            let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
            forward::guard(config, direction, &Addresses::read(ethertype, &&frame[14..]), member)
        };
        let (account, verdict) = match hook {
            Hook::FromMember => forward::from_member(config, self.ports.get(&ifindex), &packet, member),
            Hook::FromVtep => forward::from_vtep(config, &packet, member),
            Hook::GuardIngress => guard(Direction::In),
            Hook::GuardEgress => guard(Direction::Out),
        };
        carried_out(ifindex, frame, packet.ok(), account, verdict)
    }
}

/// What the kernel has to show for `verdict`: `exit` of the programs, stated as its results.
fn carried_out(ifindex: u32, frame: &[u8], packet: Option<Packet>, account: Account, verdict: Verdict) -> Expected {
    let mut out = frame.to_vec();
    let mut redirected = |target, rewrite: Option<MacAddr>, outcome| {
        if let Some(mac) = rewrite {
            out[..6].copy_from_slice(&mac.bytes());
        }
        (REDIRECT, 0, Some(outcome), Some(target))
    };
    let (action, mark, counted, target) = match verdict {
        Verdict::DeliverLocal { ifindex, rewrite } => redirected(ifindex, rewrite, Outcome::ForwardedLocal),
        Verdict::SendRemote { ifindex, rewrite } => redirected(ifindex, rewrite, Outcome::ForwardedRemote),
        Verdict::AnswerArp { mac } => {
            let packet = packet.expect("an answer has a request");
            let Kind::Arp(request) = packet.kind() else { panic!("an answer to {packet:?}") };
            let reply = request.reply(mac);
            out[..reply.len()].copy_from_slice(&reply);
            (REDIRECT, 0, Some(Outcome::ArpAnswered), Some(ifindex))
        }
        Verdict::Pass(_) => (NEXT, MARK, None, None),
        Verdict::Drop(reason) => (DROP, MARK, Some(Outcome::Dropped(reason)), None),
    };
    let counted = counted.map(|outcome| account.key(outcome));
    Expected { action, frame: out, mark, counted, target }
}

/// The lock that a frame broke although it went on, read off the bytes by hand.
pub fn broken_lock(world: &World, hook: Hook, ifindex: u32, frame: &[u8], out: &Expected) -> Option<&'static str> {
    let went_on = out.action != DROP;
    let field = |offset: usize, length: usize| frame.get(offset..offset + length).unwrap_or_default();
    let member = |offset: usize| world.members.get(<&[u8; 4]>::try_from(field(offset, 4)).ok()?);
    let check = |ok: bool, lock| if ok { None } else { Some(lock) };
    match (hook, field(12, 2)) {
        _ if !went_on => None,
        (Hook::FromMember, [8, 0]) => {
            let (Some(port), Some(to)) = (world.ports.get(&ifindex), member(30)) else {
                return Some("a sender and a destination that are members");
            };
            check(field(6, 6) == port.mac().bytes(), "the sender's own MAC")
                .or_else(|| check(field(26, 4) == port.address(), "the sender's own address"))
                .or_else(|| check(field(14, 1) == [0x45] && field(23, 1) == [17], "UDP without options"))
                .or_else(|| check(field(20, 1)[0] & 0x3f == 0 && field(21, 1) == [0], "no fragments"))
                .or_else(|| check(field(34, 2) == port.wireguard_port().to_be_bytes(), "from WireGuard's port"))
                .or_else(|| check(field(36, 2) == to.wireguard_port().to_be_bytes(), "to WireGuard's port"))
                .or_else(|| check(out.frame[..6] == to.mac().bytes(), "to the destination's MAC"))
                .or_else(|| check(out.frame[6..] == frame[6..], "what is carried is not touched"))
                .or_else(|| check(out.target == to.ifindex().or(world.config.vtep()), "to where the member is"))
        }
        (Hook::FromMember, [8, 6]) => {
            let (Some(port), Some(of)) = (world.ports.get(&ifindex), member(38)) else {
                return Some("a question of a member for a member");
            };
            check(field(20, 2) == [0, 1] && out.frame[20..22] == [0, 2], "a question is answered")
                .or_else(|| {
                    check(
                        field(28, 4) == port.address() && field(6, 6) == port.mac().bytes(),
                        "with the sender's own address and MAC",
                    )
                })
                .or_else(|| {
                    check(out.frame[22..28] == of.mac().bytes(), "with the MAC of the address that is asked for")
                })
                .or_else(|| check(out.target == Some(ifindex), "back to the sender"))
        }
        (Hook::FromVtep, [8, 0]) => {
            let (Some(from), Some(to)) = (member(26), member(30)) else { return Some("between two members") };
            check(from.ifindex().is_none() && field(6, 6) == from.mac().bytes(), "from another host's member")
                .or_else(|| {
                    check(to.ifindex().is_some() && field(0, 6) == to.mac().bytes(), "to a member of this host")
                })
                .or_else(|| check(field(14, 1) == [0x45] && field(23, 1) == [17], "UDP without options"))
                .or_else(|| check(field(34, 2) == from.wireguard_port().to_be_bytes(), "from WireGuard's port"))
                .or_else(|| check(field(36, 2) == to.wireguard_port().to_be_bytes(), "to WireGuard's port"))
                .or_else(|| check(out.frame == frame, "what is carried is not touched"))
                .or_else(|| check(out.target == to.ifindex(), "to where the member is"))
        }
        (Hook::FromMember | Hook::FromVtep, _) => Some("IPv4, or ARP of a member"),
        (Hook::GuardIngress | Hook::GuardEgress, [8, 0]) => {
            let inside = |offset| field(offset, 4).starts_with(&[10, 240]) && field(offset, 4)[2] < 4;
            check(!inside(26) && !inside(30), "no private address on a foreign interface")
        }
        (Hook::GuardIngress | Hook::GuardEgress, _) => None,
    }
}

/// Reasons to refuse a frame before its addresses are looked up.
const BEFORE_ADDRESSES: [DropReason; 7] = [
    DropReason::Truncated,
    DropReason::Malformed,
    DropReason::MulticastOrBroadcast,
    DropReason::IpOptions,
    DropReason::Fragment,
    DropReason::NotUdp,
    DropReason::Dhcp,
];

/// The address that a frame had to be charged to, when it is not the one of `counted`; read off the bytes by hand.
///
/// The frames of a port are charged to its member. The other programs charge the member of this host whose address is
/// on the container's side of the packet: the destination of what arrives, the source of what leaves. All else is
/// charged to the network.
pub fn wrong_account(world: &World, hook: Hook, ifindex: u32, frame: &[u8], counted: CounterKey) -> Option<[u8; 4]> {
    let bytes = |offset: usize, length: usize| frame.get(offset..offset + length).unwrap_or_default();
    let mut network_header = 14;
    while matches!(hook, Hook::GuardIngress | Hook::GuardEgress)
        && network_header < 22
        && matches!(bytes(network_header - 2, 2), [0x81, 0] | [0x88, 0xa8] | [0x91, 0])
    {
        network_header += 4;
    }
    let local = |offset: usize| {
        let address = <[u8; 4]>::try_from(bytes(network_header + offset, 4)).ok()?;
        world.members.get(&address)?.ifindex().map(|_| address)
    };
    let unread = BEFORE_ADDRESSES
        .into_iter()
        .any(|reason| counted.what().is_some_and(|(_, outcome)| outcome == Outcome::Dropped(reason)));
    let charged = match (hook, bytes(network_header - 2, 2)) {
        (Hook::FromMember, _) => world.ports.get(&ifindex).map(PortRow::address),
        _ if unread => None,
        (Hook::FromVtep | Hook::GuardIngress, [8, 0]) => local(16),
        (Hook::GuardEgress, [8, 0]) => local(12),
        (Hook::GuardIngress, [8, 6]) => local(24),
        (Hook::GuardEgress, [8, 6]) => local(14),
        (Hook::FromVtep | Hook::GuardIngress | Hook::GuardEgress, _) => None,
    };
    let charged = charged.unwrap_or(CounterKey::NETWORK);
    (charged != counted.address()).then_some(charged)
}

/// The reasons that a run has to have met to show anything: all that the program can give while its maps are whole and
/// current.
pub fn reasons_of(hook: Hook) -> Vec<DropReason> {
    let is_of_guard = |reason: &DropReason| {
        matches!(reason, DropReason::GuardSource | DropReason::GuardDestination | DropReason::GuardArp)
    };
    // The kernel runs no test on a frame that is shorter than its IPv4 header, and has always room to write.
    let rare = [DropReason::AbiMismatch, DropReason::NotWritable, DropReason::NoVtep];
    let from_afar = [
        DropReason::UnknownSource,
        DropReason::SourceIsLocal,
        DropReason::DestinationNotLocal,
        DropReason::ArpFromVtep,
    ];
    let of_members = [
        DropReason::UnknownPort,
        DropReason::SpoofedAddress,
        DropReason::ToItself,
        DropReason::ArpNotRequest,
        DropReason::ArpSpoofed,
        DropReason::ArpUnknownTarget,
    ];
    let all = DropReason::ALL.iter().copied().filter(|reason| !rare.contains(reason));
    match hook {
        Hook::FromMember => all.filter(|reason| !is_of_guard(reason) && !from_afar.contains(reason)).collect(),
        Hook::FromVtep => all.filter(|reason| !is_of_guard(reason) && !of_members.contains(reason)).collect(),
        Hook::GuardIngress | Hook::GuardEgress => all.filter(is_of_guard).collect(),
    }
}
