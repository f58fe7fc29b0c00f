//! The policy over every combination of right and wrong facts, and the account of each frame.

#![expect(clippy::wildcard_enum_match_arm, reason = "what no case names fails the test")]

use proptest::prelude::*;

use super::*;
use crate::net::{MacAddr, Vni};
use crate::packet::HEADERS_BYTES;

const ALICE: ([u8; 4], u8, u16) = ([10, 240, 0, 2], 1, 51_820);
const BOB: ([u8; 4], u8, u16) = ([10, 240, 0, 3], 4, 51_821);
const STRANGER: [u8; 4] = [192, 0, 2, 1];
const BOB_IF: u32 = 21;
const VTEP_IF: u32 = 31;
/// What ALICE sends is charged to ALICE.
const OF_ALICE: Account = Account::of_member(ALICE.0, Direction::Out);

fn mac((address, generation, _): ([u8; 4], u8, u16)) -> MacAddr {
    MacAddr::of_member(address, generation)
}

fn config() -> Config {
    Config::new(Vni::MIN, [10, 240, 0, 0], 22).with_vtep(Some(VTEP_IF))
}

fn of_another_abi() -> Config {
    bytemuck::Zeroable::zeroed()
}

fn alice() -> PortRow {
    PortRow::new(ALICE.0, mac(ALICE), ALICE.2)
}

fn bob(ifindex: Option<u32>) -> MemberRow {
    match ifindex {
        Some(ifindex) => MemberRow::local(mac(BOB), BOB.2, ifindex),
        None => MemberRow::remote(mac(BOB), BOB.2),
    }
}

/// The fields of a datagram's frame that the policy reads.
#[derive(Clone, Copy, Debug)]
struct Datagram {
    macs: [MacAddr; 2],
    addresses: [[u8; 4]; 2],
    ports: [u16; 2],
}

impl Datagram {
    /// From ALICE to BOB, right in everything.
    fn right() -> Self {
        Self { macs: [mac(ALICE), mac(BOB)], addresses: [ALICE.0, BOB.0], ports: [ALICE.2, BOB.2] }
    }

    fn packet(&self) -> Result<Packet, DropReason> {
        let mut frame = [0; HEADERS_BYTES];
        frame[0..6].copy_from_slice(&self.macs[1].bytes());
        frame[6..12].copy_from_slice(&self.macs[0].bytes());
        frame[12..18].copy_from_slice(&[0x08, 0x00, 0x45, 0, 0, 28]);
        frame[23] = 17;
        frame[26..30].copy_from_slice(&self.addresses[0]);
        frame[30..34].copy_from_slice(&self.addresses[1]);
        frame[34..36].copy_from_slice(&self.ports[0].to_be_bytes());
        frame[36..38].copy_from_slice(&self.ports[1].to_be_bytes());
        frame[39] = 8;
        read(&frame)
    }
}

fn arp(
    source_mac: MacAddr,
    operation: u8,
    sender_mac: MacAddr,
    sender: [u8; 4],
    target: [u8; 4],
) -> Result<Packet, DropReason> {
    let mut frame = [0; HEADERS_BYTES];
    frame[0..6].copy_from_slice(&MacAddr::BROADCAST.bytes());
    frame[6..12].copy_from_slice(&source_mac.bytes());
    frame[12..20].copy_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4]);
    frame[21] = operation;
    frame[22..28].copy_from_slice(&sender_mac.bytes());
    frame[28..32].copy_from_slice(&sender);
    frame[38..42].copy_from_slice(&target);
    read(&frame)
}

fn read(frame: &[u8]) -> Result<Packet, DropReason> {
    Packet::read(&frame, false)
}

/// What is charged, and that it is dropped for `reason`.
fn dropped(account: Account, reason: DropReason) -> (Account, Verdict) {
    (account, Verdict::Drop(reason))
}

/// One fact of a frame or of the tables, right or not.
fn each() -> [bool; 2] {
    [true, false]
}

