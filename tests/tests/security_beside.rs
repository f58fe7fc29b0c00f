//! A container on the Docker bridge beside: an ordinary UDP socket, the host's address, and the VNI, which is 24 bits.
//!
//! ```text
//!  beside ─ eth0 ── docker0 (h1) ─▶ UDP 4789 of h1 ─▶ vxlan0 ─▶ from_vtep, or br0 ─▶ WireGuard, which has the last word
//!  forger ══════════ underlay ════▶ the same
//! ```
//!
//! VXLAN has no keys and its socket is the host's: what keeps these frames from harm is behind `vxlan0`.

mod attacker;

use std::net::{Ipv4Addr, UdpSocket};

use attacker::{Forger, MARK, NOBODYS_MAC, Shop, VXLAN_PORT, assert_counted, datagram, forge, forgeries_from_afar};
use privnet_tests::lab::probe::Server;
use privnet_tests::lab::{Container, Joined, Options, Sniffer, frame, say, wait_until};

const PORT: u16 = 7000;
/// The host on its Docker bridge.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

#[test]
fn what_a_container_beside_forges_is_dropped_and_counted_or_refused_by_wireguard() {
    let Shop { lab, hosts, network, web, worker, backend } =
        Shop::open("what_a_container_beside_forges_is_dropped_and_counted_or_refused_by_wireguard", &Options::ebpf());
    let beside = Beside::of(&lab.container("beside-1").with_eth0(&hosts[0].space, 9));
    let (carrier, other, app) =
        (Sniffer::start(&web.binding), Sniffer::start(&worker.binding), Sniffer::start(&web.app));
    let _server = Server::echo(&web.app, PORT);
    let honest = datagram(&backend, &web);

    for to in [GATEWAY, hosts[0].vtep] {
        for forgery in forgeries_from_afar(&honest, &worker, &backend, network.vni, PORT) {
            let (before, seen) = (hosts[0].counters(), carrier.count(MARK));
            beside.vxlan(to, forgery.vni, &forgery.frame);
            assert_counted(&hosts[0], &before, forgery.reason, format!("{} by {to}", forgery.what));
            assert_eq!([carrier.count(MARK), other.count(MARK)], [seen, 0], "{} by {to} arrived", forgery.what);

            beside.vxlan(to, network.vni, &honest.frame());
            wait_until(format!("the twin of {}, WireGuard's ports and all, reaches it", forgery.what), || {
                carrier.count(MARK) == seen + 1
            });
        }
    }
    assert!(backend.pings(web.address()), "the members go on");
    assert_eq!(app.count(MARK), 0, "WireGuard, which has keys, lets none of them through");
    drop((carrier, other, app));
    lab.finish();
}

