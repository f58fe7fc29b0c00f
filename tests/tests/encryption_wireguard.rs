//! WireGuard between members, without the rest of the topology: which packets get through, which do not, what the
//! carrier shows.
//!
//! ```text
//!  app2 ┌───────────────┐      bind2 ┌──────────────────┐        ┌────────┐        ┌──────────────────┐ bind3      app3
//!       │ wg0 10.240.0.2│~~~~~~~~~~~~│ UDP 51820        │        │ switch │        │ UDP 51820        │~~~~~~~~~~ …
//!       └───────────────┘  born there│ veth0 10.240.0.2 ╞════════╡  br0   ╞════════╡ veth0 10.240.0.3 │
//!                                    └──────────────────┘        └────────┘        └──────────────────┘
//! ```
//!
//! Each test runs with the userspace backend, and with the kernel's where the kernel has it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the transcript")]

mod wireguard_lab;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use privnet::wireguard::{Backend, Error, Peer, PeerChange};
use privnet_tests::lab::{SOON, Sniffer, runtime, until, wait_until};
use wireguard_lab::{Lab, Member, PORT, SILENCE, arrives, backends};

/// Shows nowhere but where it was sent from and to.
const CANARY: &[u8] = b"privnet-canary-8f1c33d2-this-must-never-be-seen-in-clear";

fn each_backend(test: impl AsyncFn(Backend)) {
    for backend in backends() {
        println!("# {backend}");
        runtime().block_on(test(backend));
    }
}

fn remove(member: &Member) -> PeerChange {
    PeerChange { set: vec![], remove: vec![member.public_key()] }
}

fn set(peers: &[Peer]) -> PeerChange {
    PeerChange { set: peers.to_vec(), remove: vec![] }
}

#[test]
fn members_reach_each_other_and_the_carrier_shows_only_wireguard() {
    each_backend(async |backend| {
        let lab = Lab::new();
        let members = lab.mesh(backend, 2).await;
        let sniffer = Sniffer::start(&members[0].bind_space);
        let (there, back) = (members[0].socket(members[0].address, 7000), members[1].socket(members[1].address, 7000));
        assert!(arrives(&there, &back, CANARY), "there");
        assert!(arrives(&back, &there, CANARY), "and back");
        assert!(members[0].ping(&members[1]) && members[1].ping(&members[0]), "ping");

        // At least: the handshake, the canary there and back, and two pings with their answers.
        let frames = || sniffer.seen().into_iter().map(|seen| seen.bytes);
        wait_until("the datagrams are captured", || frames().filter(|frame| is_wireguard(frame)).count() >= 8);
        for frame in &frames().collect::<Vec<_>>() {
            assert!(is_wireguard(frame) || is_arp(frame), "something else on the carrier: {frame:02x?}");
            assert!(!holds_canary(frame), "the canary is on the carrier");
        }
        // The twin: the same search in the same kind of capture finds the canary where it is in clear.
        let sniffer = Sniffer::start(&members[1].app_space);
        assert!(arrives(&there, &back, CANARY));
        wait_until("the canary is captured", || sniffer.seen().iter().any(|seen| holds_canary(&seen.bytes)));
    });
}

#[test]
fn a_full_packet_crosses_unfragmented() {
    each_backend(async |backend| {
        let lab = Lab::new();
        let members = lab.mesh(backend, 2).await;
        for member in &members {
            member.bind_space.run("ip link set veth0 mtu 1450");
        }
        let sniffer = Sniffer::start(&members[0].bind_space);
        let (there, back) = (members[0].socket(members[0].address, 7000), members[1].socket(members[1].address, 7000));
        // wg0 has 1390: 20 for IPv4, 8 for UDP.
        assert!(arrives(&there, &back, &[7; 1362]), "the largest datagram");
        // The carrier has 1450, behind 14 for Ethernet.
        let frames = || sniffer.seen().into_iter().map(|seen| seen.bytes);
        let is_full = |frame: Vec<u8>| is_wireguard(&frame) && frame.len() == 14 + 1450;
        wait_until("the full datagram is captured", || frames().any(is_full));
        assert!(frames().all(|frame| frame.len() <= 14 + 1450), "more than the carrier holds");
    });
}