/// Every combination of right and wrong facts, of where the destination is, and of what MAC the sender remembers.
#[test]
fn a_member_reaches_a_neighbour_only_when_every_fact_is_right() {
    let (mut forwarded, mut dropped) = (0, 0);
    for (facts, place, generation) in combinations() {
        let [has_config, has_port, own_mac, own_address, own_port, other, known, their_port] = facts;
        let mut frame = Datagram::right();
        frame.macs[0] = if own_mac { mac(ALICE) } else { mac(BOB) };
        frame.addresses[0] = if own_address { ALICE.0 } else { STRANGER };
        frame.ports[0] = if own_port { ALICE.2 } else { 53 };
        frame.addresses[1] = if other { BOB.0 } else { frame.addresses[0] };
        frame.ports[1] = if their_port { BOB.2 } else { 53 };
        let (right_mac, rewrite) = match generation {
            Generation::Current => (true, None),
            Generation::Other => (true, Some(mac(BOB))),
            Generation::None => (false, None),
        };
        frame.macs[1] = match generation {
            Generation::Current => mac(BOB),
            Generation::Other => MacAddr::of_member(BOB.0, 99),
            Generation::None => MacAddr::new([0x02, 4, 10, 240, 0, 99]),
        };
        let config = Some(if has_config { config() } else { of_another_abi() });
        let config = config.map(|config| if place == Place::NoVtep { config.with_vtep(None) } else { config });
        let target = known.then(|| bob((place == Place::Local).then_some(BOB_IF)));
        let port = has_port.then(alice);
        let (account, verdict) = from_member(config.as_ref(), port.as_ref(), &frame.packet(), |_| target.as_ref());
        assert_eq!(account, if has_port { OF_ALICE } else { Account::of_network(Direction::Out) }, "{frame:?}");
        let reachable = place != Place::NoVtep;
        match verdict {
            Verdict::DeliverLocal { ifindex: BOB_IF, rewrite: written } if place == Place::Local => {
                assert!(facts.into_iter().all(|fact| fact) && right_mac && written == rewrite, "{frame:?}");
                forwarded += 1;
            }
            Verdict::SendRemote { ifindex: VTEP_IF, rewrite: written } if place == Place::Remote => {
                assert!(facts.into_iter().all(|fact| fact) && right_mac && written == rewrite, "{frame:?}");
                forwarded += 1;
            }
            Verdict::Drop(reason) => {
                let told = match reason {
                    DropReason::AbiMismatch => !has_config,
                    DropReason::UnknownPort => !has_port,
                    DropReason::SpoofedMac => !own_mac,
                    DropReason::SpoofedAddress => !own_address,
                    DropReason::WrongSourcePort => !own_port,
                    DropReason::ToItself => !other,
                    DropReason::UnknownDestination => !known,
                    DropReason::WrongDestinationPort => !their_port,
                    DropReason::WrongDestinationMac => !right_mac,
                    DropReason::NoVtep => !reachable,
                    other => panic!("{other:?} for {frame:?}"),
                };
                assert!(told, "{reason:?} although that was right: {frame:?}");
                dropped += 1;
            }
            other => panic!("{other:?} for {frame:?}"),
        }
    }
    assert_eq!((forwarded, dropped), (4, 256 * 9 - 4));
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Local,
    Remote,
    NoVtep,
}

#[derive(Clone, Copy)]
enum Generation {
    Current,
    Other,
    None,
}

fn combinations() -> impl Iterator<Item = ([bool; 8], Place, Generation)> {
    (0..256_u32).flat_map(|bits| {
        [Place::Local, Place::Remote, Place::NoVtep].into_iter().flat_map(move |place| {
            [Generation::Current, Generation::Other, Generation::None]
                .into_iter()
                .map(move |generation| (std::array::from_fn(|bit| bits >> bit & 1 == 1), place, generation))
        })
    })
}

#[test]
fn another_host_reaches_a_member_only_when_every_fact_is_right() {
    let mut forwarded = 0;
    for bits in 0..512_u32 {
        let facts: [bool; 9] = std::array::from_fn(|bit| bits >> bit & 1 == 1);
        let [has_config, known, remote, own_mac, own_port, here, local, their_mac, their_port] = facts;
        let mut frame = Datagram::right();
        frame.macs[0] = if own_mac { mac(ALICE) } else { MacAddr::of_member(ALICE.0, 2) };
        frame.macs[1] = if their_mac { mac(BOB) } else { MacAddr::of_member(BOB.0, 3) };
        frame.ports[0] = if own_port { ALICE.2 } else { 53 };
        frame.ports[1] = if their_port { BOB.2 } else { 53 };
        let source = MemberRow::local(mac(ALICE), ALICE.2, if remote { 0 } else { 11 });
        let config = if has_config { config() } else { of_another_abi() };
        let source = known.then_some(source);
        let destination = here.then(|| bob(local.then_some(BOB_IF)));
        let member = |address| if address == BOB.0 { destination.as_ref() } else { source.as_ref() };
        let (account, verdict) = from_vtep(Some(&config), &frame.packet(), member);
        let is_here = here && local;
        let (of_bob, of_network) = (Account::of_member(BOB.0, Direction::In), Account::of_network(Direction::In));
        assert_eq!(account, if is_here { of_bob } else { of_network }, "{frame:?}");
        match verdict {
            Verdict::DeliverLocal { ifindex: BOB_IF, rewrite: None } => {
                assert!(facts.into_iter().all(|fact| fact), "{frame:?}");
                forwarded += 1;
            }
            Verdict::Drop(reason) => {
                let told = match reason {
                    DropReason::AbiMismatch => !has_config,
                    DropReason::UnknownSource => !known,
                    DropReason::SourceIsLocal => !remote,
                    DropReason::SpoofedMac => !own_mac,
                    DropReason::WrongSourcePort => !own_port,
                    DropReason::UnknownDestination => !here,
                    DropReason::DestinationNotLocal => !local,
                    DropReason::WrongDestinationMac => !their_mac,
                    DropReason::WrongDestinationPort => !their_port,
                    other => panic!("{other:?} for {frame:?}"),
                };
                assert!(told, "{reason:?} although that was right: {frame:?}");
            }
            other => panic!("{other:?} for {frame:?}"),
        }
    }
    assert_eq!(forwarded, 1);
}

