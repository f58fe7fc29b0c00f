//! Attackers with root and `CAP_NET_ADMIN` in a member's container, or in the binding netns where they should never be.
//!
//! ```text
//!  thief ── wg0 ─┐            ┌─ wg0 ── victim           thief: takes victim's address, or speaks to the addresses
//!                ├─ carrier ──┤                          that a common neighbour has in other networks
//!  witness ─ wg0 ┘            └─ wg0, wg1 ── both
//! ```

mod attacker;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use attacker::device_of;
use privnet::datapath;
use privnet::model::PublicKey;
use privnet::topology::ownership;
use privnet::wireguard::{Peer, PeerChange};
use privnet_ebpf::abi::ABI_VERSION;
use privnet_tests::lab::probe::{PATIENCE, Server, ask_udp, reaches};
use privnet_tests::lab::wait::holds_within;
use privnet_tests::lab::{FOR_NOTHING, Host, Joined, Lab, Options, SOON, Space, say, wait_until};

const SUBNET: &str = "10.90.0.0/24";
const OTHER_SUBNET: &str = "10.91.0.0/24";
const PORT: u16 = 7000;

#[test]
fn a_member_that_takes_anothers_address_is_heard_by_nobody() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("a_member_that_takes_anothers_address_is_heard_by_nobody");
        let host = lab.host(&options);
        let network = host.network("shop", SUBNET);
        let [thief, victim, witness] =
            ["thief-1", "victim-1", "witness-1"].map(|name| lab.member(&host, &network, name));
        wait_until("thief reaches witness", || thief.pings(witness.address()));
        let server = Server::echo(&witness.app, PORT);
        let say_as = |address: Ipv4Addr, what: &'static [u8]| {
            let socket = thief.app.inside(move || UdpSocket::bind((address, 0))).expect("an address that it has");
            socket.send_to(what, SocketAddrV4::new(witness.address(), PORT)).expect("wg0 takes it");
        };
        thief.app.run(&format!("ip address add {}/32 dev wg0", victim.address()));
        say_as(thief.address(), b"as myself");
        wait_until("the twin is heard", || server.heard(b"as myself"));
        for _ in 0..20 {
            say_as(victim.address(), b"as another");
        }
        say_as(thief.address(), b"and again as myself");
        wait_until("the twin is heard after it", || server.heard(b"and again as myself"));
        assert!(!server.heard(b"as another"), "the key has one address, and this is not it");
        assert!(reaches(&victim.app, (witness.address(), PORT)), "whose address it is has it still");
        lab.finish();
    }
}

#[test]
fn each_peer_has_exactly_its_own_address() {
    let lab = Lab::new("each_peer_has_exactly_its_own_address");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let members: Vec<Joined> =
        ["web-1", "web-2", "web-3", "web-4"].iter().map(|name| lab.member(&host, &network, name)).collect();
    let views = host.members().expect("members");
    for member in &members {
        let (device, runtime) = device_of(&host, member);
        wait_until("all peers are there", || {
            let state = runtime.block_on(device.observe()).expect("the device").expect("there");
            state.peers.len() == members.len() - 1
        });
        let state = runtime.block_on(device.observe()).expect("the device").expect("there");
        for (key, peer) in &state.peers {
            let whose = views.iter().find(|view| view.public_key == *key).expect("a member's key");
            let allowed: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
            assert_eq!(allowed, [format!("{}/32", whose.member.address)], "{}", whose.member.hostname);
        }
        assert!(state.public_key.is_some_and(|own| !state.peers.contains_key(&own)), "nobody is its own peer");
    }
    let keys: std::collections::BTreeSet<_> = views.iter().map(|view| view.public_key).collect();
    assert_eq!(keys.len(), members.len(), "no two members share a key");
    lab.finish();
}