#[test]
fn a_removed_peer_is_silent_and_comes_back() {
    each_backend(async |backend| {
        let lab = Lab::new();
        let members = lab.mesh(backend, 2).await;
        let (there, back) = (members[0].socket(members[0].address, 7000), members[1].socket(members[1].address, 7000));
        assert!(arrives(&there, &back, b"before"));

        members[1].change(remove(&members[0])).await;
        back.set_read_timeout(Some(SILENCE)).expect("set");
        there.send_to(b"removed", (members[1].address, 7000)).expect("sent");
        assert!(back.recv_from(&mut [0; 64]).is_err(), "a removed peer got through");
        let state = members[1].device().observe().await.expect("answers").expect("is there");
        assert!(state.peers.is_empty());

        // The session of the other side is one that this side forgot; starting over, both have a new one.
        members[1].change(set(&[members[0].as_peer()])).await;
        members[0].change(remove(&members[1])).await;
        members[0].change(set(&[members[1].as_peer()])).await;
        assert!(arrives(&there, &back, b"after"));
    });
}

#[test]
fn a_device_begins_sessions_with_the_peers_that_are_there_and_no_others() {
    each_backend(async |backend| {
        let lab = Lab::new();
        let members = lab.mesh(backend, 3).await;
        let (device, stranger) = (members[0].device(), lab.member(50).public_key());
        let age = async |of: &Member, with: &Member| {
            let state = of.device().observe().await.expect("answers").expect("is there");
            state.peers[&with.public_key()].last_handshake_age
        };
        // The second time there is one already.
        for _ in 0..2 {
            device.begin_sessions(&[stranger, members[1].public_key()]).await.expect("begun");
            until("both have a session", async || {
                age(&members[0], &members[1]).await.is_some() && age(&members[1], &members[0]).await.is_some()
            })
            .await;
        }
        assert_eq!((age(&members[0], &members[2]).await, age(&members[2], &members[0]).await), (None, None));
        let state = device.observe().await.expect("answers").expect("is there");
        assert!(!state.peers.contains_key(&stranger), "a peer was added");
        assert!(members[0].ping(&members[1]) && members[0].ping(&members[2]));
    });
}

#[test]
fn a_peer_cannot_send_from_anothers_address() {
    each_backend(async |backend| {
        let lab = Lab::new();
        let members = lab.mesh(backend, 3).await;
        let target = members[0].socket(members[0].address, 7000);
        let honest = members[1].socket(members[1].address, 7000);
        assert!(arrives(&honest, &target, b"own address"));

        // Of another member, of no member, and of the target itself.
        for stolen in [members[2].address, Ipv4Addr::new(10, 240, 1, 77), Ipv4Addr::new(192, 0, 2, 1)] {
            members[1].app_space.run(&format!("ip addr add {stolen}/32 dev lo"));
            let thief = members[1].socket(stolen, 7001);
            thief.send_to(b"stolen address", (members[0].address, 7000)).expect("sent");
            // Behind it in the same tunnel: when this one is there, the other one is not coming.
            honest.send_to(b"own address again", (members[0].address, 7000)).expect("sent");
            target.set_read_timeout(Some(SOON)).expect("set");
            let mut buffer = [0; 64];
            let (length, source) = target.recv_from(&mut buffer).expect("the honest one arrives");
            assert_eq!((&buffer[..length], source), (&b"own address again"[..], honest.local_addr().expect("bound")));
        }
    });
}

