//! Attackers on the underlay: one that can send a datagram to a VTEP, and one that has recorded some.
//!
//! ```text
//!  forger ══ underlay ══▶ UDP 4789 ─▶ vxlan0 ─▶ from_vtep ─▶ binding: WireGuard, which has the last word ─▶ app: never
//! ```
//!
//! VXLAN knows no keys, so the right addresses lead a forger to a WireGuard socket; anything else leads nowhere.

mod attacker;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use attacker::{
    Forger, Forgery, MARK, NOBODY, Shop, assert_counted, datagram, forge, forgeries_from_afar, nothing_counted,
    underlay_of, wait_for_drop,
};
use privnet::datapath::DropReason;
use privnet_tests::lab::frame::{self, Datagram};
use privnet_tests::lab::probe::Server;
use privnet_tests::lab::{Lab, Options, SOON, Sniffer, say, wait_until};

const SUBNET: &str = "10.90.0.0/24";
const PORT: u16 = 7000;

#[test]
fn vxlan_from_a_known_vtep_finds_no_more_than_from_an_unknown_one() {
    let Shop { lab, hosts, network, web, backend, .. } =
        Shop::open("vxlan_from_a_known_vtep_finds_no_more_than_from_an_unknown_one", &Options::ebpf());
    let forger = Forger::plug_in(&lab, &hosts[0]);
    let (carrier, app) = (Sniffer::start(&web.binding), Sniffer::start(&web.app));
    let honest = datagram(&backend, &web);
    let to_the_application = forge(&honest, |f| f.destination_port = PORT);
    let cases = [
        ("the wrong VNI", network.vni + 1, honest.frame(), None),
        ("an unknown source", network.vni, forge(&honest, |f| f.source = NOBODY), Some(DropReason::UnknownSource)),
        ("the application's port", network.vni, to_the_application, Some(DropReason::WrongDestinationPort)),
    ];
    // Host 2 is the VTEP that backend lives behind; 9 is no host's.
    for (number, whose) in [(2, "a known VTEP"), (9, "an unknown VTEP")] {
        for (what, vni, inner, reason) in &cases {
            let (before, seen) = (hosts[0].counters(), carrier.count(MARK));
            forger.vxlan(number, *vni, inner);
            assert_counted(&hosts[0], &before, *reason, format!("{what} from {whose}"));
            assert_eq!(carrier.count(MARK), seen, "{what} from {whose} arrived");

            forger.vxlan(number, network.vni, &honest.frame());
            wait_until(format!("the twin of {what} reaches WireGuard"), || carrier.count(MARK) == seen + 1);
        }
    }
    assert_eq!(app.count(MARK), 0, "WireGuard, which has keys, lets none of them through");
    assert!(backend.pings(web.address()));
    drop((carrier, app));
    lab.finish();
}

#[test]
fn a_datagram_that_is_sent_again_is_not_heard_again() {
    for options in [Options::ebpf(), Options::bridge()] {
        let Shop { lab, hosts, web, backend, .. } =
            Shop::open("a_datagram_that_is_sent_again_is_not_heard_again", &options);
        let listener = web.app.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).expect("a port");
        let heard = |patience: Duration| {
            listener.set_read_timeout(Some(patience)).expect("a timeout");
            let mut buffer = [0; 64];
            let mut all = Vec::new();
            while let Ok((length, _)) = listener.recv_from(&mut buffer) {
                all.push(buffer[..length].to_vec());
                listener.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
            }
            all
        };
        let wire = Sniffer::start(&underlay_of(&hosts[0]));
        let speaker = backend.app.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a socket");
        speaker.send_to(b"pay 100", (web.address(), PORT)).expect("sent");
        assert_eq!(heard(SOON), [b"pay 100"], "once");

        // Every genuine datagram to web that passed, handshakes and all, exactly as it was.
        let to_web = web.address().octets();
        let genuine: Vec<Vec<u8>> =
            wire.seen().into_iter().map(|seen| seen.bytes).filter(|f| f.get(80..84) == Some(&to_web)).collect();
        assert!(!genuine.is_empty());
        let forger = Forger::plug_in(&lab, &hosts[0]);
        let carrier = Sniffer::start(&web.binding);
        let before = hosts[0].counters();
        let inner = &genuine[0][50..];
        // The bridge takes its time before it forwards for a port that is new.
        wait_until("the replayed datagrams reach WireGuard", || {
            genuine.iter().for_each(|frame| forger.send(frame));
            carrier.count(inner) >= 5
        });
        assert_eq!(
            heard(Duration::from_millis(500)),
            Vec::<Vec<u8>>::new(),
            "WireGuard counts: nothing is heard twice"
        );
        assert_eq!(hosts[0].counters().drops_since(&before), BTreeMap::new(), "they are genuine but for their time");
        speaker.send_to(b"pay 200", (web.address(), PORT)).expect("sent");
        assert_eq!(heard(SOON), [b"pay 200"], "the twin: what is new is heard");
        drop((wire, carrier));
        lab.finish();
    }
}

