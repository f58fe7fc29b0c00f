//! Every reason to drop, by `BPF_PROG_TEST_RUN`. Each case is a twin that is forwarded and the same frame with one fact
//! changed, which is not: the sender gets nothing back, nothing goes on, and that reason's counter alone rises by one.

mod datapath;

use datapath::*;
use privnet::datapath::{DropReason, Hook, Outcome};
use privnet_ebpf::net::MacAddr;

/// One refusal of what a member sends, beside the twin that passes.
macro_rules! from_member {
    ($($name:ident: $twin:expr, $changed:expr => $reason:ident;)+) => {
        $(
            #[test]
            fn $name() {
                let bed = Bed::new();
                let twin: Vec<u8> = $twin;
                let action = bed.run(Hook::FromMember, ALICE_IF, &twin).action;
                assert_eq!(action, REDIRECT, "the twin was refused: {twin:02x?}");
                let change: fn(Vec<u8>) -> Vec<u8> = $changed;
                bed.refuses(Hook::FromMember, ALICE_IF, &change(twin), ALICE.address, DropReason::$reason);
            }
        )+
    };
}

/// One refusal of what comes from another host, beside the twin that passes. Counted for the member that it claims to
/// be for when that one is here, for the network otherwise.
macro_rules! from_vtep {
    ($($name:ident: $changed:expr => $reason:ident for $member:expr;)+) => {
        $(
            #[test]
            fn $name() {
                let bed = Bed::new();
                let twin = datagram(CAROL, ALICE);
                bed.forwards(Hook::FromVtep, VTEP_IF, &twin, ALICE.address, Outcome::ForwardedLocal);
                let change: fn(Vec<u8>) -> Vec<u8> = $changed;
                bed.refuses(Hook::FromVtep, VTEP_IF, &change(twin), $member, DropReason::$reason);
            }
        )+
    };
}

fn to_bob() -> Vec<u8> {
    datagram(ALICE, BOB)
}

fn to_carol() -> Vec<u8> {
    datagram(ALICE, CAROL)
}

fn who_has_bob() -> Vec<u8> {
    arp_request(ALICE, BOB.address)
}

/// A datagram without payload: exactly the headers.
fn shortest() -> Vec<u8> {
    datagram_of(ALICE, BOB, 0)
}

const MULTICAST: MacAddr = MacAddr::new([0x01, 0x00, 0x5e, 0, 0, 0xfb]);

