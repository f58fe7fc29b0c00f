//! Frames that must not arrive on the carrier: from members of other networks, forged by members, forged on the
//! underlay.
//!
//! ```text
//!  web  binding ══▶ from_member ──┐                 ┌── from_vtep ◀══ underlay ◀══ a forger's VXLAN
//!       ▲ forged frames           ├─ network netns ─┤
//!  worker binding ◀═══════════════┘                 └──▶ backend on the other host
//! ```
//!
//! Every forged frame differs in one fact from a frame that passes, is counted once under its reason, and is seen by no
//! member.

mod attacker;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::thread::sleep;

use attacker::{
    Forger, Forgery, MARK, NOBODY, NOBODYS_MAC, Shop, assert_counted, datagram, forge, forgeries_from_afar,
    wait_for_drop,
};

use privnet::datapath::{Direction, DropReason, Outcome};
use privnet_tests::lab::frame::{self, BROADCAST, Datagram};
use privnet_tests::lab::probe::{Server, ask_tcp, ask_udp, reaches};
use privnet_tests::lab::wait::holds_within;
use privnet_tests::lab::{
    DropWatch, FOR_NOTHING, Joined, Lab, Options, SOON, Sender, Sniffer, say, send_frame, wait_until,
};

const SUBNET: &str = "10.90.0.0/24";
const OTHER_SUBNET: &str = "10.91.0.0/24";
const PORT: u16 = 7000;
/// Many times what the ring of a network holds.
const FLOOD: u64 = 3000;
/// Lines of several times what a socket holds.
const MANY: usize = 2500;

#[test]
fn a_container_of_one_network_cannot_reach_one_of_another() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("a_container_of_one_network_cannot_reach_one_of_another");
        let host = lab.host(&options);
        let (blue, red) = (host.network("blue", SUBNET), host.network("red", OTHER_SUBNET));
        let (one, two) = (lab.member(&host, &blue, "blue-1"), lab.member(&host, &blue, "blue-2"));
        let other = lab.member(&host, &red, "red-1");
        let servers = [&one, &two, &other].map(|member| Server::echo(&member.app, PORT));
        wait_until("blue reaches blue", || one.pings(two.address()));
        assert!(reaches(&one.app, (two.address(), PORT)), "the twin");

        assert!(is_refused(&one, other.address()));
        say("with routes that the container's root adds by hand");
        one.app.run(&format!("ip route add {OTHER_SUBNET} dev wg0"));
        other.app.run(&format!("ip route add {SUBNET} dev wg0"));
        assert!(is_refused(&one, other.address()));
        assert!(is_refused(&other, one.address()));
        // From the binding netns, past WireGuard: its own route knows its own network only.
        assert!(!one.binding.succeeds(&format!("ping -q -n -c 1 -W 1 {}", other.address())));
        assert!(!servers[2].heard(b"are you there"));
        assert!(reaches(&one.app, (two.address(), PORT)), "the twin goes on");
        lab.finish();
    }
}

#[test]
fn networks_of_the_same_subnet_are_strangers_to_each_other() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("networks_of_the_same_subnet_are_strangers_to_each_other");
        let host = lab.host(&options);
        let (blue, green) = (host.network("blue", SUBNET), host.network("green", SUBNET));
        assert_ne!(blue.vni, green.vni);
        let (one, two) = (lab.member(&host, &blue, "blue-1"), lab.member(&host, &blue, "blue-2"));
        let twins = [("green-1", one.address()), ("green-2", two.address())].map(|(name, address)| {
            let container = lab.container(name);
            let attached = host.attach(&green, &container, Some(address)).expect("the same address in another network");
            host.joined(&green, &container, attached)
        });
        wait_until("green reaches green", || twins[0].pings(two.address()));
        wait_until("blue reaches blue", || one.pings(two.address()));
        let (in_blue, in_green) = (Server::echo(&two.app, PORT), Server::echo(&twins[1].app, PORT));
        for (member, word) in [(&one, &b"blue"[..]), (&twins[0], &b"green"[..])] {
            ask_udp(&member.app, (two.address(), PORT), word, SOON).expect("an answer by UDP");
            ask_tcp(&member.app, (two.address(), PORT), word, SOON).expect("an answer by TCP");
        }
        assert!(in_blue.heard(b"blue") && !in_blue.heard(b"green"));
        assert!(in_green.heard(b"green") && !in_green.heard(b"blue"));

        say("a member alone at an address: the other network's holder of the next one does not answer for it");
        assert!(host.detach(&green, &twins[1].container).expect("detach").detached);
        assert!(is_refused(&twins[0], two.address()));
        assert!(one.pings(two.address()), "the twin");
        lab.finish();
    }
}