#[test]
fn an_address_of_one_network_answers_nobody_of_another() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("an_address_of_one_network_answers_nobody_of_another");
        let host = lab.host(&options);
        let (blue, red) = (host.network("blue", SUBNET), host.network("red", OTHER_SUBNET));
        let container = lab.container("both-1");
        let (in_blue, in_red) = (host.join(&blue, &container), host.join(&red, &container));
        let thief = lab.member(&host, &red, "thief-1");
        let friend = lab.member(&host, &blue, "friend-1");
        let _server = Server::echo_at(&container.space, in_blue.address(), PORT);
        wait_until("thief reaches both in red", || thief.pings(in_red.address()));
        wait_until("friend reaches both in blue", || friend.pings(in_blue.address()));
        host.wait_until_settled();
        // No agent repairs anything while the attack runs.
        host.stop();

        say("the thief's own device holds that its neighbour in red has the address that it has in blue");
        let (device, runtime) = device_of(&host, &thief);
        let peers = runtime.block_on(device.observe()).expect("the device").expect("there").peers;
        let (key, _) = peers.iter().next().expect("its one peer");
        let endpoint = SocketAddrV4::new(in_red.address(), in_red.port());
        let moved = Peer { public_key: *key, endpoint, allowed_ip: in_blue.address() };
        let change = PeerChange { set: vec![moved], remove: vec![*key] };
        runtime.block_on(device.change_peers(&change)).expect("the thief's own business");
        drop((device, runtime));
        thief.app.run(&format!("ip route add {} dev wg0", in_blue.address()));
        let reached = |patience| ask_udp(&thief.app, (in_blue.address(), PORT), b"across", patience).is_ok();
        for _ in 0..5 {
            assert!(!reached(FOR_NOTHING), "a member of red reached an address of blue");
        }
        assert!(reaches_udp(&friend.app, in_blue.address()), "the twin in blue");

        say("the twin without guard: Linux answers on any of its addresses");
        container.space.run(&format!("tc qdisc delete dev {} clsact", in_red.attached.interface));
        assert!(holds_within(SOON, || reached(PATIENCE)));

        host.start();
        let filters = format!("tc filter show dev {} ingress", in_red.attached.interface);
        wait_until("the agent puts guard back", || container.space.run(&filters).contains("guard"));
        assert!(!reached(FOR_NOTHING));
        lab.finish();
    }
}

#[test]
fn a_members_interface_has_no_ipv6() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("a_members_interface_has_no_ipv6");
        let host = lab.host(&options);
        let network = host.network("shop", SUBNET);
        let container = lab.container("web-1").with_eth0(&host.space, 2);
        let web = host.join(&network, &container);
        let worker = lab.member(&host, &network, "worker-1");
        wait_until("web reaches worker", || web.pings(worker.address()));
        assert_ne!(
            web.app.run("ip -6 -o address show dev eth0 scope link"),
            "",
            "the twin: what is not ours has its own"
        );
        assert_eq!(web.app.run("ip -6 -o address show dev wg0"), "");
        assert_eq!(web.app.run("sysctl -n net.ipv6.conf.wg0.disable_ipv6").trim(), "1");
        for (space, own) in [(&web.binding, web.carrier()), (&web.network, web.port_veth())] {
            assert!(space.links().contains(&own));
            assert_eq!(space.run("ip -6 -o address show scope link"), "", "in {}", space.pin());
        }
        let all_nodes = web.app.attempt("ping -6 -n -c 1 -W 1 -I wg0 ff02::1");
        assert!(!all_nodes.status.success(), "all neighbours on the link were asked");
        lab.finish();
    }
}

fn reaches_udp(space: &Space, address: Ipv4Addr) -> bool {
    match ask_udp(space, (address, PORT), b"twin", SOON) {
        Ok(answer) => answer == b"twin",
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::ConnectionRefused);
            false
        }
    }
}

/// A copy of the key of a member that left opens nothing.
#[test]
fn a_member_that_left_is_no_peer_of_anybody_and_nowhere_in_the_programs() {
    let lab = Lab::new("a_member_that_left_is_no_peer_of_anybody_and_nowhere_in_the_programs");
    let hosts = lab.hosts(&[Options::ebpf(), Options::ebpf()]);
    let network = hosts[0].network("shop", SUBNET);
    let [web, thief] = ["web-1", "thief-1"].map(|name| lab.member(&hosts[0], &network, name));
    let backend = lab.member(&hosts[1], &network, "backend-1");
    let key =
        hosts[0].members().expect("members").into_iter().find(|m| m.member.address == thief.address()).expect("thief");
    let key: PublicKey = key.public_key;
    let known = |host: &Host, member: &Joined| {
        let (device, runtime) = device_of(host, member);
        let peers = runtime.block_on(device.observe()).expect("the device").expect("there").peers;
        let paths = host.paths();
        let pins = ownership::network_netns(&paths.prefix, network.id);
        let pins = paths.bpffs.join("privnet").join(format!("v{ABI_VERSION}")).join(pins);
        let programs = datapath::Network::adopt(&pins).expect("readable").expect("there");
        (peers.contains_key(&key), programs.members().expect("rows").contains_key(&thief.address()))
    };
    for (host, member) in [(&hosts[0], &web), (&hosts[1], &backend)] {
        wait_until("the thief is known", || known(host, member) == (true, true));
    }
    assert!(hosts[0].detach(&network, &thief.container).expect("detach").detached);
    for (host, member) in [(&hosts[0], &web), (&hosts[1], &backend)] {
        wait_until("nobody knows the thief", || known(host, member) == (false, false));
    }
    assert!(holds_within(SOON, || web.pings(backend.address())), "the twin");
    lab.finish();
}