from_member! {
    a_datagram_that_ends_within_its_headers_is_truncated: shortest(), |f| f[..41].to_vec() => Truncated;
    an_ip_header_alone_is_truncated: shortest(), |f| f[..34].to_vec() => Truncated;
    an_ethernet_header_alone_is_truncated: who_has_bob(), |f| f[..14].to_vec() => Truncated;
    an_arp_request_that_ends_early_is_truncated: who_has_bob(), |f| f[..41].to_vec() => Truncated;
    an_ipv4_frame_of_another_version_is_malformed: to_bob(), |f| with(f, at::VERSION, &[0x65]) => Malformed;
    a_header_shorter_than_ipv4_is_malformed: to_bob(), |f| with(f, at::VERSION, &[0x44]) => Malformed;
    a_packet_longer_than_its_frame_is_malformed: to_bob(), |f| with(f, at::TOTAL_BYTES, &[0, 61]) => Malformed;
    a_frame_longer_than_its_packet_is_malformed: to_bob(), |f| [f, vec![0]].concat() => Malformed;
    a_udp_length_that_is_not_the_packets_is_malformed: to_bob(), |f| with(f, at::UDP_BYTES, &[0, 39]) => Malformed;
    a_tagged_frame_is_refused: to_bob(), |f| tagged(&f, 0x8100) => VlanTag;
    a_frame_tagged_by_a_provider_is_refused: to_bob(), |f| tagged(&f, 0x88a8) => VlanTag;
    a_tagged_frame_without_content_is_refused: to_bob(), |f| tagged(&f[..14], 0x8100) => VlanTag;
    tagged_arp_is_refused: who_has_bob(), |f| tagged(&f, 0x8100) => VlanTag;
    ipv6_is_refused: to_bob(), |_| icmpv6(ALICE, 135) => Ipv6;
    a_router_advertisement_is_refused_by_name: to_bob(), |_| icmpv6(ALICE, 134) => RouterAdvertisement;
    an_unknown_ethertype_is_refused: to_bob(), |f| with(f, at::ETHERTYPE, &[0x88, 0xcc]) => UnknownEtherType;
    a_short_frame_of_an_unknown_ethertype_is_refused:
        to_bob(), |f| with(f, at::ETHERTYPE, &[0x88, 0xcc])[..20].to_vec() => UnknownEtherType;
    a_frame_to_a_group_is_refused: to_bob(), |f| with(f, 0, &MULTICAST.bytes()) => MulticastOrBroadcast;
    a_frame_to_all_is_refused: to_bob(), |f| with(f, 0, &[0xff; 6]) => MulticastOrBroadcast;
    a_packet_to_a_group_is_refused: to_bob(), |f| with(f, at::DESTINATION, &[224, 0, 0, 251]) => MulticastOrBroadcast;
    a_packet_to_all_is_refused: to_bob(), |f| with(f, at::DESTINATION, &[255; 4]) => MulticastOrBroadcast;
    ip_options_are_refused: to_bob(), |f| with(f, at::VERSION, &[0x46]) => IpOptions;
    a_first_fragment_is_refused: to_bob(), |f| with(f, at::FRAGMENT, &[0x20, 0]) => Fragment;
    a_later_fragment_is_refused: to_bob(), |f| with(f, at::FRAGMENT, &[0, 1]) => Fragment;
    tcp_is_refused: to_bob(), |f| with(f, at::PROTOCOL, &[6]) => NotUdp;
    icmp_is_refused: to_carol(), |f| with(f, at::PROTOCOL, &[1]) => NotUdp;
    a_dhcp_server_is_refused: to_bob(), |f| with(f, at::SOURCE_PORT, &67_u16.to_be_bytes()) => Dhcp;
    a_dhcp_discovery_is_refused_by_name: to_bob(), |f| {
        let f = with(f, at::DESTINATION_MAC, &[0xff; 6]);
        let f = with(f, at::SOURCE, &[0; 4]);
        let f = with(f, at::DESTINATION, &[255; 4]);
        with(f, at::SOURCE_PORT, &[0, 68, 0, 67])
    } => Dhcp;
    a_forged_mac_is_refused: to_bob(), |f| with(f, at::SOURCE_MAC, &BOB.mac.bytes()) => SpoofedMac;
    an_earlier_generation_of_the_senders_mac_is_refused: to_bob(), |f| with(f, 7, &[0]) => SpoofedMac;
    a_forged_address_of_a_member_is_refused:
        to_carol(), |f| with(f, at::SOURCE, &BOB.address.octets()) => SpoofedAddress;
    a_forged_address_of_a_stranger_is_refused: to_bob(), |f| with(f, at::SOURCE, &[192, 0, 2, 1]) => SpoofedAddress;
    another_source_port_is_refused: to_bob(), |f| with(f, at::SOURCE_PORT, &BOB.port.to_be_bytes()) => WrongSourcePort;
    another_destination_port_is_refused:
        to_bob(), |f| with(f, at::DESTINATION_PORT, &ALICE.port.to_be_bytes()) => WrongDestinationPort;
    another_destination_port_of_a_remote_member_is_refused:
        to_carol(), |f| with(f, at::DESTINATION_PORT, &[0, 53]) => WrongDestinationPort;
    an_address_that_no_member_has_is_refused: to_bob(), |_| datagram(ALICE, NOBODY) => UnknownDestination;
    an_address_outside_the_network_is_refused:
        to_bob(), |f| with(f, at::DESTINATION, &[192, 0, 2, 1]) => UnknownDestination;
    another_members_mac_is_refused: to_bob(), |f| with(f, 0, &CAROL.mac.bytes()) => WrongDestinationMac;
    a_mac_that_is_no_members_is_refused: to_carol(), |f| with(f, 0, &[0x02, 2, 10, 240, 1, 9]) => WrongDestinationMac;
    a_member_that_writes_to_itself_is_refused: to_bob(), |_| datagram(ALICE, ALICE) => ToItself;
    arp_of_another_hardware_is_malformed: who_has_bob(), |f| with(f, at::ARP_HARDWARE, &[0, 6]) => ArpMalformed;
    arp_of_other_lengths_is_malformed: who_has_bob(), |f| with(f, 18, &[6, 16]) => ArpMalformed;
    an_arp_reply_is_refused: who_has_bob(), |f| with(f, at::ARP_OPERATION, &[0, 2]) => ArpNotRequest;
    arp_with_a_forged_sender_is_refused:
        who_has_bob(), |f| with(f, at::ARP_SENDER, &CAROL.address.octets()) => ArpSpoofed;
    arp_with_a_forged_sender_mac_is_refused:
        who_has_bob(), |f| with(f, at::ARP_SENDER_MAC, &CAROL.mac.bytes()) => ArpSpoofed;
    an_arp_probe_is_refused: who_has_bob(), |f| with(f, at::ARP_SENDER, &[0; 4]) => ArpSpoofed;
    arp_in_a_frame_of_another_is_refused: who_has_bob(), |f| with(f, at::SOURCE_MAC, &BOB.mac.bytes()) => SpoofedMac;
    arp_for_an_address_that_no_member_has_is_not_answered:
        who_has_bob(), |_| arp_request(ALICE, NOBODY.address) => ArpUnknownTarget;
    an_arp_announcement_is_not_answered: who_has_bob(), |_| arp_request(ALICE, ALICE.address) => ToItself;
}