#[test]
fn what_is_cut_too_long_in_pieces_or_tagged_harms_nobody() {
    let Shop { lab, hosts, network, web, backend, .. } =
        Shop::open("what_is_cut_too_long_in_pieces_or_tagged_harms_nobody", &Options::ebpf());
    let forger = Forger::plug_in(&lab, &hosts[0]);
    let (carrier, app) = (Sniffer::start(&web.binding), Sniffer::start(&web.app));
    let honest = datagram(&backend, &web);
    let whole = frame::vxlan(network.vni, &honest.frame());
    for (what, reason, payload) in malformed(&honest, network.vni) {
        let (before, seen) = (hosts[0].counters(), carrier.count(MARK));
        forger.datagram(2, &payload);
        assert_counted(&hosts[0], &before, reason, what);
        assert_eq!(carrier.count(MARK), seen, "{what} arrived");
        forger.datagram(2, &whole);
        wait_until(format!("the twin of {what} reaches WireGuard"), || carrier.count(MARK) == seen + 1);
    }

    say("an Ethernet header alone: newer kernels drop it before any program sees it");
    let (before, seen) = (hosts[0].counters(), carrier.count(MARK));
    forger.datagram(2, &whole[..8 + 14]);
    let counted = nothing_counted(&hosts[0], &before);
    assert!(counted.keys().all(|reason| *reason == DropReason::Truncated), "{counted:?}");
    assert_eq!(carrier.count(MARK), seen);

    say("a tag around it: the host has no such VLAN");
    let before = hosts[0].counters();
    forger.tagged(2, &whole);
    assert_eq!(nothing_counted(&hosts[0], &before), BTreeMap::new());
    assert_eq!(carrier.count(MARK), seen);

    say("in pieces, the host's kernel puts it together; longer than any MTU of ours, WireGuard refuses it");
    forger.in_pieces(2, &whole, 24);
    wait_until("the pieces reach WireGuard as one", || carrier.count(MARK) == seen + 1);
    let long = forge(&honest, |f| f.payload = [MARK, &[7; 9000]].concat());
    forger.in_pieces(2, &frame::vxlan(network.vni, &long), 1400);
    let alone = whole[..20].to_vec();
    forger.in_pieces(2, &alone, 24);
    assert!(backend.pings(web.address()), "and the network works as before");
    assert_eq!(app.count(MARK), 0);
    drop((carrier, app));
    lab.finish();
}

#[test]
fn behind_a_bridge_whatever_is_forged_ends_at_wireguard() {
    let Shop { lab, hosts, network, web, worker, backend } =
        Shop::open("behind_a_bridge_whatever_is_forged_ends_at_wireguard", &Options::bridge());
    let forger = Forger::plug_in(&lab, &hosts[0]);
    let carrier = Sniffer::start(&web.binding);
    // Not the host that the frames claim to come from: the kernel refuses a closed port by ICMP, which quotes them.
    let others = [&web.app, &worker.app, &worker.binding].map(Sniffer::start);
    let _server = Server::echo(&web.app, PORT);
    let honest = datagram(&backend, &web);
    let forged = forgeries_from_afar(&honest, &worker, &backend, network.vni, PORT);
    let forged = forged.into_iter().map(|Forgery { what, vni, frame, .. }| (what, frame::vxlan(vni, &frame)));
    let malformed = malformed(&honest, network.vni).into_iter().map(|(what, _, payload)| (what, payload));
    let all: Vec<(&str, Vec<u8>)> = forged.chain(malformed).collect();
    // Host 2 is the VTEP that backend lives behind; 9 is no host's.
    for number in [2, 9] {
        for (index, (what, payload)) in all.iter().enumerate() {
            forger.datagram(number, payload);
            // What is sent after it by the same way arrives after it.
            let twin = format!("honest-{number}-{index}-");
            forger.vxlan(number, network.vni, &forge(&honest, |f| f.payload = twin.clone().into_bytes()));
            wait_until(format!("the twin of {what} reaches WireGuard"), || carrier.count(twin.as_bytes()) == 1);
            assert_eq!(others.each_ref().map(|space| space.count(MARK)), [0; 3], "{what} from {number}");
        }
    }
    assert!(backend.pings(web.address()) && worker.pings(web.address()), "and the network works as before");
    drop((carrier, others));
    lab.finish();
}

