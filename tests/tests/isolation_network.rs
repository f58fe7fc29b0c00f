//! Who must not reach whom on the carrier: members of other networks, forgers among members, forgers on the underlay.
//!
//! ```text
//!  web  binding ══▶ from_member ──┐                 ┌── from_vtep ◀══ underlay ◀══ a forger's VXLAN
//!       ▲ forged frames           ├─ network netns ─┤
//!  worker binding ◀═══════════════┘                 └──▶ backend on the other host
//! ```
//!
//! Every forged frame differs in one fact from a frame that passes, is counted once under its reason, and is seen by nobody.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread::sleep;

use privnet_tests::lab::frame::{self, BROADCAST, Datagram};
use privnet_tests::lab::metrics::Counters;
use privnet_tests::lab::probe::{Server, ask_tcp, ask_udp, reaches};
use privnet_tests::lab::{
    FOR_NOTHING, Host, Joined, Lab, Options, SOON, Sniffer, say, send_frame, underlay_address, wait_until,
};

const SUBNET: &str = "10.90.0.0/24";
const OTHER_SUBNET: &str = "10.91.0.0/24";
const MARK: &[u8] = b"forged-5e7d";
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 200);
const NOBODYS_MAC: [u8; 6] = [0x02, 0, 0xde, 0xad, 0xbe, 0xef];
const PORT: u16 = 7000;

#[test]
fn a_container_of_one_network_cannot_reach_one_of_another() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("a_container_of_one_network_cannot_reach_one_of_another");
        let host = lab.host(&options);
        let (blue, red) = (host.network("blue", SUBNET), host.network("red", OTHER_SUBNET));
        let (one, two) = (lab.member(&host, &blue, "blue-1"), lab.member(&host, &blue, "blue-2"));
        let other = lab.member(&host, &red, "red-1");
        let servers = [&one, &two, &other].map(|member| Server::echo(&member.app, PORT));
        wait_until("blue reaches blue", SOON, || one.pings(two.address()));
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
        wait_until("green reaches green", SOON, || twins[0].pings(two.address()));
        wait_until("blue reaches blue", SOON, || one.pings(two.address()));
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
    wait_until("web reaches worker", SOON, || web.pings(worker.address()));
    let sniffers = [&web.binding, &worker.binding, &host.space].map(Sniffer::start);
    let from_network = Sniffer::start(&web.network);
    let vtep = web.network.ifindex("vxlan0").expect("vxlan0");
    let honest = datagram(&web, &worker);

    for (what, reason, frame) in forgeries(&honest) {
        for passing in [false, true] {
            let before = host.counters();
            let seen = sniffers[1].count(MARK);
            let answered = replies(&sniffers[0], &web);
            if passing {
                send_frame(&web.binding, &web.carrier(), &honest.frame());
                wait_until("the honest twin arrives", SOON, || sniffers[1].count(MARK) == seen + 1);
                assert_eq!(host.counters().drops_since(&before), BTreeMap::new(), "the twin of {what}");
            } else {
                send_frame(&web.binding, &web.carrier(), &frame);
                let counted = wait_for_drop(&host, &before);
                assert_eq!(counted, BTreeMap::from([(reason.to_owned(), 1)]), "{what}");
                assert_eq!(sniffers[1].count(MARK), seen, "{what} arrived");
                assert_eq!(replies(&sniffers[0], &web), answered, "{what} was answered");
            }
        }
    }
    sleep(FOR_NOTHING);
    assert_eq!(sniffers[2].count(MARK), 0, "on the underlay");
    assert_eq!(from_network.count_on(vtep, MARK), 0, "at the VTEP");
    assert!(web.pings(worker.address()), "and the network works as before");

    say("an honest ARP request is answered in place, by nobody");
    let before = host.counters();
    let request = frame::arp(1, (honest.source_mac, honest.source), honest.destination);
    send_frame(&web.binding, &web.carrier(), &frame::ethernet(BROADCAST, honest.source_mac, frame::ARP, &request));
    wait_until("the answer is counted", SOON, || {
        host.counters().of_reason("arp_answered") == before.of_reason("arp_answered") + 1
    });
    let answer = frame::arp(2, (honest.destination_mac, honest.destination), honest.source);
    wait_until("the answer is there", SOON, || sniffers[0].count(&answer[..18]) > 0);
    assert_eq!(sniffers[1].count(&request[..18]), 0, "worker was not asked");
    drop((sniffers, from_network));
    lab.finish();
}