#[test]
fn a_forged_frame_of_a_member_is_counted_by_its_reason_and_seen_by_nobody() {
    let lab = Lab::new("a_forged_frame_of_a_member_is_counted_by_its_reason_and_seen_by_nobody");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));
    wait_until("web reaches worker", || web.pings(worker.address()));
    let sniffers = [&web.binding, &worker.binding, &host.space].map(Sniffer::start);
    let from_network = Sniffer::start(&web.network);
    let vtep = web.network.ifindex("vxlan0").expect("vxlan0");
    let honest = datagram(&web, &worker);
    let watch = DropWatch::start(&host, &["--member", &web.container.reference().to_string()]);
    let elsewhere = DropWatch::start(&host, &["--direction", "in"]);
    let refused = host.cli().output(&["monitor", "--member", "9.nobody"]);
    assert_eq!(refused.status.code(), Some(1), "a member that is none here is not waited for: {refused:?}");
    let mut expected = Vec::new();

    for (what, reason, frame) in forgeries(&honest) {
        for passing in [false, true] {
            let before = host.counters();
            let seen = sniffers[1].count(MARK);
            let answered = replies(&sniffers[0], &web);
            if passing {
                send_frame(&web.binding, &web.carrier(), &honest.frame());
                wait_until("the honest twin arrives", || sniffers[1].count(MARK) == seen + 1);
                assert_eq!(host.counters().drops_since(&before), BTreeMap::new(), "the twin of {what}");
            } else {
                send_frame(&web.binding, &web.carrier(), &frame);
                let counted = wait_for_drop(&host, &before);
                assert_eq!(counted, BTreeMap::from([(reason, 1)]), "{what}");
                // The kernel takes a tag off before the program sees the frame.
                let tag_bytes = if reason == DropReason::VlanTag { 4 } else { 0 };
                expected.push((reason, u32::try_from(frame.len() - tag_bytes).expect("short")));
                assert_eq!(sniffers[1].count(MARK), seen, "{what} arrived");
                assert_eq!(replies(&sniffers[0], &web), answered, "{what} was answered");
            }
        }
    }
    wait_until("each drop is shown", || watch.frames().len() >= expected.len());
    for frame in watch.frames() {
        assert_eq!((frame.direction, frame.address), (Direction::Out, web.address()), "{frame:?}");
        assert!(frame.member.starts_with("1.web.") && frame.network == network.id, "{frame:?}");
    }
    let shown: Vec<_> = watch.frames().iter().map(|frame| (frame.reason, frame.bytes)).collect();
    assert_eq!(shown, expected, "in their order, each once");
    assert_eq!((elsewhere.frames(), watch.not_shown()), (Vec::new(), 0));
    drop(elsewhere);

    say("more than a ring holds at once: what is not shown is said");
    let before = host.counters();
    let (forged, sender) = (forge(&honest, |f| f.source = NOBODY), Sender::open(&web.binding, &web.carrier()));
    let mut sent = 0;
    // A sender that the machine holds up may be slower than the reader.
    wait_until("more is dropped than is shown", || {
        for _ in 0..FLOOD {
            sender.send(&forged).expect("the veth takes it");
        }
        sent += FLOOD;
        holds_within(SOON, || watch.not_shown() > 0)
    });
    let told = || (watch.frames().len() - expected.len()) as u64 + watch.not_shown();
    wait_until("all of them are told", || told() >= sent);
    assert_eq!(host.counters().drops_since(&before), BTreeMap::from([(DropReason::SpoofedAddress, sent)]));
    say(&format!("{} of {sent} were shown", watch.frames().len() - expected.len()));
    drop(watch);
    wait_until("the programs report nothing while nobody watches", || !DropWatch::is_fed(&host));
    sleep(FOR_NOTHING);
    assert_eq!(sniffers[2].count(MARK), 0, "on the underlay");
    assert_eq!(from_network.count_on(vtep, MARK), 0, "at the VTEP");
    assert!(web.pings(worker.address()), "and the network works as before");

    say("an honest ARP request is answered in place, and forwarded to no member");
    let before = host.counters();
    let request = frame::arp(1, (honest.source_mac, honest.source), honest.destination);
    send_frame(&web.binding, &web.carrier(), &frame::ethernet(BROADCAST, honest.source_mac, frame::ARP, &request));
    wait_until("the answer is counted", || {
        host.counters().of_outcome(Outcome::ArpAnswered) == before.of_outcome(Outcome::ArpAnswered) + 1
    });
    let answer = frame::arp(2, (honest.destination_mac, honest.destination), honest.source);
    wait_until("the answer is there", || sniffers[0].count(&answer[..18]) > 0);
    assert_eq!(sniffers[1].count(&request[..18]), 0, "worker was not asked");
    drop((sniffers, from_network));

    say("an agent that is told to end does not wait for those who watch, nor for one who does not read");
    let (watch, stopped) = (DropWatch::start(&host, &[]), DropWatch::start(&host, &[]));
    stopped.pause();
    // More than its socket holds.
    wait_until("many were shown to the one who reads", || {
        for _ in 0..FLOOD {
            sender.send(&forged).expect("the veth takes it");
        }
        watch.frames().len() > MANY
    });
    host.stop();
    assert!(host.log_tail().contains("the agent has ended"), "{}", host.log_tail());
    stopped.go_on();
    drop((watch, stopped));
    host.start();
    lab.finish();
}

