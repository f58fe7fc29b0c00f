//! A host's clock steps back: its members are made anew as peers, wherever they are peers, once, and no other member
//! is.
//!
//! ```text
//!  host 1: web-1, web-2                      host 2, whose clock steps back: worker-1, worker-2
//!  each has the three others as peers; those that are made anew are worker-1 and worker-2
//! ```
//!
//! This machine's clock is left alone: what a host's agent remembers of its clock is changed while it is away, as a step would
//! have changed the clock.

mod attacker;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use attacker::device_of;
use privnet::wireguard::PeerState;
use privnet_tests::lab::{Host, Joined, Lab, Options, say, wait_until, wait_within};

const SUBNET: &str = "10.90.0.0/24";
/// What everybody has had from everybody, in bytes: more than a handshake, keepalives and some pings.
const MUCH: u64 = 6000;
/// A packet that is lost, and a handshake that has to be tried again, cost 5 s each; an end that waits for what does not come
/// begins a session after 15 s.
const WITHOUT_WAITING: Duration = Duration::from_secs(14);

#[test]
fn a_clock_that_steps_back_costs_each_peer_of_that_host_one_handshake_and_nobody_else_anything() {
    let lab = Lab::new("a_clock_that_steps_back_costs_each_peer_of_that_host_one_handshake_and_nobody_else_anything");
    let hosts = lab.hosts(&[Options::ebpf(), Options::bridge()]);
    let network = hosts[0].network("shop", SUBNET);
    let members: Vec<(&Host, Joined)> = [(0, "web-1"), (0, "web-2"), (1, "worker-1"), (1, "worker-2")]
        .map(|(host, name)| (&hosts[host], lab.member(&hosts[host], &network, name)))
        .into();
    everybody_reaches_everybody(&members);

    say("the twin: a step ahead");
    let before = peers_of_all(&members);
    let truth = steps(&hosts[1], -10_000);
    wait_until("it is known", || remembered(&hosts[1]).abs_diff(truth) < 1000);
    hosts[1].wait_until_settled();
    made_anew(&before, &peers_of_all(&members), &[]);

    say("a step back");
    steps(&hosts[1], 10_000);
    wait_until("it is told", || hosts[1].status().is_ok_and(|status| status.clock_steps == 1));
    assert_eq!(hosts[0].status().expect("status").clock_steps, 0, "the other host's own clock did not step");
    let of_host_2 = [2, 3].map(|member: usize| members[member].1.address());
    wait_until("they are made anew", || forgotten(&peers_of_all(&members)) == 6);
    made_anew(&before, &peers_of_all(&members), &of_host_2);
    say("nobody on the other host has anything to say: its members begin the new sessions all the same");
    for (from, to) in [(2, 0), (3, 1), (2, 3)] {
        let (from, to) = (&members[from].1, &members[to].1);
        wait_within(format!("{} reaches {}", from.address(), to.address()), WITHOUT_WAITING, || {
            from.pings(to.address())
        });
    }
    everybody_reaches_everybody(&members);

    say("agents that start again have nothing to do");
    let before = peers_of_all(&members);
    for host in &hosts {
        host.stop();
        host.start();
    }
    for host in &hosts {
        wait_until("a pass has ended", || host.status().is_ok_and(|status| status.last_pass_unix_seconds.is_some()));
        host.wait_until_settled();
    }
    assert_eq!(hosts[1].status().expect("status").clock_steps, 1);
    made_anew(&before, &peers_of_all(&members), &[]);

    say("an agent that was away when it happened does it when it comes");
    hosts[0].stop();
    steps(&hosts[1], 10_000);
    wait_until("it is told", || hosts[1].status().is_ok_and(|status| status.clock_steps == 2));
    wait_until("they are made anew on their own host", || forgotten(&peers_of_all(&members)) == 2);
    hosts[0].start();
    wait_until("they are made anew on the other", || forgotten(&peers_of_all(&members)) == 6);
    made_anew(&before, &peers_of_all(&members), &of_host_2);
    everybody_reaches_everybody(&members);
    lab.finish();
}

/// Lets a host's clock step back by so much, as its agent sees it, and returns what that remembered before.
fn steps(host: &Host, back_millis: i64) -> i64 {
    host.stop();
    let before = remembered(host);
    let mut reading = reading(host);
    reading["ahead_millis"] = (before + back_millis).into();
    std::fs::write(file(host), reading.to_string()).expect("written");
    host.start();
    before
}

fn remembered(host: &Host) -> i64 {
    reading(host)["ahead_millis"].as_i64().expect("a number")
}

fn reading(host: &Host) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(file(host)).expect("what it remembers")).expect("JSON")
}

fn file(host: &Host) -> PathBuf {
    host.paths().state.join("clock.json")
}

fn everybody_reaches_everybody(members: &[(&Host, Joined)]) {
    for (_, from) in members {
        for (_, to) in members.iter().filter(|(_, to)| to.address() != from.address()) {
            wait_until(format!("{} reaches {}", from.address(), to.address()), || from.pings(to.address()));
            from.app.run(&format!("ping -q -n -c 5 -i 0.01 -s 1300 {}", to.address()));
        }
    }
}

/// Every peer of every member, by the addresses of both.
type Peers = BTreeMap<(Ipv4Addr, Ipv4Addr), PeerState>;

fn peers_of_all(members: &[(&Host, Joined)]) -> Peers {
    members.iter().flat_map(|(host, member)| peers_of(host, member)).collect()
}

fn peers_of(host: &Host, member: &Joined) -> Peers {
    let own = member.address();
    let (device, runtime) = device_of(host, member);
    let seen = runtime.block_on(device.observe()).expect("the device").expect("is there");
    let address = |peer: &PeerState| match peer.allowed_ips.first().expect("an address").addr() {
        std::net::IpAddr::V4(address) => address,
        std::net::IpAddr::V6(address) => panic!("{address}"),
    };
    seen.peers.into_values().map(|peer| ((own, address(&peer)), peer)).collect()
}

/// How many peers have counted less than [`MUCH`].
fn forgotten(peers: &Peers) -> usize {
    peers.values().filter(|peer| peer.rx_bytes < MUCH).count()
}

/// Exactly the peers with these addresses were made anew, and are as they were otherwise.
#[track_caller]
fn made_anew(before: &Peers, now: &Peers, expected: &[Ipv4Addr]) {
    for (id, peer) in before {
        let after = &now[id];
        assert_eq!((after.endpoint, &after.allowed_ips), (peer.endpoint, &peer.allowed_ips), "{id:?}");
        if expected.contains(&id.1) {
            assert!(peer.rx_bytes >= MUCH && after.rx_bytes < MUCH, "{id:?}: {after:?}");
        } else {
            assert!(after.rx_bytes >= peer.rx_bytes && after.last_handshake_age.is_some(), "{id:?}: {after:?}");
        }
    }
    assert_eq!(before.len(), now.len());
}