#[test]
fn an_address_that_a_peer_holds_is_not_given_to_another() {
    each_backend(async |backend| {
        let lab = Lab::new();
        let members = lab.mesh(backend, 3).await;
        let device = members[0].device();
        let before = device.observe().await.expect("answers").expect("is there");
        let free = Ipv4Addr::new(10, 240, 0, 99);
        let newcomer = lab.member(50).as_peer();

        let thief = Peer { allowed_ip: members[2].address, ..newcomer };
        let refused = device.change_peers(&set(&[thief])).await.expect_err("it is held");
        let holder = members[2].public_key();
        assert!(matches!(refused, Error::AddressTaken { holder: by, .. } if by == holder), "{refused}");
        let after = device.observe().await.expect("answers").expect("is there");
        assert_eq!(before.peers.keys().collect::<Vec<_>>(), after.peers.keys().collect::<Vec<_>>());

        let honest = Peer { allowed_ip: free, ..newcomer };
        device.change_peers(&set(&[honest])).await.expect("it is free");
        let heir = Peer { allowed_ip: members[2].address, ..newcomer };
        let change = PeerChange { set: vec![heir], remove: vec![members[2].public_key()] };
        device.change_peers(&change).await.expect("its holder goes");
        let after = device.observe().await.expect("answers").expect("is there");
        let held: Vec<String> = after.peers[&heir.public_key].allowed_ips.iter().map(ToString::to_string).collect();
        assert_eq!(held, [format!("{}/32", heir.allowed_ip)]);
        assert!(!after.peers.contains_key(&holder));
    });
}

#[test]
fn changes_of_other_peers_and_of_nothing_lose_no_packet() {
    const CHANGES: u32 = 400;
    const UNDER_WAY: u32 = 64;
    each_backend(async |backend| {
        let lab = Lab::new();
        let members = lab.mesh(backend, 2).await;
        let (there, back) = (members[0].socket(members[0].address, 7000), members[1].socket(members[1].address, 7000));
        assert!(arrives(&there, &back, b"the handshake is done"));
        back.set_read_timeout(Some(SOON)).expect("set");

        // The traffic goes on until the changes are made, however long a busy machine takes for them.
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        // What is under way is bounded: a busy machine must not overflow a queue, which would look like a loss.
        let received = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&received);
        let destination = back.local_addr().expect("bound");
        let sender = std::thread::spawn(move || {
            let mut number: u32 = 0;
            while !until.load(Ordering::Relaxed) {
                if number - seen.load(Ordering::Relaxed) < UNDER_WAY {
                    there.send_to(&number.to_be_bytes(), destination).expect("sent");
                    number += 1;
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            // So that the receiver looks once more.
            there.send_to(b"end", destination).expect("sent");
            number
        });
        let receiver = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            for number in 0.. {
                let length = back.recv(&mut buffer).unwrap_or_else(|_| panic!("packet {number} is lost"));
                if &buffer[..length] == b"end" {
                    return number;
                }
                assert_eq!(&buffer[..length], u32::to_be_bytes(number), "in order");
                received.store(number + 1, Ordering::Relaxed);
            }
            unreachable!("it counts until the end comes")
        });
        let other = |number: u8| Peer {
            public_key: privnet::model::PublicKey::new([number; 32]),
            endpoint: std::net::SocketAddrV4::new(Ipv4Addr::new(10, 240, 2, number), PORT),
            allowed_ip: Ipv4Addr::new(10, 240, 2, number),
        };
        let (mut changes, mut number) = (0, 0);
        while changes < CHANGES && !receiver.is_finished() {
            for (member, peer) in [(&members[0], &members[1]), (&members[1], &members[0])] {
                member.device().configure(&member.key, PORT).await.expect("nothing to do");
                member.change(set(&[peer.as_peer()])).await;
                member.change(set(&[other(number)])).await;
                member.change(PeerChange { set: vec![], remove: vec![other(number).public_key] }).await;
            }
            number = number.wrapping_add(1) % 250;
            changes += 8;
        }
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("the sender ends well");
        assert_eq!(receiver.join().expect("the receiver ends well"), sent, "packets received and sent");
        println!("{changes} changes, {sent} packets, none lost");
        assert!(sent > changes, "{sent} packets are too few for {changes} changes to have met any");
    });
}