#[test]
fn a_network_of_one_member_takes_nothing_from_anybody() {
    for options in [Options::ebpf(), Options::bridge()] {
        let has_programs = options.datapath == "ebpf";
        let lab = Lab::new("a_network_of_one_member_takes_nothing_from_anybody");
        let hosts = lab.hosts(&[options.clone(), options]);
        let network = hosts[0].network("shop", SUBNET);
        let web = lab.member(&hosts[0], &network, "web-1");
        let forger = Forger::plug_in(&lab, &hosts[0]);
        let (carrier, app) = (Sniffer::start(&web.binding), Sniffer::start(&web.app));
        let _server = Server::echo(&web.app, PORT);
        let mut honest = datagram(&web, &web);
        (honest.source, honest.source_mac) = (NOBODY, [0x02, 0, 10, 90, 0, 200]);
        let cases = [
            ("somebody who is no member", DropReason::UnknownSource, honest.frame()),
            ("the member itself", DropReason::SourceIsLocal, datagram(&web, &web).frame()),
            (
                "somebody with its application",
                DropReason::WrongDestinationPort,
                forge(&honest, |f| f.destination_port = PORT),
            ),
            ("ARP", DropReason::ArpFromVtep, {
                let question = frame::arp(1, (honest.source_mac, honest.source), web.address());
                frame::ethernet(frame::BROADCAST, honest.source_mac, frame::ARP, &question)
            }),
        ];
        for (who, reason, inner) in cases {
            let before = hosts[0].counters();
            forger.vxlan(2, network.vni, &inner);
            if has_programs {
                let expected = BTreeMap::from([(reason, 1)]);
                assert_eq!(wait_for_drop(&hosts[0], &before), expected, "{who}");
            }
        }
        assert!(!has_programs || carrier.count(MARK) == 0);

        say("the twin: from a second member the same datagram reaches WireGuard");
        let backend = lab.member(&hosts[1], &network, "backend-1");
        wait_until("backend reaches web", || backend.pings(web.address()));
        let twin = b"of a second member";
        forger.vxlan(2, network.vni, &forge(&datagram(&backend, &web), |f| f.payload = twin.to_vec()));
        wait_until("it reaches WireGuard", || carrier.count(twin) == 1);
        assert_eq!([app.count(MARK), app.count(twin)], [0, 0], "which lets none of it through");
        drop((carrier, app));
        lab.finish();
    }
}

/// Payloads for UDP 4789 that are no whole VXLAN of a whole datagram, and why `from_vtep` drops each that it sees.
fn malformed(honest: &Datagram, vni: u32) -> Vec<(&'static str, Option<DropReason>, Vec<u8>)> {
    let whole = frame::vxlan(vni, &honest.frame());
    let cut = |bytes: usize| whole[..8 + bytes].to_vec();
    let with = |offset: usize, value: &[u8]| {
        let mut changed = whole.clone();
        changed[offset..offset + value.len()].copy_from_slice(value);
        changed
    };
    vec![
        ("nothing at all", None, Vec::new()),
        ("half a VXLAN header", None, whole[..4].to_vec()),
        ("a VXLAN header alone", None, cut(0)),
        ("less than an Ethernet header", None, cut(13)),
        ("without the flag that says there is a VNI", None, with(0, &[0])),
        ("cut within its headers", Some(DropReason::Truncated), cut(41)),
        ("cut within its payload", Some(DropReason::Malformed), cut(45)),
        ("longer than it says", Some(DropReason::Malformed), [whole.clone(), vec![0; 900]].concat()),
        ("shorter than UDP says", Some(DropReason::Malformed), with(8 + 38, &[0xff, 0xff])),
        ("a fragment within", Some(DropReason::Fragment), frame::vxlan(vni, &forge(honest, |f| f.fragment = 0x2000))),
        ("a tag within", Some(DropReason::VlanTag), frame::vxlan(vni, &frame::tagged(&honest.frame(), 5))),
    ]
}
