//! The programs under real traffic: real sockets, real veths, a real VXLAN link. The drawing is in `carrier`.

mod carrier;
mod datapath;
mod links;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use carrier::{Carrier, Host, PATIENCE, SILENCE};
use datapath::*;
use privnet::datapath::{Direction, DropReason, Hook, MemberRow, NetworkSpec, Outcome};
use privnet::netns::Netns;
use privnet_ebpf::net::MacAddr;
use privnet_tests::lab::{Ground, run_in, wait_until};

fn count(host: &Host, member: Ipv4Addr, direction: Direction, outcome: Outcome) -> u64 {
    let counters = host.network.counters().expect("counters");
    counters.get(&member).map_or(0, |counters| counters.get(direction, outcome).packets)
}

/// Sends from one member's WireGuard port to another's, and waits for it there.
#[track_caller]
fn reaches(from: &UdpSocket, to: (&UdpSocket, Member), text: &str) {
    from.send_to(text.as_bytes(), (to.1.address, to.1.port)).expect("send");
    let mut buffer = [0; 2000];
    let (bytes, source) = receive(to.0, &mut buffer).expect("a datagram");
    assert_eq!((&buffer[..bytes], source), (text.as_bytes(), from.local_addr().expect("address")));
}

/// A wait with a bound is not restarted by the kernel when the process is stopped and continued (signal(7)).
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[track_caller]
fn hears_nothing(socket: &UdpSocket) {
    socket.set_read_timeout(Some(SILENCE)).expect("timeout");
    let error = receive(socket, &mut [0; 2000]).expect_err("nothing");
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_reach_each_other_on_one_host_and_across_two_and_all_is_counted() {
    for redirect_peer in [true, false] {
        for method in methods() {
            let carrier = Carrier::with(&NetworkSpec { redirect_peer, ..spec() }, Some(method)).await;
            let [alice, bob] = [("alice", ALICE), ("bob", BOB)].map(|(name, member)| carrier.socket(name, member));
            let carol = carrier.socket("carol", CAROL);
            reaches(&alice, (&bob, BOB), "to a neighbour");
            reaches(&bob, (&alice, ALICE), "and back");
            reaches(&alice, (&carol, CAROL), &"to another host ".repeat(80));
            reaches(&carol, (&alice, ALICE), "and back");
            reaches(&carol, (&bob, BOB), "to his neighbour");
            let (a, b) = (&carrier.a, &carrier.b);
            assert_eq!(count(a, ALICE.address, Direction::Out, Outcome::ForwardedLocal), 1);
            assert_eq!(count(a, BOB.address, Direction::Out, Outcome::ForwardedLocal), 1);
            assert_eq!(count(a, ALICE.address, Direction::Out, Outcome::ForwardedRemote), 1);
            assert_eq!(count(a, ALICE.address, Direction::In, Outcome::ForwardedLocal), 1);
            assert_eq!(count(a, BOB.address, Direction::In, Outcome::ForwardedLocal), 1);
            assert_eq!(count(b, CAROL.address, Direction::Out, Outcome::ForwardedRemote), 2);
            assert_eq!(count(b, CAROL.address, Direction::In, Outcome::ForwardedLocal), 1);
            assert_eq!(count(a, ALICE.address, Direction::Out, Outcome::ArpAnswered), 2);
            for (host, name) in [(a, "A"), (b, "B")] {
                for (member, counters) in host.network.counters().expect("counters") {
                    let drops: Vec<_> = counters.iter().filter(|(.., tally)| tally.packets > 0).collect();
                    let drops = drops.iter().filter(|(_, outcome, _)| matches!(outcome, Outcome::Dropped(_)));
                    assert_eq!(drops.count(), 0, "host {name}, {member}: {counters:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_wireguard_reaches_nobody() {
    let carrier = Carrier::new().await;
    let (alice, bob) = (carrier.socket("alice", ALICE), carrier.socket("bob", BOB));
    reaches(&alice, (&bob, BOB), "the twin");
    let another = SocketAddr::from((BOB.address, 53));
    let other = carrier.bindings["bob"].run_blocking(move || UdpSocket::bind(another)).expect("thread").expect("bind");
    alice.send_to(b"to another port", another).expect("send");
    hears_nothing(&other);
    let from = SocketAddr::from((ALICE.address, 0));
    let odd = carrier.bindings["alice"].run_blocking(move || UdpSocket::bind(from)).expect("thread").expect("bind");
    odd.send_to(b"from another port", (BOB.address, BOB.port)).expect("send");
    hears_nothing(&bob);
    let dropped = |reason| count(&carrier.a, ALICE.address, Direction::Out, Outcome::Dropped(reason));
    assert_eq!((dropped(DropReason::WrongDestinationPort), dropped(DropReason::WrongSourcePort)), (1, 1));
    assert!(!links::ping(&carrier.bindings["alice"], "10.240.0.3").await);
    assert!(dropped(DropReason::NotUdp) >= 1);
}

/// Whoever reaches the VTEP's port can put any frame into the network. With the right addresses it gets as far as a
/// WireGuard socket, which has keys; with any others, nowhere. The kernel takes a tag off before any program runs, so
/// that the frame itself no longer shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_frame_finds_nothing_but_wireguard() {
    let carrier = Carrier::new().await;
    let (alice, bob) = (carrier.socket("alice", ALICE), carrier.socket("bob", BOB));
    let outside = carrier.hosts[1].run_blocking(|| UdpSocket::bind("192.0.2.2:0")).expect("thread").expect("bind");
    let forge = |frame: &[u8]| {
        let header = [&[0x08, 0, 0, 0][..], &spec().vni.get().to_be_bytes()[1..], &[0]].concat();
        outside.send_to(&[header, frame.to_vec()].concat(), "192.0.2.1:4789").expect("send");
    };
    let good = checksummed(datagram(CAROL, ALICE));
    forge(&good);
    assert_eq!(receive(&alice, &mut [0; 2000]).expect("the twin arrives").0, 32);
    let to_another_port = with(good.clone(), at::DESTINATION_PORT, &[0, 53]);
    let refused = [
        (tagged(&good, 0x8100), NETWORK, DropReason::VlanTag),
        (checksummed(datagram(NOBODY, ALICE)), ALICE.address, DropReason::UnknownSource),
        (checksummed(datagram(BOB, ALICE)), ALICE.address, DropReason::SourceIsLocal),
        (with(good.clone(), at::SOURCE_MAC, &DAVE.mac.bytes()), ALICE.address, DropReason::SpoofedMac),
        (to_another_port, ALICE.address, DropReason::WrongDestinationPort),
        (arp_request(CAROL, ALICE.address), NETWORK, DropReason::ArpFromVtep),
        (icmpv6(CAROL, 134), NETWORK, DropReason::RouterAdvertisement),
    ];
    for (frame, member, reason) in refused {
        assert_eq!(count(&carrier.a, member, Direction::In, Outcome::Dropped(reason)), 0);
        forge(&frame);
        let name = reason.name();
        wait_until(name, || count(&carrier.a, member, Direction::In, Outcome::Dropped(reason)) == 1);
    }
    hears_nothing(&alice);
    hears_nothing(&bob);
}

/// The frame with the checksum that the receiver's stack wants to see in its IPv4 header (RFC 791 section 3.1).
fn checksummed(frame: Vec<u8>) -> Vec<u8> {
    let frame = with(frame, 24, &[0, 0]);
    let words = frame[14..34].chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    with(frame, 24, &(!(folded as u16)).to_be_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_given_out_again_is_reached_at_once() {
    let mut carrier = Carrier::new().await;
    let (alice, carol) = (carrier.socket("alice", ALICE), carrier.socket("carol", CAROL));
    reaches(&alice, (&carol, CAROL), "generation 2");
    let successor = MacAddr::of_member(CAROL.address.octets(), 3);
    let index = carrier.b.links.link("veth-carol").await.expect("veth").index;
    let binding = &carrier.bindings["carol"];
    run_in(binding, &format!("ip link set vxlan-1-veth0 address {successor}"));
    let row = MemberRow::local(successor, CAROL.port, index);
    carrier.b.network.set_member(CAROL.address, row).expect("member");
    carrier.a.network.set_member(CAROL.address, MemberRow::remote(successor, CAROL.port)).expect("member");
    let vtep = carrier.a.links.link("vxlan0").await.expect("vxlan0").index;
    carrier.a.links.fdb_replace(vtep, successor, links::ip("192.0.2.2")).await.expect("fdb");
    // ALICE's neighbour entry holds the MAC of generation 2 still.
    reaches(&alice, (&carol, CAROL), "generation 3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_packet_is_lost_while_programs_are_replaced() {
    let carrier = Carrier::new().await;
    let (alice, bob) = (carrier.socket("alice", ALICE), carrier.socket("bob", BOB));
    let carol = carrier.socket("carol", CAROL);
    let (rounds, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (done, stopped) = (Arc::clone(&rounds), Arc::clone(&stop));
    let traffic = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            // Each must arrive, or the receiver's patience ends the test.
            reaches(&alice, (&bob, BOB), "to a neighbour");
            reaches(&alice, (&carol, CAROL), "to another host");
            reaches(&carol, (&alice, ALICE), "and back");
            done.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (port, vtep) = (links::ifname("veth-alice"), links::ifname("vxlan0"));
    let mut replaced = 0;
    while (replaced < 100 || rounds.load(Ordering::Relaxed) < 100) && !traffic.is_finished() {
        carrier.a.network.attach(&carrier.a.netns, &port, Hook::FromMember).await.expect("replaced");
        carrier.a.network.attach(&carrier.a.netns, &vtep, Hook::FromVtep).await.expect("replaced");
        replaced += 1;
    }
    stop.store(true, Ordering::Relaxed);
    traffic.join().expect("every datagram arrived");
}

/// ```text
///   app netns: lo 10.240.0.2, eth0 192.0.2.2 ───── 192.0.2.1 neighbour
/// ```
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_closes_the_foreign_interface_to_the_network_and_to_nothing_else() {
    let ground = Ground::join();
    let network = open(&ground, &spec());
    let [app, neighbour] = ground.namespaces();
    let both: [&Netns; 2] = [&app, &neighbour];
    let [on_app, _] = links::sockets(both).await;
    let ends = ((&app, "eth0", links::MAC_A), (&neighbour, "eth0", links::MAC_B));
    links::veth(&on_app, ends.0, ends.1).await.expect("veth");
    run_in(
        &app,
        "ip addr add 192.0.2.2/24 dev eth0; ip addr add 10.240.0.2/32 dev lo; ip link set lo up; ip link set eth0 up",
    );
    run_in(
        &neighbour,
        "ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up; ip route add 10.240.0.0/22 via 192.0.2.2",
    );
    assert!(links::ping(&neighbour, "192.0.2.2").await && links::ping(&neighbour, "10.240.0.2").await, "the hole");
    for hook in [Hook::GuardIngress, Hook::GuardEgress] {
        network.attach(&app, &links::ifname("eth0"), hook).await.expect("guard");
    }
    assert!(links::ping(&neighbour, "192.0.2.2").await, "what is not the network's goes on");
    assert!(!links::ping(&neighbour, "10.240.0.2").await, "the hole is closed");
    assert!(links::ping(&app, "10.240.0.2").await, "the container reaches itself");
    let counters = network.counters().expect("counters");
    let dropped = Outcome::Dropped(DropReason::GuardDestination);
    assert!(counters[&NETWORK].get(Direction::In, dropped).packets >= 1);
    network.unpin().expect("unpin");
}
