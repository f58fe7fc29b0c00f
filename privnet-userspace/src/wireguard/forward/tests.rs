//! A device whose carrier is a socket on the loopback, and whose peer's datagrams are carried by hand.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::model::PrivateKey;
use crate::wireguard::Peer;
use crate::wireguard::change::Step;
use crate::wireguard::offload::Offloads;

/// The largest that a network has on an underlay of 9,000.
const MTU: u16 = 8890;
const NO_OFFLOADS: Offloads = Offloads { tcp: false, udp: false };
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 240, 0, 1), Ipv4Addr::new(10, 240, 0, 2)];
/// As many as the library keeps.
const PACKETS: usize = 256;

/// The tunnels of one member with one peer, which is at `endpoint`.
fn tunnels(own: u8, other: u8, endpoint: SocketAddr) -> Tunnels {
    let SocketAddr::V4(endpoint) = endpoint else { panic!("{endpoint}") };
    let mut tunnels = Tunnels::new(&PrivateKey::from_random([own; 32]), MTU);
    let public_key = PrivateKey::from_random([other; 32]).public_key();
    let peer = Peer { public_key, endpoint, allowed_ip: ADDRESSES[usize::from(other) - 1] };
    tunnels.apply(&Step::Add(peer), Instant::now());
    tunnels
}

fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

fn packet() -> Packet {
    let mut octets = vec![7; usize::from(MTU)];
    octets[..10].copy_from_slice(&[0x45, 0, MTU.to_be_bytes()[0], MTU.to_be_bytes()[1], 0, 0, 0, 0, 64, 17]);
    octets[12..16].copy_from_slice(&ADDRESSES[0].octets());
    octets[16..20].copy_from_slice(&ADDRESSES[1].octets());
    Packet::copy_from(&octets[..])
}

#[tokio::test]
async fn all_packets_that_one_handshake_releases_are_sent_and_wait_within_a_bound_while_the_socket_is_full() {
    for is_full in [false, true] {
        let ((socket, own), (peer_socket, peer)) = (socket(), socket());
        let (mut tunnels_of_peer, now) = (tunnels(2, 1, own), Instant::now());
        let shared = Shared::new(tunnels(1, 2, peer), Predecessor::new(tokio::time::Instant::now()));
        let mut out = Datagrams::new(MTU);
        let packets = (0..PACKETS).map(|_| packet());
        shared.lock().tunnels.outgoing(packets, ADDRESSES[1], now, &mut out);
        let begin = out.first().expect("it begins a handshake").1.to_vec();
        out.is_sent(begin.len());
        assert!(out.is_empty(), "the packets wait for the answer");
        let mut answer = Datagrams::new(MTU);
        let none = tunnels_of_peer.incoming(Packet::copy_from(&begin[..]), own, now, &mut answer);
        assert!(none.is_none());
        peer_socket.send_to(answer.first().expect("it answers").1, own).expect("sent");

        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (link, _kernel) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a pair");
        let mut app = App::new(link, NO_OFFLOADS).expect("an end");
        let mut carrier = Carrier::new(socket, NO_OFFLOADS).expect("an end");
        carrier.is_readable().await.expect("the answer is there");
        if is_full {
            carrier.is_full();
        }
        from_carrier(&mut app, &mut carrier, &shared, &mut out).await.expect("the link is there");
        assert_eq!((out.is_empty(), out.take_lost()), (!is_full, 0));
        if is_full {
            let datagram = vec![0; usize::from(MTU) + 32];
            assert!(out.octets() >= PACKETS * usize::from(MTU), "all of them wait: {}", out.octets());
            for _ in 0..PACKETS {
                out.push(peer, &datagram);
            }
            assert!(out.take_lost() > PACKETS as u64 - 20, "and little more: {}", out.octets());
        }
    }
}

#[test]
fn rest_comes_once_after_the_last_read_whatever_that_came_to() {
    let now = Instant::now();
    let mut rest = Rest::default();
    assert!(rest.due.is_none() && rest.has_come(now), "nothing was read");
    rest.comes_after(now);
    assert_eq!(rest.due, Some(now + IN_USE));
    assert!(!rest.has_come(now + IN_USE / 2));
    rest.comes_after(now + IN_USE / 2);
    assert!(!rest.has_come(now + IN_USE), "the twin: it was read again");
    assert!(rest.has_come(now + IN_USE * 2));
    assert_eq!(rest.due, None, "without another timer");
}