from_vtep! {
    a_forged_frame_of_nobody_finds_no_source: |_| datagram(NOBODY, ALICE) => UnknownSource for ALICE.address;
    a_source_outside_the_network_is_unknown:
        |f| with(f, at::SOURCE, &[192, 0, 2, 1]) => UnknownSource for ALICE.address;
    a_member_of_this_host_never_comes_from_another: |_| datagram(BOB, ALICE) => SourceIsLocal for ALICE.address;
    a_remote_members_address_needs_its_mac:
        |f| with(f, at::SOURCE_MAC, &DAVE.mac.bytes()) => SpoofedMac for ALICE.address;
    a_remote_member_needs_its_source_port:
        |f| with(f, at::SOURCE_PORT, &DAVE.port.to_be_bytes()) => WrongSourcePort for ALICE.address;
    an_address_that_no_member_has_is_refused_from_afar: |_| datagram(CAROL, NOBODY) => UnknownDestination for NETWORK;
    a_member_of_another_host_is_not_reached_through_this_one: |_| datagram(CAROL, DAVE) => DestinationNotLocal for NETWORK;
    another_members_mac_is_refused_from_afar:
        |f| with(f, 0, &BOB.mac.bytes()) => WrongDestinationMac for ALICE.address;
    an_earlier_generation_is_refused_from_afar: |f| with(f, 1, &[0]) => WrongDestinationMac for ALICE.address;
    another_destination_port_is_refused_from_afar:
        |f| with(f, at::DESTINATION_PORT, &[0, 53]) => WrongDestinationPort for ALICE.address;
    arp_from_another_host_is_refused: |_| arp_request(CAROL, ALICE.address) => ArpFromVtep for NETWORK;
    a_truncated_frame_is_refused_from_afar: |f| f[..41].to_vec() => Truncated for NETWORK;
    a_malformed_packet_is_refused_from_afar: |f| with(f, at::UDP_BYTES, &[0, 41]) => Malformed for NETWORK;
    a_tagged_frame_is_refused_from_afar: |f| tagged(&f, 0x8100) => VlanTag for NETWORK;
    ipv6_is_refused_from_afar: |_| icmpv6(CAROL, 128) => Ipv6 for NETWORK;
    a_router_advertisement_is_refused_from_afar: |_| icmpv6(CAROL, 134) => RouterAdvertisement for NETWORK;
    an_unknown_ethertype_is_refused_from_afar:
        |f| with(f, at::ETHERTYPE, &[0x88, 0x47]) => UnknownEtherType for NETWORK;
    a_frame_to_all_is_refused_from_afar: |f| with(f, 0, &[0xff; 6]) => MulticastOrBroadcast for NETWORK;
    ip_options_are_refused_from_afar: |f| with(f, at::VERSION, &[0x4f]) => IpOptions for NETWORK;
    a_fragment_is_refused_from_afar: |f| with(f, at::FRAGMENT, &[0x20, 0]) => Fragment for NETWORK;
    tcp_is_refused_from_afar: |f| with(f, at::PROTOCOL, &[6]) => NotUdp for NETWORK;
    dhcp_is_refused_from_afar: |f| with(f, at::SOURCE_PORT, &[0, 67]) => Dhcp for NETWORK;
}