#[test]
fn a_forged_source_on_the_bridge_moves_no_member() {
    let Shop { lab, hosts, network, web, worker, backend } =
        Shop::open("a_forged_source_on_the_bridge_moves_no_member", &Options::bridge());
    let all_reach_web = || worker.pings(web.address()) && backend.pings(web.address());
    wait_until("web is reached", all_reach_web);
    hosts[0].wait_until_settled();
    let beside = Beside::of(&lab.container("beside-1").with_eth0(&hosts[0].space, 9));
    let forger = Forger::plug_in(&lab, &hosts[0]);
    let attackers: [(&str, Shot<'_>); 2] = [
        ("a container beside", &|inner| beside.vxlan(GATEWAY, network.vni, inner)),
        ("the underlay", &|inner| forger.vxlan(2, network.vni, inner)),
    ];
    // No agent repairs anything while the attack runs.
    hosts[0].stop();
    let (carrier, app) = (Sniffer::start(&worker.binding), Sniffer::start(&worker.app));
    let table = table_of(&web);
    // What goes to worker is seen to have passed the bridge, and with it whatever the bridge makes of its source.
    let arrives = |shoot: Shot<'_>, what: &str, inner: &[u8]| {
        let seen = carrier.count(MARK);
        shoot(inner);
        wait_until(format!("{what} passes the bridge"), || carrier.count(MARK) == seen + 1);
    };
    let as_web = datagram(&web, &worker);
    let arp_to = |to: [u8; 6]| {
        let answer = frame::arp(2, (NOBODYS_MAC, web.address()), worker.address());
        frame::ethernet(to, NOBODYS_MAC, frame::ARP, &[&answer, MARK].concat())
    };
    let forged = [
        ("a frame in the name of web", as_web.frame()),
        ("an ARP answer that says where web is", arp_to(worker.mac())),
        ("a frame of nobody", forge(&as_web, |f| f.source_mac = NOBODYS_MAC)),
        ("a frame in the name of backend", datagram(&backend, &worker).frame()),
    ];
    for (who, shoot) in attackers {
        for (what, inner) in &forged {
            arrives(shoot, &format!("{what}, by {who},"), inner);
            assert_eq!(table_of(&web), table, "{what}, by {who}");
            assert!(worker.pings(web.address()), "{what}, by {who}, moved web");
        }
    }
    say("to a MAC that nobody has, and to all: it goes to nobody");
    let seen = carrier.count(MARK);
    for to in [NOBODYS_MAC, frame::BROADCAST, [0x33, 0x33, 0, 0, 0, 1]] {
        for inner in [forge(&as_web, |f| f.destination_mac = to), arp_to(to)] {
            attackers.iter().for_each(|(_, shoot)| shoot(&inner));
        }
    }
    attackers.iter().for_each(|(_, shoot)| arrives(shoot, "the twin, by the same way,", &as_web.frame()));
    assert_eq!(carrier.count(MARK), seen + 2);
    assert_eq!(app.count(MARK), 0, "and WireGuard lets nothing through");

    say("the twin: a bridge that learns, as every bridge does unless told otherwise, believes one frame");
    web.network.run("bridge link set dev vxlan0 learning on");
    arrives(attackers[0].1, "the same frame", &as_web.frame());
    assert_ne!(table_of(&web), table);
    assert!(!worker.pings(web.address()), "web is behind vxlan0, where nobody is");
    hosts[0].start();
    wait_until("the agent tells the bridge again", all_reach_web);
    hosts[0].wait_until_settled();
    assert_eq!(table_of(&web), table);

    say("the twin: a carrier that asks by ARP, as every interface does unless told otherwise, believes one answer");
    hosts[0].stop();
    let neighbour = format!("{} dev {}", web.address(), worker.carrier());
    worker.binding.run(&format!("ip neighbour replace {neighbour} lladdr {} nud reachable", web.mac_text()));
    // Linux believes no other answer within a second of the last one.
    wait_until("worker believes it", || {
        attackers[0].1(&arp_to(worker.mac()));
        worker.binding.run(&format!("ip neighbour show {neighbour}")).contains("02:00:de:ad:be:ef")
    });
    assert!(!worker.pings(web.address()), "web is where nobody is");
    hosts[0].start();
    wait_until("the agent tells the carrier again", all_reach_web);
    drop((carrier, app));
    lab.finish();
}

/// Puts a frame into VXLAN, as an attacker does.
type Shot<'a> = &'a dyn Fn(&[u8]);

/// An ordinary UDP socket in a container that is no member of anything.
struct Beside {
    socket: UdpSocket,
}

impl Beside {
    fn of(container: &Container) -> Self {
        Self { socket: container.space.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a socket") }
    }

    fn vxlan(&self, to: Ipv4Addr, vni: u32, inner: &[u8]) {
        self.socket.send_to(&frame::vxlan(vni, inner), (to, VXLAN_PORT)).expect("eth0 takes it");
    }
}

/// What a member's bridge believes of the members, sorted.
fn table_of(member: &Joined) -> Vec<String> {
    let shown = member.network.run("bridge fdb show br br0");
    let mut rows: Vec<String> =
        shown.lines().filter(|row| row.starts_with("02:") && row.contains("master")).map(str::to_owned).collect();
    rows.sort();
    rows
}
