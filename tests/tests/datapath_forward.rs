//! What is forwarded, by `BPF_PROG_TEST_RUN`: byte for byte, and nothing across networks whatever the bytes.

mod datapath;

use datapath::*;
use privnet::datapath::{DropReason, Hook, MemberRow, NetworkSpec, Outcome, PortRow};
use privnet_ebpf::net::{MacAddr, Vni};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};

#[test]
fn a_datagram_to_a_neighbour_goes_on_as_it_is_and_without_a_mark() {
    let bed = Bed::new();
    for payload_bytes in [0, 32, 1408] {
        let frame = datagram_of(ALICE, BOB, payload_bytes);
        let run = bed.forwards(Hook::FromMember, ALICE_IF, &frame, ALICE.address, Outcome::ForwardedLocal);
        assert_eq!((run.frame, run.mark), (frame, 0));
    }
    let back = datagram(BOB, ALICE);
    bed.forwards(Hook::FromMember, BOB_IF, &back, BOB.address, Outcome::ForwardedLocal);
}

#[test]
fn a_datagram_to_another_host_goes_on_as_it_is_and_without_a_mark() {
    let bed = Bed::new();
    for to in [CAROL, DAVE] {
        let frame = datagram(ALICE, to);
        let run = bed.forwards(Hook::FromMember, ALICE_IF, &frame, ALICE.address, Outcome::ForwardedRemote);
        assert_eq!((run.frame, run.mark), (frame, 0));
    }
}

#[test]
fn a_datagram_from_another_host_goes_on_as_it_is_and_without_a_mark() {
    let bed = Bed::new();
    for (from, to) in [(CAROL, ALICE), (DAVE, BOB)] {
        let frame = datagram(from, to);
        let run = bed.forwards(Hook::FromVtep, VTEP_IF, &frame, to.address, Outcome::ForwardedLocal);
        assert_eq!((run.frame, run.mark), (frame, 0));
    }
}

#[test]
fn both_ways_of_redirecting_forward_the_same() {
    for redirect_peer in [true, false] {
        let bed = Bed::with(&NetworkSpec { redirect_peer, ..spec() });
        bed.forwards(Hook::FromMember, ALICE_IF, &datagram(ALICE, BOB), ALICE.address, Outcome::ForwardedLocal);
        bed.forwards(Hook::FromVtep, VTEP_IF, &datagram(CAROL, BOB), BOB.address, Outcome::ForwardedLocal);
    }
}

#[test]
fn dont_fragment_traffic_class_and_hops_are_the_senders_business() {
    let bed = Bed::new();
    for (offset, bytes) in [(15, &[0xb8][..]), (at::FRAGMENT, &[0, 0]), (22, &[1]), (24, &[0, 0])] {
        let frame = with(datagram(ALICE, BOB), offset, bytes);
        let run = bed.forwards(Hook::FromMember, ALICE_IF, &frame, ALICE.address, Outcome::ForwardedLocal);
        assert_eq!(run.frame, frame);
    }
}

#[test]
fn the_mac_of_another_generation_is_corrected_and_nothing_else() {
    let bed = Bed::new();
    for (to, outcome) in [(BOB, Outcome::ForwardedLocal), (CAROL, Outcome::ForwardedRemote)] {
        let right = datagram(ALICE, to);
        for generation in [0, 1, 3, 5, 255] {
            let stale = MacAddr::of_member(to.address.octets(), generation);
            let frame = with(right.clone(), at::DESTINATION_MAC, &stale.bytes());
            let run = bed.forwards(Hook::FromMember, ALICE_IF, &frame, ALICE.address, outcome);
            assert_eq!(run.frame, right, "generation {generation}");
        }
    }
}

#[test]
fn an_address_that_is_given_out_again_is_reached_at_once_with_the_mac_that_the_sender_remembers() {
    let mut bed = Bed::new();
    let frame = datagram(ALICE, BOB);
    bed.forwards(Hook::FromMember, ALICE_IF, &frame, ALICE.address, Outcome::ForwardedLocal);
    let successor = MacAddr::of_member(BOB.address.octets(), 5);
    bed.network.set_member(BOB.address, MemberRow::remote(successor, BOB.port)).expect("member");
    let run = bed.forwards(Hook::FromMember, ALICE_IF, &frame, ALICE.address, Outcome::ForwardedRemote);
    assert_eq!(run.frame, with(frame, at::DESTINATION_MAC, &successor.bytes()));
}

#[test]
fn an_arp_request_becomes_its_reply_byte_for_byte() {
    let bed = Bed::new();
    for target in [BOB, CAROL, DAVE] {
        let request = arp_request(ALICE, target.address);
        let run = bed.forwards(Hook::FromMember, ALICE_IF, &request, ALICE.address, Outcome::ArpAnswered);
        let mut reply = ethernet(ALICE.mac, target.mac, 0x0806);
        reply.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
        reply.extend_from_slice(&target.mac.bytes());
        reply.extend_from_slice(&target.address.octets());
        reply.extend_from_slice(&ALICE.mac.bytes());
        reply.extend_from_slice(&ALICE.address.octets());
        assert_eq!((run.frame, run.mark), (reply, 0));
    }
}

#[test]
fn an_arp_request_is_answered_whoever_it_was_sent_to_and_keeps_its_padding() {
    let bed = Bed::new();
    // A neighbour entry is confirmed by unicast first, with the MAC of an earlier generation perhaps.
    let unicast = with(arp_request(ALICE, BOB.address), 0, &MacAddr::of_member(BOB.address.octets(), 3).bytes());
    let plain = bed.forwards(Hook::FromMember, ALICE_IF, &unicast, ALICE.address, Outcome::ArpAnswered);
    let padded = [unicast, vec![0; 18]].concat();
    let run = bed.forwards(Hook::FromMember, ALICE_IF, &padded, ALICE.address, Outcome::ArpAnswered);
    assert_eq!(run.frame, [plain.frame, vec![0; 18]].concat());
}