#[test]
fn behind_a_bridge_a_forged_frame_of_a_member_ends_at_wireguard_and_moves_nobody() {
    let lab = Lab::new("behind_a_bridge_a_forged_frame_of_a_member_ends_at_wireguard_and_moves_nobody");
    let host = lab.host(&Options::bridge());
    let network = host.network("shop", SUBNET);
    let [web, worker, other] = ["web-1", "worker-1", "other-1"].map(|name| lab.member(&host, &network, name));
    let all_reach = || web.pings(worker.address()) && other.pings(web.address()) && worker.pings(other.address());
    wait_until("all reach each other", all_reach);
    host.wait_until_settled();
    let table = || web.network.run("bridge fdb show br br0");
    let before = table();
    let apps = [&web.app, &worker.app, &other.app].map(Sniffer::start);
    let outside = [&other.binding, &host.space].map(Sniffer::start);
    let receiver = Sniffer::start(&worker.binding);
    let honest = datagram(&web, &worker);
    for (number, (what, _, frame)) in forgeries(&honest).into_iter().enumerate() {
        // What is sent after it by the same way arrives after it.
        let twin = format!("honest-{number}-");
        send_frame(&web.binding, &web.carrier(), &frame);
        send_frame(&web.binding, &web.carrier(), &forge(&honest, |f| f.payload = twin.clone().into_bytes()));
        wait_until(format!("the honest twin of {what} arrives"), || receiver.count(twin.as_bytes()) == 1);
        assert_eq!(apps.each_ref().map(|app| app.count(MARK)), [0; 3], "{what} came through WireGuard");
        assert_eq!(outside.each_ref().map(|space| space.count(MARK)), [0; 2], "{what} was seen by others");
        assert_eq!(table(), before, "{what} moved somebody");
    }
    assert!(all_reach(), "and the network works as before");
    drop((apps, outside, receiver));
    lab.finish();
}