#[test]
fn an_interface_without_a_member_may_send_nothing() {
    let bed = Bed::new();
    bed.forwards(Hook::FromMember, ALICE_IF, &to_bob(), ALICE.address, Outcome::ForwardedLocal);
    for frame in [to_bob(), who_has_bob(), icmpv6(ALICE, 134)] {
        bed.refuses(Hook::FromMember, STRANGER_IF, &frame, NETWORK, DropReason::UnknownPort);
    }
}

#[test]
fn a_member_that_was_removed_may_send_nothing_and_receives_nothing() {
    let mut bed = Bed::new();
    bed.forwards(Hook::FromMember, ALICE_IF, &to_bob(), ALICE.address, Outcome::ForwardedLocal);
    bed.forwards(Hook::FromVtep, VTEP_IF, &datagram(CAROL, ALICE), ALICE.address, Outcome::ForwardedLocal);
    bed.network.remove_port(ALICE_IF).expect("port");
    bed.refuses(Hook::FromMember, ALICE_IF, &to_bob(), NETWORK, DropReason::UnknownPort);
    bed.network.remove_member(ALICE.address).expect("member");
    bed.refuses(Hook::FromVtep, VTEP_IF, &datagram(CAROL, ALICE), NETWORK, DropReason::UnknownDestination);
    bed.refuses(Hook::FromMember, BOB_IF, &datagram(BOB, ALICE), BOB.address, DropReason::UnknownDestination);
}

#[test]
fn without_a_vtep_other_hosts_are_not_reached() {
    let mut bed = Bed::new();
    bed.forwards(Hook::FromMember, ALICE_IF, &to_carol(), ALICE.address, Outcome::ForwardedRemote);
    bed.network.set_vtep(None).expect("vtep");
    bed.refuses(Hook::FromMember, ALICE_IF, &to_carol(), ALICE.address, DropReason::NoVtep);
    bed.forwards(Hook::FromMember, ALICE_IF, &to_bob(), ALICE.address, Outcome::ForwardedLocal);
}

#[test]
fn a_map_of_another_abi_closes_every_door() {
    let bed = Bed::new();
    let outside = with(datagram(ALICE, BOB), at::SOURCE, &[192, 0, 2, 1, 198, 51, 100, 1]);
    bed.forwards(Hook::FromMember, ALICE_IF, &to_bob(), ALICE.address, Outcome::ForwardedLocal);
    bed.passes(Hook::GuardIngress, STRANGER_IF, &outside);
    change_config(bed.network.pin_dir(), of_another_abi);
    bed.refuses(Hook::FromMember, ALICE_IF, &to_bob(), ALICE.address, DropReason::AbiMismatch);
    bed.refuses(Hook::FromVtep, VTEP_IF, &datagram(CAROL, ALICE), ALICE.address, DropReason::AbiMismatch);
    bed.refuses(Hook::GuardIngress, STRANGER_IF, &outside, NETWORK, DropReason::AbiMismatch);
    bed.refuses(Hook::GuardEgress, STRANGER_IF, &outside, NETWORK, DropReason::AbiMismatch);
}

#[test]
fn every_reason_has_a_case_here() {
    let cases = [include_str!("datapath_refusals.rs"), include_str!("datapath_guard.rs")].concat();
    for reason in DropReason::ALL {
        // The kernel refuses to write a header only when it has no memory left.
        if *reason != DropReason::NotWritable {
            let name = format!("{reason:?}");
            let asserted = [format!("=> {name}"), format!("DropReason::{name}")];
            assert!(asserted.iter().any(|text| cases.contains(text)), "no case refuses for {name}");
        }
    }
}