#[test]
fn arp_is_answered_for_known_members_when_the_sender_is_the_sender() {
    let (config, port, target) = (config(), alice(), bob(None));
    let mut answered = 0;
    for source in each() {
        for (operation, sender_mac) in [(1, true), (2, true), (1, false), (0, true)] {
            for (sender, known) in [(true, true), (true, false), (false, true)] {
                for itself in each() {
                    let macs =
                        [if source { mac(ALICE) } else { mac(BOB) }, if sender_mac { mac(ALICE) } else { mac(BOB) }];
                    let sender_address = if sender { ALICE.0 } else { STRANGER };
                    let target_address = if itself { sender_address } else { BOB.0 };
                    let packet = arp(macs[0], operation, macs[1], sender_address, target_address);
                    let right = source && operation == 1 && sender_mac && sender && known && !itself;
                    match from_member(Some(&config), Some(&port), &packet, |_| known.then_some(&target)) {
                        (OF_ALICE, Verdict::AnswerArp { mac: told }) => {
                            assert!(right && told == mac(BOB));
                            answered += 1;
                        }
                        (OF_ALICE, Verdict::Drop(_)) => assert!(!right),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }
    assert_eq!(answered, 1);
    let request = arp(mac(ALICE), 1, mac(ALICE), ALICE.0, BOB.0);
    let of_network = Account::of_network(Direction::In);
    assert_eq!(from_vtep(Some(&config), &request, |_| Some(&target)), dropped(of_network, DropReason::ArpFromVtep));
}

#[test]
fn without_a_config_nothing_goes() {
    let packet = Datagram::right().packet();
    let (alice, bob) = (alice(), bob(Some(BOB_IF)));
    for config in [None, Some(&of_another_abi())] {
        let closed = Verdict::Drop(DropReason::AbiMismatch);
        assert_eq!(from_member(config, Some(&alice), &packet, |_| Some(&bob)).1, closed);
        assert_eq!(from_member(config, None, &packet, |_| Some(&bob)).1, closed);
        assert_eq!(from_vtep(config, &packet, |_| Some(&bob)).1, closed);
        for direction in Direction::ALL {
            assert_eq!(guard(config, direction, &Addresses::OTHER, |_| Some(&bob)).1, closed);
        }
    }
}

#[test]
fn a_packet_is_decided_by_the_row_of_its_own_destination_or_source() {
    let (config, alice, bob) = (config(), alice(), &bob(Some(BOB_IF)));
    let datagram = Datagram::right().packet();
    let all_but = |unknown| move |address| (address != unknown).then_some(bob);
    let unknown = dropped(OF_ALICE, DropReason::UnknownDestination);
    assert_eq!(from_member(Some(&config), Some(&alice), &datagram, all_but(BOB.0)), unknown);
    let request = arp(mac(ALICE), 1, mac(ALICE), ALICE.0, BOB.0);
    let unanswered = dropped(OF_ALICE, DropReason::ArpUnknownTarget);
    assert_eq!(from_member(Some(&config), Some(&alice), &request, all_but(BOB.0)), unanswered);
    let of_bob = Account::of_member(BOB.0, Direction::In);
    let unknown = dropped(of_bob, DropReason::UnknownSource);
    assert_eq!(from_vtep(Some(&config), &datagram, all_but(ALICE.0)), unknown);
    let unknown = dropped(Account::of_network(Direction::In), DropReason::UnknownDestination);
    assert_eq!(from_vtep(Some(&config), &datagram, all_but(BOB.0)), unknown);
}

#[test]
fn a_frame_without_full_headers_is_charged_by_its_interface_alone() {
    let (config, alice, bob) = (config(), alice(), bob(Some(BOB_IF)));
    let short = read(&[0; HEADERS_BYTES - 1]);
    let member = |_| Some(&bob);
    assert_eq!(from_member(Some(&config), Some(&alice), &short, member), dropped(OF_ALICE, DropReason::Truncated));
    let of_network = |direction| dropped(Account::of_network(direction), DropReason::Truncated);
    assert_eq!(from_member(Some(&config), None, &short, member), of_network(Direction::Out));
    assert_eq!(from_vtep(Some(&config), &short, member), of_network(Direction::In));
}

/// The container's own address is the source of what it sends, and the destination of what arrives; the other address
/// of the packet is never charged, nor is a member of another host, nor what passes.
#[test]
fn the_guard_charges_a_refusal_to_the_member_of_this_host_on_the_containers_side() {
    let config = config();
    let rows = [(ALICE.0, MemberRow::local(mac(ALICE), ALICE.2, 11)), (BOB.0, bob(None))];
    let member = |address| rows.iter().find(|(known, _)| *known == address).map(|(_, row)| row);
    for from in [ALICE.0, BOB.0, STRANGER] {
        for to in [ALICE.0, BOB.0, STRANGER] {
            for direction in Direction::ALL {
                let own = if direction == Direction::Out { from } else { to };
                let of_network = Account::of_network(direction);
                let refused = [from, to] != [STRANGER; 2];
                let expected = if refused && own == ALICE.0 { Account::of_member(own, direction) } else { of_network };
                let (ipv4, arp) = (Addresses::new(Protocol::Ipv4, from, to), Addresses::new(Protocol::Arp, from, to));
                for addresses in [ipv4, arp] {
                    let (account, verdict) = guard(Some(&config), direction, &addresses, member);
                    assert_eq!((account, matches!(verdict, Verdict::Drop(_))), (expected, refused), "{addresses:?}");
                }
            }
        }
    }
    let of_network = Account::of_network(Direction::In);
    let short = guard(Some(&config), Direction::In, &Addresses::TRUNCATED, member);
    assert_eq!(short, dropped(of_network, DropReason::Truncated));
    let other = guard(Some(&config), Direction::In, &Addresses::OTHER, member);
    assert_eq!(other, (of_network, Verdict::Pass(PassReason::OtherProtocol)));
}

proptest! {
    #[test]
    fn the_guard_lets_nothing_of_the_prefix_through(
        network: [u8; 4], bits in 0..=32_u8, source: [u8; 4], destination: [u8; 4],
    ) {
        let config = Config::new(Vni::MIN, network, bits);
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        let inside = |address: [u8; 4]| u32::from_be_bytes(address) & mask == u32::from_be_bytes(network) & mask;
        let decide = |addresses| guard(Some(&config), Direction::In, &addresses, |_| None).1;
        let ipv4 = decide(Addresses::new(Protocol::Ipv4, source, destination));
        let arp = decide(Addresses::new(Protocol::Arp, source, destination));
        let passed = Verdict::Pass(PassReason::OutsidePrefix);
        if inside(source) {
            prop_assert_eq!(ipv4, Verdict::Drop(DropReason::GuardSource));
        } else if inside(destination) {
            prop_assert_eq!(ipv4, Verdict::Drop(DropReason::GuardDestination));
        } else {
            prop_assert_eq!((ipv4, arp), (passed, passed));
        }
        if inside(source) || inside(destination) {
            prop_assert_eq!(arp, Verdict::Drop(DropReason::GuardArp));
        }
    }

    #[test]
    fn whatever_is_refused_by_its_kind_is_never_forwarded(bytes in prop::collection::vec(any::<u8>(), 42..80), tagged: bool) {
        let packet = Packet::read(&bytes.as_slice(), tagged);
        if let Kind::Refused(reason) = packet.as_ref().expect("long enough").kind() {
            let (config, alice, bob) = (config(), alice(), bob(Some(BOB_IF)));
            let member = |_| Some(&bob);
            prop_assert_eq!(from_member(Some(&config), Some(&alice), &packet, member), dropped(OF_ALICE, reason));
            let of_network = Account::of_network(Direction::In);
            prop_assert_eq!(from_vtep(Some(&config), &packet, member), dropped(of_network, reason));
        }
    }
}