#[test]
fn forged_vxlan_from_the_underlay_finds_nothing() {
    let Shop { lab, hosts, network, web, worker, backend } =
        Shop::open("forged_vxlan_from_the_underlay_finds_nothing", &Options::ebpf());
    let forger = Forger::plug_in(&lab, &hosts[0]);
    let inside = [&web.binding, &worker.binding].map(Sniffer::start);
    let app = Sniffer::start(&web.app);
    let _server = Server::echo(&web.app, PORT);
    let honest = datagram(&backend, &web);
    for Forgery { what, reason, vni, frame } in forgeries_from_afar(&honest, &worker, &backend, network.vni, PORT) {
        let before = hosts[0].counters();
        let seen = inside[0].count(MARK);
        forger.vxlan(9, vni, &frame);
        assert_counted(&hosts[0], &before, reason, what);
        assert_eq!(inside.each_ref().map(|sniffer| sniffer.count(MARK)), [seen, 0], "{what} arrived");

        forger.vxlan(9, network.vni, &honest.frame());
        wait_until(format!("the honest twin of {what} arrives"), || inside[0].count(MARK) == seen + 1);
    }
    assert!(backend.pings(web.address()));
    assert_eq!(app.count(MARK), 0, "what passes finds WireGuard, which has the last word");
    drop((inside, app));
    lab.finish();
}