/// Two networks on one host, of the same addresses: maps are per instance, so neither can name the other's members.
#[test]
fn a_network_knows_nothing_of_another_that_uses_the_same_interfaces_and_addresses() {
    let ours = Bed::new();
    let mut theirs = Bed::with(&NetworkSpec::new(Vni::new(8).expect("VNI"), PREFIX.parse().expect("prefix")));
    for address in [ALICE, BOB, CAROL, DAVE].map(|member| member.address) {
        theirs.network.remove_member(address).expect("member");
    }
    let eve = Member { mac: MacAddr::of_member(NOBODY.address.octets(), 9), ..NOBODY };
    let row = PortRow::new(eve.address.octets(), eve.mac, eve.port);
    theirs.network.remove_port(BOB_IF).expect("port");
    theirs.network.set_port(ALICE_IF, row).expect("port");
    theirs.network.set_member(eve.address, MemberRow::local(eve.mac, eve.port, ALICE_IF)).expect("member");
    for to in [ALICE, BOB, CAROL, DAVE] {
        let frame = datagram(eve, to);
        theirs.refuses(Hook::FromMember, ALICE_IF, &frame, eve.address, DropReason::UnknownDestination);
        let request = arp_request(eve, to.address);
        theirs.refuses(Hook::FromMember, ALICE_IF, &request, eve.address, DropReason::ArpUnknownTarget);
        let (member, reason) = match to.address {
            here if here == ALICE.address || here == BOB.address => (here, DropReason::UnknownSource),
            _ => (NETWORK, DropReason::DestinationNotLocal),
        };
        ours.refuses(Hook::FromVtep, VTEP_IF, &frame, member, reason);
    }
    ours.forwards(Hook::FromMember, ALICE_IF, &datagram(ALICE, BOB), ALICE.address, Outcome::ForwardedLocal);
}

/// Frames that begin like good ones and go wrong in a few places, and frames of any bytes.
fn frames(good: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damaged = (proptest::sample::select(good), prop::collection::vec((0..60_usize, any::<u8>()), 0..4), 0..3_usize)
        .prop_map(|(mut frame, changes, cut)| {
            for (offset, byte) in changes {
                if let Some(at) = frame.get_mut(offset) {
                    *at = byte;
                }
            }
            // The kernel runs no test on an IPv4 frame without a whole header.
            frame.truncate(frame.len().saturating_sub(cut * 11).max(34));
            frame
        });
    let headers_of_nothing = prop::collection::vec(any::<u8>(), 54..200);
    prop_oneof![4 => damaged, 1 => headers_of_nothing]
}

fn check(frames: &impl Strategy<Value = Vec<u8>>, hook: Hook, ifindex: u32, allowed: impl Fn(&[u8]) -> bool) {
    let bed = Bed::new();
    let (mut forwarded, mut dropped) = (0, 0);
    let config = Config { cases: privnet_tests::repeats(3000), failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let result = runner.run(frames, |frame| {
        match bed.action(hook, ifindex, &frame) {
            REDIRECT => prop_assert!(allowed(&frame), "forwarded: {frame:02x?}"),
            DROP => prop_assert!(!allowed(&frame), "dropped: {frame:02x?}"),
            other => prop_assert!(false, "action {other}: {frame:02x?}"),
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    // The property says nothing when one side never happens.
    let mut runner = TestRunner::deterministic();
    for _ in 0..300 {
        let frame = frames.new_tree(&mut runner).expect("frame").current();
        if allowed(&frame) { forwarded += 1 } else { dropped += 1 }
    }
    assert!(forwarded > 10 && dropped > 10, "{forwarded} forwarded, {dropped} dropped");
}

/// A good datagram in everything that decides, told by comparing with one: not the code under test.
fn is_datagram(frame: &[u8], from: Member, to: Member, any_generation: bool) -> bool {
    let template = datagram_of(from, to, frame.len().saturating_sub(42).min(1400));
    let deciding = [0..1, 2..15, 16..18, 23..24, 26..40];
    frame.len() == template.len()
        && deciding.into_iter().all(|range| frame[range.clone()] == template[range])
        && frame[20] & 0x3f == 0
        && frame[21] == 0
        && (any_generation || frame[1] == template[1])
}

fn is_arp(frame: &[u8], from: Member, to: Member) -> bool {
    let template = arp_request(from, to.address);
    let deciding = [6..32, 38..42];
    frame.len() >= 42 && deciding.into_iter().all(|range| frame[range.clone()] == template[range])
}

#[test]
fn of_any_bytes_a_member_gets_through_only_what_it_may_send() {
    let good = [BOB, CAROL, DAVE]
        .into_iter()
        .flat_map(|to| [datagram(ALICE, to), arp_request(ALICE, to.address), datagram_of(ALICE, to, 0)])
        .collect();
    check(&frames(good), Hook::FromMember, ALICE_IF, |frame| {
        [BOB, CAROL, DAVE].into_iter().any(|to| is_datagram(frame, ALICE, to, true) || is_arp(frame, ALICE, to))
    });
}

#[test]
fn of_any_bytes_another_host_gets_through_only_what_it_may_send() {
    let pairs = [(CAROL, ALICE), (CAROL, BOB), (DAVE, ALICE), (DAVE, BOB)];
    let good = pairs.into_iter().flat_map(|(from, to)| [datagram(from, to), datagram_of(from, to, 0)]).collect();
    check(&frames(good), Hook::FromVtep, VTEP_IF, move |frame| {
        pairs.into_iter().any(|(from, to)| is_datagram(frame, from, to, false))
    });
}