#[test]
fn forged_vxlan_from_the_underlay_finds_nothing() {
    let lab = Lab::new("forged_vxlan_from_the_underlay_finds_nothing");
    let hosts = lab.hosts(&[Options::ebpf(), Options::ebpf()]);
    let network = hosts[0].network("shop", SUBNET);
    let web = lab.member(&hosts[0], &network, "web-1");
    let worker = lab.member(&hosts[0], &network, "worker-1");
    let backend = lab.member(&hosts[1], &network, "backend-1");
    wait_until("backend reaches web", SOON, || backend.pings(web.address()));
    let forger = forger_on_the_underlay(&lab, &hosts[0]);
    let inside = [&web.binding, &worker.binding].map(Sniffer::start);
    let _server = Server::echo(&web.app, PORT);
    let honest = datagram(&backend, &web);

    let forge = |change: &dyn Fn(&mut Datagram)| {
        let mut forged = honest.clone();
        change(&mut forged);
        forged.frame()
    };
    let arp = frame::arp(1, (honest.source_mac, honest.source), honest.destination);
    let cases: Vec<(&str, Option<&str>, u32, Vec<u8>)> = vec![
        ("an unknown VNI", None, network.vni + 1, honest.frame()),
        ("an unknown source", Some("unknown_source"), network.vni, forge(&|f| f.source = NOBODY)),
        (
            "a member's address with another MAC",
            Some("spoofed_mac"),
            network.vni,
            forge(&|f| f.source_mac = NOBODYS_MAC),
        ),
        (
            "a member of the host itself",
            Some("source_is_local"),
            network.vni,
            forge(&|f| {
                (f.source, f.source_mac, f.source_port) = (worker.address(), worker.mac(), worker.port());
            }),
        ),
        ("to nobody", Some("unknown_destination"), network.vni, forge(&|f| f.destination = NOBODY)),
        (
            "to a member of another host",
            Some("destination_not_local"),
            network.vni,
            forge(&|f| {
                f.destination = backend.address();
            }),
        ),
        ("to another MAC", Some("wrong_destination_mac"), network.vni, forge(&|f| f.destination_mac = NOBODYS_MAC)),
        ("from another port", Some("wrong_source_port"), network.vni, forge(&|f| f.source_port = 53)),
        (
            "to the application's port",
            Some("wrong_destination_port"),
            network.vni,
            forge(&|f| f.destination_port = PORT),
        ),
        ("ARP", Some("arp_from_vtep"), network.vni, frame::ethernet(BROADCAST, honest.source_mac, frame::ARP, &arp)),
        ("TCP", Some("not_udp"), network.vni, with_protocol(&honest, 6, &frame::tcp_syn(51_820, 51_820))),
        ("a tag", Some("vlan_tag"), network.vni, frame::tagged(&honest.frame(), 7)),
    ];
    for (what, reason, vni, bytes) in cases {
        let before = hosts[0].counters();
        let seen = inside[0].count(MARK);
        forge_vxlan(&forger, hosts[0].vtep, vni, &bytes);
        let expected: BTreeMap<String, u64> = reason.into_iter().map(|reason| (reason.to_owned(), 1)).collect();
        let counted =
            if expected.is_empty() { nothing_counted(&hosts[0], &before) } else { wait_for_drop(&hosts[0], &before) };
        assert_eq!(counted, expected, "{what}");
        assert_eq!(inside.each_ref().map(|sniffer| sniffer.count(MARK)), [seen, 0], "{what} arrived");

        forge_vxlan(&forger, hosts[0].vtep, network.vni, &honest.frame());
        wait_until(format!("the honest twin of {what} arrives"), SOON, || inside[0].count(MARK) == seen + 1);
    }
    let app = Sniffer::start(&web.app);
    forge_vxlan(&forger, hosts[0].vtep, network.vni, &honest.frame());
    sleep(FOR_NOTHING);
    assert_eq!(app.count(MARK), 0, "what passes finds WireGuard, which has the last word");
    drop((forger, inside, app));
    lab.finish();
}

