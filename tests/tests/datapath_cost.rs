//! What a packet costs in each program, by `BPF_PROG_TEST_RUN` with many repetitions. Not a test of right or wrong: it
//! prints, and runs only when asked for.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]

mod carrier;
mod datapath;
mod links;

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use carrier::Carrier;
use datapath::*;
use privnet::datapath::{Hook, Method, NetworkSpec, features};
use privnet::netns::Netns;
use privnet_tests::lab::{Ground, run_in};
use rustix::thread::{CpuSet, sched_setaffinity};

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
    let programs = [
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
    for (name, hook, ifindex, frame) in programs {
        let mut rounds: Vec<u128> = (0..ROUNDS).map(|_| bed.repeat(hook, ifindex, &frame, REPEAT)).collect();
        rounds.sort_unstable();
        println!("{name:<24} {:>4} ns ({} to {})", rounds[ROUNDS / 2], rounds[0], rounds[ROUNDS - 1]);
    }
}

/// One sender pinned to one core, 1300-byte datagrams; datagrams/s received, medians of alternating rounds. Then a
/// ping-pong of 64 bytes with both ends on one core, half its median round.
#[tokio::test]
#[ignore = "a measurement"]
async fn the_ways_to_attach_and_to_redirect_are_measured() {
    let bare = Bare::new().await;
    let mut ways: Vec<(String, [UdpSocket; 2], Option<Carrier>)> = vec![("bare veth".to_owned(), bare.sockets(), None)];
    for method in [Method::Clsact, Method::Tcx] {
        for redirect_peer in [true, false] {
            let carrier = Carrier::with(&NetworkSpec { redirect_peer, ..spec() }, Some(method)).await;
            let sockets = [carrier.socket("alice", ALICE), carrier.socket("bob", BOB)];
            let redirect = if redirect_peer { "redirect_peer" } else { "redirect" };
            ways.push((format!("same host, {method:?}, {redirect}"), sockets, Some(carrier)));
        }
    }
    let carrier = Carrier::new().await;
    let sockets = [carrier.socket("alice", ALICE), carrier.socket("carol", CAROL)];
    ways.push(("two hosts".to_owned(), sockets, Some(carrier)));
    let mut rates = vec![Vec::new(); ways.len()];
    let mut rounds = vec![Vec::new(); ways.len()];
    for (_, [one, two], _) in &ways {
        one.connect(two.local_addr().expect("address")).expect("connect");
        two.connect(one.local_addr().expect("address")).expect("connect");
        two.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
    }
    for _ in 0..3 * ROUNDS {
        for (number, (_, [one, two], _)) in ways.iter().enumerate() {
            rates[number].push(flood(one, two));
            rounds[number].push(ping_pong(one, two));
        }
    }
    println!("{:<36} {:>10} {:>8} {:>19} {:>8}", "", "flood, 1/s", "÷ bare", "ping-pong, one way", "- bare");
    for (number, (name, ..)) in ways.iter().enumerate() {
        // Against the floor of the same round: the machine changes its speed between rounds.
        let ratios = rates[number].iter().zip(&rates[0]).map(|(rate, bare)| rate * 1000 / bare);
        let above = rounds[number].iter().zip(&rounds[0]).map(|(one, bare)| one.cast_signed() - bare.cast_signed());
        let (ratio, above) = (median(ratios), median(above));
        let (rate, round) = (median(rates[number].iter().copied()), median(rounds[number].iter().copied()));
        println!("{name:<36} {rate:>10} {:>5}.{:03} {round:>16} ns {above:>5} ns", ratio / 1000, ratio % 1000);
    }
}

fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> T {
    let mut sorted: Vec<T> = values.collect();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// Two namespaces and a veth.
struct Bare {
    one: Netns,
    two: Netns,
    _ground: Ground,
}

impl Bare {
    async fn new() -> Self {
        let ground = Ground::join();
        let [one, two] = ground.namespaces();
        let [on_one, _] = links::sockets([&one, &two]).await;
        links::veth(&on_one, (&one, "eth0", links::MAC_A), (&two, "eth0", links::MAC_B)).await.expect("veth");
        run_in(&one, "ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up");
        run_in(&two, "ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up");
        Self { one, two, _ground: ground }
    }

    fn sockets(&self) -> [UdpSocket; 2] {
        [(&self.one, "192.0.2.1:9000"), (&self.two, "192.0.2.2:9000")].map(|(netns, address)| {
            netns.run_blocking(move || UdpSocket::bind(address)).expect("thread").expect("bind")
        })
    }
}

fn flood(one: &UdpSocket, two: &UdpSocket) -> u64 {
    let (sender, receiver) = (one.try_clone().expect("socket"), two.try_clone().expect("socket"));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let sending = std::thread::spawn(move || {
        pin_to(0);
        while !stopped.load(Ordering::Relaxed) {
            let _ = sender.send(&[7; 1300]);
        }
    });
    pin_to(1);
    let mut buffer = [0; 2000];
    let started = Instant::now();
    let mut received = 0;
    while started.elapsed() < Duration::from_millis(700) {
        received += u64::from(receiver.recv(&mut buffer).is_ok());
    }
    stop.store(true, Ordering::Relaxed);
    sending.join().expect("sender");
    while receiver.recv(&mut buffer).is_ok() {}
    received
}

fn ping_pong(one: &UdpSocket, two: &UdpSocket) -> u128 {
    let echo = two.try_clone().expect("socket");
    let echoing = std::thread::spawn(move || {
        pin_to(0);
        let mut buffer = [0; 100];
        while let Ok(bytes) = echo.recv(&mut buffer) {
            let _ = echo.send(&buffer[..bytes]);
        }
    });
    pin_to(0);
    let mut buffer = [0; 100];
    let mut rounds: Vec<u128> = (0..10_000)
        .map(|_| {
            let started = Instant::now();
            one.send(&[7; 64]).expect("send");
            one.recv(&mut buffer).expect("echo");
            started.elapsed().as_nanos()
        })
        .collect();
    echoing.join().expect("echo");
    rounds.sort_unstable();
    rounds[rounds.len() / 2] / 2
}

fn pin_to(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("affinity");
}
