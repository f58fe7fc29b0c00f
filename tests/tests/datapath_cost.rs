//! What a packet costs in each program, by `BPF_PROG_TEST_RUN` with many repetitions. Not a test of right or wrong: it
//! prints, and runs only when asked for.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]

mod datapath;

use datapath::*;
use privnet::datapath::{Hook, features};

const REPEAT: u32 = 1_000_000;
const ROUNDS: usize = 5;

/// `cargo test -p privnet-tests --test datapath_cost -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn the_programs_are_measured() {
    assert_eq!(features().jit, Some(true), "without the JIT no figure means anything");
    let bed = Bed::new();
    let outside = with(datagram_of(ALICE, BOB, 1400), at::SOURCE, &[192, 0, 2, 1, 198, 51, 100, 1]);
    let inside = with(outside.clone(), at::DESTINATION, &[10, 240, 0, 77]);
    let forged = with(datagram_of(ALICE, BOB, 1400), at::SOURCE, &[192, 0, 2, 1]);
    let cases = [
        ("from_member, same host", Hook::FromMember, ALICE_IF, datagram_of(ALICE, BOB, 1400)),
        ("from_member, other host", Hook::FromMember, ALICE_IF, datagram_of(ALICE, CAROL, 1400)),
        ("from_member, refused", Hook::FromMember, ALICE_IF, forged),
        ("from_vtep", Hook::FromVtep, VTEP_IF, datagram_of(CAROL, ALICE, 1400)),
        ("guard, IPv6 passed", Hook::GuardIngress, STRANGER_IF, icmpv6(ALICE, 128)),
        ("from_vtep, ARP refused", Hook::FromVtep, VTEP_IF, arp_request(CAROL, ALICE.address)),
        ("from_member, unknown", Hook::FromMember, STRANGER_IF, datagram_of(ALICE, BOB, 1400)),
        ("guard, passed", Hook::GuardIngress, STRANGER_IF, outside),
        ("guard, refused", Hook::GuardIngress, STRANGER_IF, inside),
    ];
    for (name, hook, ifindex, frame) in cases {
        let mut rounds: Vec<u128> = (0..ROUNDS).map(|_| bed.repeat(hook, ifindex, &frame, REPEAT)).collect();
        rounds.sort_unstable();
        println!("{name:<24} {:>4} ns ({} to {})", rounds[ROUNDS / 2], rounds[0], rounds[ROUNDS - 1]);
    }
}