/// What a member could send that it must not, each with one fact other than `honest`.
fn forgeries(honest: &Datagram) -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let forge = |change: &dyn Fn(&mut Datagram)| {
        let mut forged = honest.clone();
        change(&mut forged);
        forged.frame()
    };
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
        ("another's MAC", "spoofed_mac", forge(&|f| f.source_mac = NOBODYS_MAC)),
        ("the destination's MAC as its own", "spoofed_mac", forge(&|f| f.source_mac = f.destination_mac)),
        ("another's address", "spoofed_address", forge(&|f| f.source = NOBODY)),
        ("UDP from another port", "wrong_source_port", forge(&|f| f.source_port = 5353)),
        ("UDP to the application's port", "wrong_destination_port", forge(&|f| f.destination_port = PORT)),
        ("to nobody", "unknown_destination", forge(&|f| f.destination = NOBODY)),
        ("to the other network", "unknown_destination", forge(&|f| f.destination = Ipv4Addr::new(10, 91, 0, 2))),
        ("to itself", "to_itself", forge(&|f| f.destination = f.source)),
        ("to another MAC", "wrong_destination_mac", forge(&|f| f.destination_mac = NOBODYS_MAC)),
        ("to all", "multicast_or_broadcast", forge(&|f| f.destination_mac = BROADCAST)),
        ("to a group", "multicast_or_broadcast", forge(&|f| f.destination = Ipv4Addr::new(224, 0, 0, 251))),
        ("a first fragment", "fragment", forge(&|f| f.fragment = 0x2000)),
        ("a later fragment", "fragment", forge(&|f| f.fragment = 0x0010)),
        ("DHCP", "dhcp", forge(&|f| (f.source_port, f.destination_port) = (68, 67))),
        ("a DHCP server's answer", "dhcp", forge(&|f| (f.source_port, f.destination_port) = (67, 68))),
        ("TCP", "not_udp", with_protocol(honest, 6, &frame::tcp_syn(51_820, 51_820))),
        ("ICMP", "not_udp", with_protocol(honest, 1, &frame::icmp_echo(MARK))),
        ("a VLAN tag", "vlan_tag", frame::tagged(&honest.frame(), 7)),
        ("IPv6", "ipv6", ethernet(frame::IPV6, &frame::ipv6(17, &frame::udp(51_820, 51_820, MARK)))),
        (
            "a router advertisement",
            "router_advertisement",
            ethernet(frame::IPV6, &frame::ipv6(58, &router_advertisement)),
        ),
        (
            "a neighbour advertisement",
            "ipv6",
            ethernet(frame::IPV6, &frame::ipv6(58, &[&[136_u8, 0, 0, 0][..], &[0; 20]].concat())),
        ),
        (
            "a redirect of IPv6",
            "ipv6",
            ethernet(frame::IPV6, &frame::ipv6(58, &[&[137_u8, 0, 0, 0][..], &[0; 36]].concat())),
        ),
        ("an unknown EtherType", "unknown_ethertype", ethernet(0x88cc, &[0; 60])),
        ("an ARP answer", "arp_not_request", arp(2, own, honest.destination)),
        ("ARP for another's address", "arp_spoofed", arp(1, (honest.source_mac, NOBODY), honest.destination)),
        ("ARP for another's MAC", "arp_spoofed", arp(1, (NOBODYS_MAC, honest.source), honest.destination)),
        ("an announcement of its own address", "to_itself", arp(1, own, honest.source)),
        (
            "an announcement of another's address",
            "arp_spoofed",
            arp(1, (honest.source_mac, honest.destination), honest.destination),
        ),
        ("ARP for nobody", "arp_unknown_target", arp(1, own, NOBODY)),
    ]
}

/// A datagram as one member's WireGuard sends it to another's; only its payload is no WireGuard message.
fn datagram(from: &Joined, to: &Joined) -> Datagram {
    Datagram {
        source_mac: from.mac(),
        destination_mac: to.mac(),
        source: from.address(),
        destination: to.address(),
        source_port: from.port(),
        destination_port: to.port(),
        fragment: 0,
        payload: MARK.to_vec(),
    }
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

fn wait_for_drop(host: &Host, before: &Counters) -> BTreeMap<String, u64> {
    let mut risen = BTreeMap::new();
    wait_until("the drop is counted", SOON, || {
        risen = host.counters().drops_since(before);
        !risen.is_empty()
    });
    risen
}

fn nothing_counted(host: &Host, before: &Counters) -> BTreeMap<String, u64> {
    sleep(FOR_NOTHING);
    host.counters().drops_since(before)
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

/// A socket of a machine on the underlay that is no host of ours.
fn forger_on_the_underlay(lab: &Lab, host: &Host) -> UdpSocket {
    let forger = lab.space("forger");
    let middle = host.space.pin().replace("-h1", "-underlay");
    let middle = privnet_tests::lab::Space::of_pin("underlay", &middle);
    middle.run(&format!("ip link add port9 type veth peer name eth0 netns {}", forger.pin()));
    middle.run("ip link set port9 master br0 up");
    forger.run(&format!("ip address add {}/24 dev eth0", underlay_address(9)));
    forger.run("ip link set eth0 up");
    forger.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a socket")
}

fn forge_vxlan(forger: &UdpSocket, vtep: Ipv4Addr, vni: u32, frame: &[u8]) {
    let to = SocketAddr::from((vtep, 4789));
    forger.send_to(&frame::vxlan(vni, frame), to).expect("the underlay takes it");
}