/// Of a userspace device: a socket that is full is one of its own.
#[test]
fn a_device_that_cannot_send_receives() {
    /// Somewhat less than what the process's socket may have under way, which goes out a packet a second.
    const NEARLY_FULL: u64 = 7 << 19;
    const MANY: u64 = 1000;
    runtime().block_on(async {
        let lab = Lab::new();
        let members = lab.mesh(Backend::Userspace, 2).await;
        let (there, back) = (members[0].socket(members[0].address, 7000), members[1].socket(members[1].address, 7000));
        assert!(arrives(&there, &back, b"the handshake is done") && arrives(&back, &there, b"there and back"));

        // The carrier takes a packet a second, and keeps more than the socket may have under way.
        members[0].bind_space.run("tc qdisc add dev veth0 root tbf rate 8kbit burst 1600 limit 100000000");
        let under_way = || {
            let sockets = members[0].bind_space.run("cat /proc/net/udp");
            let queues = sockets.lines().skip(1).filter_map(|line| line.split_whitespace().nth(4)?.split(':').next());
            queues.filter_map(|queue| u64::from_str_radix(queue, 16).ok()).max()
        };
        let dropped = || {
            let links = members[0].app_space.run("cat /proc/net/dev");
            let link = links.lines().find(|line| line.trim_start().starts_with("wg0:")).expect("it is there");
            link.split_whitespace().nth(12).and_then(|drops| drops.parse::<u64>().ok()).expect("a number")
        };
        let destination = back.local_addr().expect("bound");
        let send = |number| (0..number).for_each(|_| assert!(there.send_to(&[0; 1362], destination).is_ok()));
        let mut before = None;
        wait_until("the socket is full", || {
            send(MANY);
            let last = std::mem::replace(&mut before, under_way());
            before <= last && before.is_some_and(|octets| octets >= NEARLY_FULL)
        });
        let origin = there.local_addr().expect("bound");
        for number in 0..50_u32 {
            back.send_to(&number.to_be_bytes(), origin).expect("sent");
            let mut buffer = [0; 64];
            let length = there.recv(&mut buffer).expect("it is received");
            assert_eq!(&buffer[..length], number.to_be_bytes());
        }
        // What the device does not read is dropped at its link, whose queue is full.
        let before = dropped();
        send(MANY);
        assert!(dropped() - before >= MANY, "it was full all the time");
        // The twin: with room on the carrier, the device sends again.
        members[0].bind_space.run("tc qdisc del dev veth0 root");
        until("it sends again", async || {
            there.send_to(b"last", destination).expect("sent");
            back.recv(&mut [0; 2048]).expect("something comes") == 4
        })
        .await;
    });
}

#[test]
fn a_device_that_is_not_there_is_absent_and_none_is_made() {
    each_backend(async |backend| {
        let lab = Lab::new();
        let mut member = lab.member(2);
        member.backend = backend;
        assert_eq!(member.device().observe().await.expect("answers"), None);
        for result in [
            member.device().configure(&member.key, PORT).await,
            member.device().change_peers(&set(&[member.as_peer()])).await,
            member.device().begin_sessions(&[member.public_key()]).await,
        ] {
            let refused = result.expect_err("there is no device");
            assert!(matches!(refused, Error::Absent { .. }), "{refused}");
        }
        assert!(!member.has_link(), "a link was made");

        member.start(backend).await;
        let state = member.device().observe().await.expect("answers").expect("is there");
        assert_eq!((state.public_key, state.listen_port), (Some(member.public_key()), PORT));
        member.stop().await;
        assert_eq!(member.device().observe().await.expect("answers"), None);
        wait_until("wg0 is gone", || !member.has_link());
    });
}

fn holds_canary(frame: &[u8]) -> bool {
    frame.windows(CANARY.len()).any(|part| part == CANARY)
}

fn is_arp(frame: &[u8]) -> bool {
    frame[12..14] == [0x08, 0x06]
}

/// IPv4 without options, UDP, both ports the members' WireGuard port.
fn is_wireguard(frame: &[u8]) -> bool {
    let port = PORT.to_be_bytes();
    frame[12..15] == [0x08, 0x00, 0x45] && frame[23] == 17 && frame[34..36] == port && frame[36..38] == port
}
