//! The weak-host hole: `eth0` and `wg0` share the app netns, and Linux answers for every address on every interface.
//!
//! ```text
//!  attacker          docker0 (h1)         web (a member)               bare (the twin: same links, no guard)
//!  eth0 172.30.0.9 ──┬──────────────────▶ eth0 172.30.0.2   guard      eth0 172.30.0.3
//!                    │                    wg0  10.90.0.x               wg0  10.90.0.250 (a tunnel device by hand)
//!                    └── "10.90.0.x is behind 172.30.0.2"
//! ```

use std::net::{Ipv4Addr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use privnet::datapath::DropReason;
use privnet_tests::lab::frame;
use privnet_tests::lab::probe::{Server, ask_tcp, ask_udp};
use privnet_tests::lab::wait::holds_within;
use privnet_tests::lab::{Container, FOR_NOTHING, Lab, Options, SOON, Sniffer, Space, say, send_frame, wait_until};

const SUBNET: &str = "10.90.0.0/24";
const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_millis(250);
const ATTACKER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 9);
/// The private address of the twin: another than any member's, for both answer on the same bridge.
const BARE: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 250);
const CANARY: &[u8] = b"canary-77ab-private-in-the-clear";

/// What an attacker on the container's own bridge got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Got {
    udp: bool,
    tcp: bool,
    icmp: bool,
    arp: bool,
    forged_source: bool,
}

const NOTHING: Got = Got { udp: false, tcp: false, icmp: false, arp: false, forged_source: false };
const EVERYTHING: Got = Got { udp: true, tcp: true, icmp: true, arp: true, forged_source: true };

#[test]
fn a_neighbour_on_the_bridge_cannot_reach_the_private_address_through_eth0() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("a_neighbour_on_the_bridge_cannot_reach_the_private_address_through_eth0");
        let host = lab.host(&options);
        let attacker = lab.container("attacker-1").with_eth0(&host.space, 9);
        let network = host.network("shop", SUBNET);
        let web = host.join(&network, &lab.container("web-1").with_eth0(&host.space, 2));
        let worker = lab.member(&host, &network, "worker-1");
        wait_until("web reaches worker", || web.pings(worker.address()));
        let bare = lab.container("bare-1").with_eth0(&host.space, 3);
        bare.space.run("ip tuntap add dev wg0 mode tun");
        bare.space.run(&format!("ip address add {BARE}/24 dev wg0"));
        bare.space.run("ip link set wg0 up");
        let peer = worker.address();
        let victim = |space: &Space, last, private| Victim {
            space: space.clone(),
            last,
            private,
            peer,
            server: Server::echo(space, PORT),
        };
        let (on_web, on_bare) = (victim(&web.app, 2, web.address()), victim(&bare.space, 3, BARE));

        for rp_filter in [0, 1, 2] {
            for space in [&web.app, &bare.space] {
                space.sysctl("net.ipv4.conf.all.rp_filter", &rp_filter.to_string());
                space.sysctl("net.ipv4.conf.eth0.rp_filter", &rp_filter.to_string());
            }
            let strict = Got { forged_source: rp_filter != 1, ..EVERYTHING };
            wait_until(format!("the twin without guard gets all of it, rp_filter {rp_filter}"), || {
                on_bare.attacked_by(&attacker) == strict
            });
            let before = host.counters();
            assert_eq!(on_web.attacked_by(&attacker), NOTHING, "rp_filter {rp_filter}");
            let drops = host.counters().drops_since(&before);
            for reason in [DropReason::GuardSource, DropReason::GuardDestination, DropReason::GuardArp] {
                assert!(drops.contains_key(&reason), "{reason:?} is counted: {drops:?}");
            }
        }
        // What is not private is left alone: the containers' own addresses answer as before.
        for last in [2, 3] {
            let address = (Ipv4Addr::new(172, 30, 0, last), PORT);
            assert!(ask_udp(&attacker.space, address, b"hello", SOON).is_ok());
            assert!(ask_tcp(&attacker.space, address, b"hello", SOON).is_ok());
        }
        assert!(web.pings(worker.address()));
        lab.finish();
    }
}