/// What a member could send that it must not, each with one fact other than `honest`.
fn forgeries(honest: &Datagram) -> Vec<(&'static str, DropReason, Vec<u8>)> {
    let ethernet = |ethertype, payload: &[u8]| {
        frame::ethernet(honest.destination_mac, honest.source_mac, ethertype, &[payload, MARK].concat())
    };
    let arp = |operation, sender, target| {
        let message = frame::arp(operation, sender, target);
        frame::ethernet(BROADCAST, honest.source_mac, frame::ARP, &[&message, MARK].concat())
    };
    let own = (honest.source_mac, honest.source);
    let router_advertisement = [&[134_u8, 0, 0, 0, 64, 0, 0, 30][..], &[0; 8]].concat();
    vec![
        ("another's MAC", DropReason::SpoofedMac, forge(honest, |f| f.source_mac = NOBODYS_MAC)),
        (
            "the destination's MAC as its own",
            DropReason::SpoofedMac,
            forge(honest, |f| f.source_mac = f.destination_mac),
        ),
        ("another's address", DropReason::SpoofedAddress, forge(honest, |f| f.source = NOBODY)),
        ("UDP from another port", DropReason::WrongSourcePort, forge(honest, |f| f.source_port = 5353)),
        (
            "UDP to the application's port",
            DropReason::WrongDestinationPort,
            forge(honest, |f| f.destination_port = PORT),
        ),
        ("to nobody", DropReason::UnknownDestination, forge(honest, |f| f.destination = NOBODY)),
        (
            "to the other network",
            DropReason::UnknownDestination,
            forge(honest, |f| f.destination = Ipv4Addr::new(10, 91, 0, 2)),
        ),
        ("to itself", DropReason::ToItself, forge(honest, |f| f.destination = f.source)),
        ("to another MAC", DropReason::WrongDestinationMac, forge(honest, |f| f.destination_mac = NOBODYS_MAC)),
        ("to all", DropReason::MulticastOrBroadcast, forge(honest, |f| f.destination_mac = BROADCAST)),
        (
            "to a group",
            DropReason::MulticastOrBroadcast,
            forge(honest, |f| f.destination = Ipv4Addr::new(224, 0, 0, 251)),
        ),
        ("a first fragment", DropReason::Fragment, forge(honest, |f| f.fragment = 0x2000)),
        ("a later fragment", DropReason::Fragment, forge(honest, |f| f.fragment = 0x0010)),
        ("DHCP", DropReason::Dhcp, forge(honest, |f| (f.source_port, f.destination_port) = (68, 67))),
        ("a DHCP server's answer", DropReason::Dhcp, forge(honest, |f| (f.source_port, f.destination_port) = (67, 68))),
        ("TCP", DropReason::NotUdp, with_protocol(honest, 6, &frame::tcp_syn(51_820, 51_820))),
        ("ICMP", DropReason::NotUdp, with_protocol(honest, 1, &frame::icmp_echo(MARK))),
        ("a VLAN tag", DropReason::VlanTag, frame::tagged(&honest.frame(), 7)),
        ("IPv6", DropReason::Ipv6, ethernet(frame::IPV6, &frame::ipv6(17, &frame::udp(51_820, 51_820, MARK)))),
        (
            "a router advertisement",
            DropReason::RouterAdvertisement,
            ethernet(frame::IPV6, &frame::ipv6(58, &router_advertisement)),
        ),
        (
            "a neighbour advertisement",
            DropReason::Ipv6,
            ethernet(frame::IPV6, &frame::ipv6(58, &[&[136_u8, 0, 0, 0][..], &[0; 20]].concat())),
        ),
        (
            "a redirect of IPv6",
            DropReason::Ipv6,
            ethernet(frame::IPV6, &frame::ipv6(58, &[&[137_u8, 0, 0, 0][..], &[0; 36]].concat())),
        ),
        ("an unknown EtherType", DropReason::UnknownEtherType, ethernet(0x88cc, &[0; 60])),
        ("an ARP answer", DropReason::ArpNotRequest, arp(2, own, honest.destination)),
        ("ARP for another's address", DropReason::ArpSpoofed, arp(1, (honest.source_mac, NOBODY), honest.destination)),
        ("ARP for another's MAC", DropReason::ArpSpoofed, arp(1, (NOBODYS_MAC, honest.source), honest.destination)),
        ("an announcement of its own address", DropReason::ToItself, arp(1, own, honest.source)),
        (
            "an announcement of another's address",
            DropReason::ArpSpoofed,
            arp(1, (honest.source_mac, honest.destination), honest.destination),
        ),
        ("ARP for nobody", DropReason::ArpUnknownTarget, arp(1, own, NOBODY)),
    ]
}

fn with_protocol(honest: &Datagram, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let packet = frame::ipv4(honest.source, honest.destination, protocol, 0, &[payload, MARK].concat());
    frame::ethernet(honest.destination_mac, honest.source_mac, frame::IPV4, &packet)
}

/// How many ARP answers and ICMP messages came back to a member's carrier.
fn replies(sniffer: &Sniffer, member: &Joined) -> usize {
    let carrier = member.binding.ifindex(&member.carrier()).expect("the carrier");
    let came_back = |frame: &&privnet_tests::lab::packet::Seen| frame.ifindex == carrier && !frame.outgoing;
    let is_reply = |bytes: &[u8]| bytes[12..14] != [8, 0] || bytes.get(23) != Some(&17);
    sniffer.seen().iter().filter(came_back).filter(|frame| is_reply(&frame.bytes)).count()
}

/// Whether an address answers neither UDP, nor TCP, nor ping.
fn is_refused(from: &Joined, address: Ipv4Addr) -> bool {
    let asked = b"are you there";
    let by_udp = ask_udp(&from.app, (address, PORT), asked, FOR_NOTHING);
    let by_tcp = ask_tcp(&from.app, (address, PORT), asked, FOR_NOTHING);
    for error in [by_udp.as_ref().err(), by_tcp.as_ref().err()].into_iter().flatten() {
        assert_ne!(error.kind(), ErrorKind::ConnectionRefused, "a refusal is an answer: somebody was reached");
    }
    by_udp.is_err() && by_tcp.is_err() && !from.pings(address)
}
