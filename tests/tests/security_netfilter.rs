//! Netfilter beside a network: the rules of an administrator stay as they are, and the host tracks no connection of ours.
//!
//! ```text
//!  web ── wg0 ── carrier ── wg0 ── worker        h1: an administrator's rules, and connection tracking as Docker turns it on
//! ```

use privnet_tests::lab::probe::{Server, ask_tcp, ask_udp};
use privnet_tests::lab::wait::holds_within;
use privnet_tests::lab::{Joined, Lab, Options, SOON, Space, say, skip, wait_until};

const SUBNET: &str = "10.90.0.0/24";
const PORT: u16 = 7000;
/// An administrator's rule, for there to be something that could change.
const A_RULE: &str = "iptables -A FORWARD -s 192.0.2.0/24 -j DROP";
/// A rule that has its namespace track connections.
const TRACKING: &str = "iptables -A OUTPUT -m conntrack --ctstate NEW,ESTABLISHED";
const TRACKED: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

#[test]
fn attaching_and_detaching_change_no_ruleset() {
    const TEST: &str = "attaching_and_detaching_change_no_ruleset";
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new(TEST);
        let host = lab.host(&options);
        let container = lab.container("web-1").with_eth0(&host.space, 2);
        if !host.space.succeeds(A_RULE) {
            lab.finish();
            return skip("iptables");
        }
        container.space.run("iptables -t mangle -A OUTPUT -d 192.0.2.0/24 -j MARK --set-mark 7");
        let rules = || [&host.space, &container.space].map(rulesets);
        let before = rules();
        assert!(before.iter().flatten().any(|line| line.contains("192.0.2.0/24")), "{before:?}");

        let network = host.network("shop", SUBNET);
        let web = host.join(&network, &container);
        let worker = lab.member(&host, &network, "worker-1");
        talk(&web, &worker);
        assert_eq!(rules(), before, "after attach");
        for space in [&web.binding, &web.network] {
            assert_eq!(rulesets(space).into_iter().find(|line| is_rule(line)), None, "of ours in {}", space.pin());
        }
        assert!(host.detach(&network, &container).expect("detach").detached);
        assert_eq!(rules(), before, "after detach");
        host.space.run(A_RULE);
        assert_ne!(rules(), before, "the twin: a rule that is added is seen");
        lab.finish();
    }
}

#[test]
fn no_connection_of_a_network_is_tracked() {
    const TEST: &str = "no_connection_of_a_network_is_tracked";
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new(TEST);
        let host = lab.host(&options);
        let missing = [(A_RULE, "iptables"), (TRACKING, "connection tracking")];
        if let Some((_, missing)) = missing.iter().find(|(rule, _)| !host.space.succeeds(rule)) {
            lab.finish();
            return skip(missing);
        }
        let network = host.network("shop", SUBNET);
        let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));
        talk(&web, &worker);
        for space in [&web.app, &web.binding, &web.network, &worker.app, &worker.binding, &host.space] {
            assert_eq!(tracked(space), 0, "connections are tracked in {}", space.pin());
        }

        say("the twin: a flow of the host's own is tracked in the same namespace");
        let _server = Server::echo(&host.space, PORT);
        ask_udp(&host.space, (std::net::Ipv4Addr::LOCALHOST, PORT), b"udp", SOON).expect("an answer");
        assert!(holds_within(SOON, || tracked(&host.space) > 0), "or this test shows nothing");
        lab.finish();
    }
}

/// Has two members speak by UDP and TCP.
fn talk(web: &Joined, worker: &Joined) {
    wait_until("web reaches worker", || web.pings(worker.address()));
    let _server = Server::echo(&worker.app, PORT);
    ask_udp(&web.app, (worker.address(), PORT), b"udp", SOON).expect("an answer by UDP");
    ask_tcp(&web.app, (worker.address(), PORT), b"tcp", SOON).expect("an answer by TCP");
}

/// How many connections a namespace tracks. That it cannot be read is no zero.
fn tracked(space: &Space) -> u64 {
    let count = space.run(&format!("cat {TRACKED}"));
    count.trim().parse().unwrap_or_else(|error| panic!("{count:?} of {}: {error}", space.pin()))
}

/// The rules in a namespace, without counters and comments: of iptables, and of nftables where its tool is there.
fn rulesets(space: &Space) -> Vec<String> {
    let mut all = ["iptables-save", "ip6tables-save"].map(|command| space.run(command)).concat();
    // Also where iptables writes to nftables: that shows its own tables, this one everybody's.
    if space.succeeds("which nft") {
        all += &space.run("nft --stateless list ruleset");
    }
    let lines = all.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or(line).to_owned()).collect()
}

/// Whether a line is a rule, and no table, chain or end of one.
fn is_rule(line: &str) -> bool {
    let line = line.trim();
    let is_frame = ["*", ":", "COMMIT", "table ", "chain ", "type ", "}"].iter().any(|start| line.starts_with(start));
    !line.is_empty() && !is_frame
}