#[test]
fn the_guard_stands_on_interfaces_that_appear_later_and_stands_again_when_it_was_removed() {
    let lab = Lab::new("the_guard_stands_on_interfaces_that_appear_later_and_stands_again_when_it_was_removed");
    let host = lab.host(&Options::ebpf());
    let attacker = lab.container("attacker-1").with_eth0(&host.space, 9);
    let network = host.network("shop", SUBNET);
    let container = lab.container("web-1");
    let web = host.join(&network, &container);
    let _server = Server::echo(&web.app, PORT);

    say("eth0 appears while its container is a member");
    let _container = container.with_eth0(&host.space, 2);
    attacker.space.run(&format!("ip route replace {} via 172.30.0.2", web.address()));
    let reached = || ask_udp(&attacker.space, (web.address(), PORT), b"x", PATIENCE).is_ok();
    let is_guarded = || web.app.run("tc filter show dev eth0 ingress").contains("guard");
    wait_until("the new interface is guarded", is_guarded);
    for _ in 0..5 {
        assert!(!reached(), "and stays so");
    }

    say("the customer's root removes the guard while the agent is away, and it comes back with the agent");
    host.stop();
    web.app.run("tc qdisc delete dev eth0 clsact");
    assert!(holds_within(SOON, reached), "the twin: without guard the same probe is answered");
    host.start();
    wait_until("the guard is back", is_guarded);
    assert!(!reached());
    lab.finish();
}

#[test]
fn private_traffic_never_leaves_through_eth0_when_wg0_is_down() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("private_traffic_never_leaves_through_eth0_when_wg0_is_down");
        let host = lab.host(&options);
        let network = host.network("shop", SUBNET);
        let web = host.join(&network, &lab.container("web-1").with_eth0(&host.space, 2));
        let worker = lab.member(&host, &network, "worker-1");
        wait_until("web reaches worker", || web.pings(worker.address()));
        let bare = lab.container("bare-1").with_eth0(&host.space, 3);
        // No agent repairs anything while the wire is watched.
        host.stop();
        let bridge = Sniffer::start(&host.space);

        say("the twin: a container without backstop and guard sends private traffic to its default route");
        shout(&bare.space, worker.address()).expect("eth0 takes it");
        wait_until("the bridge shows the twin's canary", || bridge.count(CANARY) > 0);
        drop(bridge);

        let bridge = Sniffer::start(&host.space);
        for (what, command) in
            [("wg0 is down", "ip link set wg0 down".to_owned()), ("wg0 is gone", "ip link delete wg0".to_owned())]
        {
            say(what);
            web.app.run(&command);
            let error = shout(&web.app, worker.address()).expect_err("the backstop refuses");
            assert!([101, 113].contains(&error.raw_os_error().unwrap_or_default()), "{what}: {error}");
        }
        say("even the backstop is gone: guard is the last lock");
        web.app.run(&format!("ip route delete unreachable {SUBNET} metric 4294967295"));
        let _ = shout(&web.app, worker.address());
        sleep(FOR_NOTHING);
        assert_eq!(bridge.count(CANARY), 0, "private traffic on the container's bridge");

        host.start();
        wait_until("the agent repaired all of it", || web.pings(worker.address()));
        lab.finish();
    }
}

