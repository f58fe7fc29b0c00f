//! The guard on foreign interfaces of an app netns, by `BPF_PROG_TEST_RUN`: what claims an address of the network is
//! dropped, in both directions; everything else goes on to the next filter, untouched and uncounted.

mod datapath;

use std::net::Ipv4Addr;

use datapath::*;
use privnet::datapath::{DropReason, Hook};

const BOTH: [Hook; 2] = [Hook::GuardIngress, Hook::GuardEgress];
const OUTSIDE: [u8; 4] = [192, 0, 2, 1];

/// Any IPv4, here TCP: the guard cares for addresses only.
fn ipv4(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let frame = with(datagram(ALICE, BOB), at::PROTOCOL, &[6]);
    with(with(frame, at::SOURCE, &source), at::DESTINATION, &destination)
}

fn arp(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    with(arp_request(ALICE, Ipv4Addr::from(target)), at::ARP_SENDER, &sender)
}

#[test]
fn a_source_in_the_prefix_is_refused_and_its_neighbour_outside_passes() {
    let bed = Bed::new();
    for hook in BOTH {
        for (inside, outside) in [([10, 240, 0, 0], [10, 239, 255, 255]), ([10, 240, 3, 255], [10, 240, 4, 0])] {
            bed.passes(hook, STRANGER_IF, &ipv4(outside, OUTSIDE));
            bed.refuses(hook, STRANGER_IF, &ipv4(inside, OUTSIDE), NETWORK, DropReason::GuardSource);
        }
    }
}

#[test]
fn a_destination_in_the_prefix_is_refused_and_its_neighbour_outside_passes() {
    let bed = Bed::new();
    for hook in BOTH {
        for (inside, outside) in [([10, 240, 0, 0], [10, 239, 255, 255]), ([10, 240, 3, 255], [10, 240, 4, 0])] {
            bed.passes(hook, STRANGER_IF, &ipv4(OUTSIDE, outside));
            bed.refuses(hook, STRANGER_IF, &ipv4(OUTSIDE, inside), NETWORK, DropReason::GuardDestination);
        }
    }
}

#[test]
fn arp_from_or_for_an_address_in_the_prefix_is_refused() {
    let bed = Bed::new();
    for hook in BOTH {
        bed.passes(hook, STRANGER_IF, &arp(OUTSIDE, [192, 0, 2, 2]));
        bed.refuses(hook, STRANGER_IF, &arp([10, 240, 0, 77], OUTSIDE), NETWORK, DropReason::GuardArp);
        bed.refuses(hook, STRANGER_IF, &arp(OUTSIDE, [10, 240, 0, 77]), NETWORK, DropReason::GuardArp);
        let reply = with(arp([10, 240, 0, 77], OUTSIDE), at::ARP_OPERATION, &[0, 2]);
        bed.refuses(hook, STRANGER_IF, &reply, NETWORK, DropReason::GuardArp);
    }
}

#[test]
fn a_tag_hides_nothing_nor_do_two() {
    let bed = Bed::new();
    for hook in BOTH {
        for tag in [|frame: &[u8]| tagged(frame, 0x8100), |frame: &[u8]| tagged(&tagged(frame, 0x8100), 0x88a8)] {
            bed.passes(hook, STRANGER_IF, &tag(&ipv4(OUTSIDE, [192, 0, 2, 2])));
            bed.passes(hook, STRANGER_IF, &tag(&arp(OUTSIDE, [192, 0, 2, 2])));
            bed.refuses(hook, STRANGER_IF, &tag(&ipv4([10, 240, 0, 77], OUTSIDE)), NETWORK, DropReason::GuardSource);
            bed.refuses(hook, STRANGER_IF, &tag(&arp(OUTSIDE, [10, 240, 0, 77])), NETWORK, DropReason::GuardArp);
        }
    }
}

#[test]
fn what_is_refused_is_counted_for_the_member_of_this_host_whose_netns_it_is() {
    let bed = Bed::new();
    let (alice, carol) = (ALICE.address.octets(), CAROL.address.octets());
    bed.refuses(Hook::GuardIngress, STRANGER_IF, &ipv4(OUTSIDE, alice), ALICE.address, DropReason::GuardDestination);
    bed.refuses(Hook::GuardEgress, STRANGER_IF, &ipv4(alice, OUTSIDE), ALICE.address, DropReason::GuardSource);
    bed.refuses(Hook::GuardIngress, STRANGER_IF, &arp(OUTSIDE, alice), ALICE.address, DropReason::GuardArp);
    bed.refuses(Hook::GuardEgress, STRANGER_IF, &arp(alice, OUTSIDE), ALICE.address, DropReason::GuardArp);
    // The netns of a remote member is on its own host. A sender of forged addresses gets no row in the counters.
    bed.refuses(Hook::GuardIngress, STRANGER_IF, &ipv4(OUTSIDE, carol), NETWORK, DropReason::GuardDestination);
    bed.refuses(Hook::GuardIngress, STRANGER_IF, &ipv4(alice, OUTSIDE), NETWORK, DropReason::GuardSource);
}

#[test]
fn a_packet_too_short_for_its_addresses_is_refused_and_one_that_just_has_them_passes() {
    let bed = Bed::new();
    for hook in BOTH {
        // Behind a tag, for the kernel runs no test on an IPv4 frame that is shorter than its header.
        let tagged = tagged(&ipv4(OUTSIDE, OUTSIDE), 0x8100);
        bed.passes(hook, STRANGER_IF, &tagged[..38]);
        bed.refuses(hook, STRANGER_IF, &tagged[..37], NETWORK, DropReason::Truncated);
        bed.refuses(hook, STRANGER_IF, &tagged[..16], NETWORK, DropReason::Truncated);
        bed.passes(hook, STRANGER_IF, &arp(OUTSIDE, OUTSIDE)[..42]);
        bed.refuses(hook, STRANGER_IF, &arp(OUTSIDE, OUTSIDE)[..41], NETWORK, DropReason::Truncated);
    }
}

#[test]
fn other_protocols_of_the_container_are_its_own_business() {
    let bed = Bed::new();
    for hook in BOTH {
        bed.passes(hook, STRANGER_IF, &icmpv6(ALICE, 134));
        bed.passes(hook, STRANGER_IF, &with(ipv4(OUTSIDE, OUTSIDE), at::ETHERTYPE, &[0x88, 0xcc]));
        bed.passes(hook, STRANGER_IF, &with(ipv4(OUTSIDE, OUTSIDE), at::VERSION, &[0x46]));
        bed.passes(hook, STRANGER_IF, &with(ipv4(OUTSIDE, [224, 0, 0, 1]), at::FRAGMENT, &[0x20, 0]));
    }
}

#[test]
fn options_and_fragments_are_refused_by_their_addresses_like_any_other() {
    let bed = Bed::new();
    let inside = ipv4(OUTSIDE, [10, 240, 0, 77]);
    for (offset, bytes) in [(at::VERSION, &[0x4f][..]), (at::FRAGMENT, &[0x20, 0]), (at::FRAGMENT, &[0, 9])] {
        let frame = with(inside.clone(), offset, bytes);
        bed.refuses(Hook::GuardIngress, STRANGER_IF, &frame, NETWORK, DropReason::GuardDestination);
    }
}