#[test]
fn a_more_specific_route_through_eth0_carries_no_private_traffic() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("a_more_specific_route_through_eth0_carries_no_private_traffic");
        let host = lab.host(&options);
        let network = host.network("shop", SUBNET);
        let web = host.join(&network, &lab.container("web-1").with_eth0(&host.space, 2));
        let worker = lab.member(&host, &network, "worker-1");
        let bare = lab.container("bare-1").with_eth0(&host.space, 3);
        wait_until("web reaches worker", || web.pings(worker.address()));
        let bridge = Sniffer::start(&host.space);
        let (private, public) = (worker.address(), Ipv4Addr::new(198, 51, 100, 7));
        let add = |space: &Space, to: Ipv4Addr| space.run(&format!("ip route add {to}/32 via 172.30.0.1 dev eth0"));

        say("the twin: option 121 of DHCP gives a container without guard this route, and it leaks");
        add(&bare.space, private);
        shout(&bare.space, private).expect("eth0 takes it");
        wait_until("the bridge shows the twin's canary", || bridge.count(CANARY) > 0);
        drop(bridge);

        let bridge = Sniffer::start(&host.space);
        for to in [private, public] {
            add(&web.app, to);
        }
        let own = web.address();
        let as_connected = web.app.inside(move || UdpSocket::bind((own, 0))).expect("the member's address");
        for reason in [DropReason::GuardDestination, DropReason::GuardSource] {
            let before = host.counters();
            // A connection that was there before the route has the member's own address, a new one eth0's.
            let is_connected = reason == DropReason::GuardSource;
            let sent =
                if is_connected { as_connected.send_to(CANARY, (private, PORT)) } else { shout(&web.app, private) };
            assert!(sent.is_ok(), "wg0 is up, and the route says eth0: {sent:?}");
            wait_until(format!("{reason:?} is counted"), || !host.counters().drops_since(&before).is_empty());
            let expected = std::collections::BTreeMap::from([(reason, 1)]);
            assert_eq!(host.counters().drops_since(&before), expected);
        }
        assert_eq!(bridge.count(CANARY), 0, "private traffic on the container's bridge");
        say("the twin: by the same way to an address that is nobody's business");
        shout(&web.app, public).expect("eth0 takes it");
        wait_until("the same sniffer sees it", || bridge.count(CANARY) > 0);

        web.app.run(&format!("ip route delete {private}/32 via 172.30.0.1 dev eth0"));
        assert!(web.pings(worker.address()), "and without the route all is as it was");
        drop(bridge);
        lab.finish();
    }
}

/// A container with a server, which the attacker reaches by the bridge.
struct Victim {
    space: Space,
    /// The last byte of the address of its `eth0`, 172.30.0.`last`.
    last: u8,
    /// Its private address.
    private: Ipv4Addr,
    /// A private peer that the attacker claims to be.
    peer: Ipv4Addr,
    server: Server,
}

impl Victim {
    /// Attacks its private address.
    fn attacked_by(&self, attacker: &Container) -> Got {
        let private = self.private;
        attacker.space.run(&format!("ip route replace {private} via {}", self.outside()));
        attacker.space.run("ip neighbour flush all");
        let udp = ask_udp(&attacker.space, (private, PORT), b"weak host", PATIENCE).is_ok();
        let tcp = ask_tcp(&attacker.space, (private, PORT), b"weak host", PATIENCE).is_ok();
        let icmp = attacker.space.succeeds(&format!("ping -q -n -c 1 -W 1 {private}"));
        let arp = is_answered_by_arp(attacker, private);
        Got { udp, tcp, icmp, arp, forged_source: self.hears_forged(attacker) }
    }

    /// Whether it receives a datagram that claims to come from a private peer, sent to its address on the bridge.
    fn hears_forged(&self, attacker: &Container) -> bool {
        use std::sync::atomic::{AtomicU32, Ordering};
        static SENT: AtomicU32 = AtomicU32::new(0);
        let payload = format!("forged {}", SENT.fetch_add(1, Ordering::Relaxed)).into_bytes();
        let datagram = frame::Datagram {
            source_mac: attacker.space.mac("eth0"),
            destination_mac: self.space.mac("eth0"),
            source: self.peer,
            destination: self.outside(),
            source_port: 5000,
            destination_port: PORT,
            fragment: 0,
            payload: payload.clone(),
        };
        send_frame(&attacker.space, "eth0", &datagram.frame());
        holds_within(PATIENCE, || self.server.heard(&payload))
    }

    /// Its address on the bridge.
    fn outside(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, self.last)
    }
}

fn is_answered_by_arp(attacker: &Container, private: Ipv4Addr) -> bool {
    let wire = Sniffer::start(&attacker.space);
    let own = attacker.space.mac("eth0");
    let request = frame::arp(1, (own, ATTACKER), private);
    send_frame(&attacker.space, "eth0", &frame::ethernet(frame::BROADCAST, own, frame::ARP, &request));
    // An answer is operation 2, and its sender is the address that was asked for.
    let is_answer = |bytes: &[u8]| bytes.len() >= 32 && bytes[20..22] == [0, 2] && bytes[28..32] == private.octets();
    holds_within(PATIENCE, || wire.seen().iter().any(|seen| !seen.outgoing && is_answer(&seen.bytes)))
}

/// Sends the canary to a private address, whatever becomes of it.
fn shout(space: &Space, to: Ipv4Addr) -> std::io::Result<usize> {
    let socket = space.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    socket.send_to(CANARY, (to, PORT))
}
