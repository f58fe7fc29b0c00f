//! Whatever the kernel holds of a healthy member is made again when a stranger removes or changes it.
//!
//! ```text
//!  app netns              binding netns         network netns          host h1           host h2
//! ┌────────────────┐     ┌────────────────┐    ┌──────────────────┐    ┌──────┐  192.  ┌─────────┐
//! │ wg0, lo, eth0  │~~~~~│ vxlan-1-veth0 ═╪════╪═ veth-<n> vxlan0 ╪════╪══════╪════════╪═ backend │
//! └────────────────┘     └────────────────┘    └──────────────────┘    └──────┘ 168.77 └─────────┘
//!   ▲ in each: links, addresses, routes of all tables, neighbours, forwarding entries, filters, settings, as the kernel
//!     lists them; each is removed, and has to come back, with the traffic
//! ```

#[path = "kernel/mod.rs"]
mod kernel;

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use kernel::{Removal, announced, listed, quiet, rounds, unpinned, wait_until_watched};
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{Host, Joined, Lab, Options, Sniffer, say, wait_until};

const SUBNET: &str = "10.90.0.0/24";
const PORT: u16 = 7000;
/// How often an agent looks whose kernel tells it nothing.
const OBSERVED: Duration = Duration::from_millis(300);
/// What a flood of events may cost the agent.
const MOST_KIB: u64 = 8 << 10;

/// Two hosts with a member each; the first member has an `eth0`, and strangers' objects beside what is privnet's.
struct Stage {
    lab: Lab,
    hosts: Vec<Host>,
    web: Joined,
    backend: Joined,
}

impl Stage {
    fn set(name: &str, options: &Options) -> Self {
        let lab = Lab::new(name);
        let hosts = lab.hosts(&[options.clone(), options.clone()]);
        let network = hosts[0].network("shop", SUBNET);
        let container = lab.container("web-1").with_eth0(&hosts[0].space, 9);
        let web = hosts[0].join(&network, &container);
        let backend = lab.member(&hosts[1], &network, "backend-1");
        for space in [&web.app, &web.binding, &web.network] {
            space.run("ip link add s0 type veth peer name s1");
            space.run("ip address add 203.0.113.5/24 dev s0");
            space.run("ip link set s0 up");
            space.run("ip link set s1 up");
            space.run("ip route add 198.51.100.0/24 via 203.0.113.1");
            space.run("ip route add 10.90.0.128/25 via 203.0.113.1 table 100");
        }
        // Nothing relies on these, so they are a stranger's to set.
        for space in [&web.binding, &web.network] {
            for setting in ["rp_filter", "proxy_arp", "arp_ignore"] {
                space.sysctl(&format!("net.ipv4.conf.all.{setting}"), "1");
            }
        }
        wait_until("web reaches backend", || web.pings(backend.address()));
        hosts.iter().for_each(|host| host.wait_until_settled());
        Self { lab, hosts, web, backend }
    }

    /// Removes things, and waits until they and the traffic are back.
    fn remove(&self, round: &[&Removal], whole: &BTreeSet<String>) {
        round.iter().for_each(|removal| removal.carry_out());
        let mut missing = BTreeSet::new();
        wait_until(format!("the repair after {round:?}"), || {
            let now = listed(&self.hosts[0], &self.web);
            let differs: BTreeSet<String> = now.symmetric_difference(whole).cloned().collect();
            if differs != missing {
                differs.iter().for_each(|line| say(&format!("    differs: {line}")));
                missing = differs;
            }
            missing.is_empty() && self.web.pings(self.backend.address())
        });
        self.hosts[0].wait_until_settled();
    }

    fn finish(self) {
        for space in [&self.web.app, &self.web.binding, &self.web.network] {
            space.run("ip link delete s0");
        }
        self.lab.finish();
    }
}

#[test]
fn what_the_kernel_announces_is_made_again_without_a_periodic_observation() {
    for options in [Options::ebpf(), Options::bridge()] {
        let stage = Stage::set(
            "what_the_kernel_announces_is_made_again_without_a_periodic_observation",
            &options.clone().without_periodic_observation(),
        );
        wait_until_watched(&stage.web);
        let whole = listed(&stage.hosts[0], &stage.web);
        let removals = announced(&stage.hosts[0], &stage.web);
        assert!(removals.len() > 20, "too little was found: {removals:?}");
        for round in rounds(&removals) {
            stage.remove(&round, &whole);
        }
        stage.finish();
    }
}

#[test]
fn what_the_kernel_does_not_announce_is_made_again_by_the_next_observation() {
    for options in [Options::ebpf(), Options::bridge()] {
        let options = Options { observe_interval: Some(OBSERVED), ..options };
        let stage = Stage::set("what_the_kernel_does_not_announce_is_made_again_by_the_next_observation", &options);
        let whole = listed(&stage.hosts[0], &stage.web);
        let removals = quiet(&stage.hosts[0], &stage.web);
        assert!(removals.len() >= 5, "too little was found: {removals:?}");
        for round in rounds(&removals) {
            stage.remove(&round, &whole);
            wait_until(format!("{round:?} is possible again"), || {
                let left: Vec<String> = quiet(&stage.hosts[0], &stage.web).iter().map(ToString::to_string).collect();
                round.iter().all(|removal| left.contains(&removal.to_string()))
            });
        }
        // With the kernel's WireGuard they hold the app netns, and the leak check would find that.
        drop(removals);
        stage.finish();
    }
}

#[test]
fn a_pin_that_is_removed_is_made_again_and_costs_no_datagram() {
    let options = Options { observe_interval: Some(OBSERVED), ..Options::ebpf() };
    let stage = Stage::set("a_pin_that_is_removed_is_made_again_and_costs_no_datagram", &options);
    let _server = Server::echo(&stage.backend.app, PORT);
    let pace = Duration::from_millis(if privnet_tests::is_emulated() { 20 } else { 2 });
    let stream = Stream::start(&stage.web.app, (stage.backend.address(), PORT), pace);
    wait_until("the stream flows", || stream.answered() > 100);
    let whole = listed(&stage.hosts[0], &stage.web);
    let removals = unpinned(&stage.hosts[0], &stage.web);
    assert!(removals.len() >= 9, "five maps and four programs: {removals:?}");
    for round in rounds(&removals) {
        stage.remove(&round, &whole);
    }
    let answered = stream.answered();
    wait_until("the stream flows on", || stream.answered() > answered + 100);
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} were lost: {lost:?}", lost.len());
    let _ = stage.hosts[0].programs();
    stage.finish();
}

#[test]
fn what_a_containers_rules_and_routes_lead_past_its_network_is_named_and_leaves_nowhere() {
    let lab = Lab::new("what_a_containers_rules_and_routes_lead_past_its_network_is_named_and_leaves_nowhere");
    let host = lab.host(&Options::ebpf().without_periodic_observation());
    let network = host.network("shop", SUBNET);
    let web = host.join(&network, &lab.container("web-1").with_eth0(&host.space, 9));
    let worker = lab.member(&host, &network, "worker-1");
    wait_until("web reaches worker", || web.pings(worker.address()));
    wait_until_watched(&web);
    host.wait_until_settled();
    let outside = Sniffer::start(&host.space);
    let is_named = |why: &str| {
        let problems = host.status().expect("status").problems;
        problems.iter().any(|problem| problem.contains(&web.address().to_string()) && problem.contains(why))
    };
    web.app.run("ip route add default via 172.30.0.1 table 100");
    for (kind, change, what, why) in [
        ("rule", "add", "to 10.90.0.0/24 lookup 100", "the rules of the container"),
        ("rule", "add", "to 10.90.0.0/24 unreachable", "the rules of the container"),
        ("route", "prepend", "10.90.0.0/24 dev eth0", "overlaps"),
        ("route", "add", "10.90.0.0/25 via 172.30.0.1", "overlaps"),
        ("route", "replace", "10.90.0.0/24 dev eth0", "overlaps"),
    ] {
        web.app.run(&format!("ip {kind} {change} {what}"));
        wait_until("status names the member", || is_named(why));
        assert!(!web.pings(worker.address()));
        assert_eq!(outside.count(&worker.address().octets()), 0, "what is private left by eth0");
        web.app.run(&format!("ip {kind} delete {what}"));
        wait_until("and forgets it", || !is_named(why) && web.pings(worker.address()));
        host.wait_until_settled();
    }
    // The twin: a rule that leads elsewhere what is for elsewhere.
    web.app.run("ip rule add to 198.51.100.0/24 lookup 100");
    let elsewhere = Ipv4Addr::new(198, 51, 100, 1);
    assert!(!web.pings(elsewhere));
    wait_until("what is not private leaves by eth0", || outside.count(&elsewhere.octets()) > 0);
    assert!(web.pings(worker.address()));
    host.wait_until_settled();
    lab.finish();
}

#[test]
fn a_container_that_changes_what_is_privnets_all_the_time_stands_in_nobodys_way() {
    let lab = Lab::new("a_container_that_changes_what_is_privnets_all_the_time_stands_in_nobodys_way");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));
    wait_until("web reaches worker", || web.pings(worker.address()));
    let pid = host.pid();
    let status = |field: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent's status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().expect("a number")
    };
    // The peak becomes what is resident now.
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the agent's peak is forgotten");
    let before = status("VmRSS:");
    let pair = ["route add 198.51.100.1 dev wg0", "route del 198.51.100.1 dev wg0"].map(str::to_owned);
    let changes: Vec<String> = pair.into_iter().cycle().take(privnet_tests::repeats(100_000) as usize).collect();
    let _ = web.app.batch("ip", &changes);
    wait_until("the agent has heard of it", || web.pings(worker.address()));
    let grown = status("VmHWM:").saturating_sub(before);
    say(&format!("{} changes cost the agent {grown} KiB of {before}", changes.len()));
    assert!(grown < MOST_KIB, "{grown} KiB");
    // Thousands of changes a second, of privnet's own routes and of others, as a busy routing daemon makes.
    let script = "while :; do for n in $(seq 100); do \
        echo \"route del 10.90.0.0/24 dev wg0\"; echo \"route add 198.51.100.$n dev wg0\"; \
        echo \"route del 198.51.100.$n dev wg0\"; done | ip -force -batch - 2>/dev/null; done";
    let mut flood = std::process::Command::new("nsenter")
        .args([&format!("--net={}", web.app.path().display()), "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("nsenter starts");
    for name in ["other-1", "other-2", "other-3"] {
        let other = lab.member(&host, &network, name);
        wait_until("another member is reached meanwhile", || worker.pings(other.address()));
        worker.app.run("ip route del 10.90.0.0/24 dev wg0");
        wait_until("what another member lost comes back meanwhile", || worker.pings(other.address()));
    }
    flood.kill().expect("the flood ends");
    flood.wait().expect("the flood has ended");
    wait_until("web is whole again", || web.pings(worker.address()));
    host.wait_until_settled();
    lab.finish();
}

#[test]
fn a_loopback_that_is_down_is_the_containers_own_and_is_named() {
    let lab = Lab::new("a_loopback_that_is_down_is_the_containers_own_and_is_named");
    let host = lab.host(&Options::ebpf().without_periodic_observation());
    let network = host.network("shop", SUBNET);
    let web = lab.member(&host, &network, "web-1");
    wait_until_watched(&web);
    host.wait_until_settled();
    web.app.run("ip link set lo down");
    let problems = || host.status().expect("status").problems;
    let names_it = |problem: &String| {
        problem.contains(&web.address().to_string()) && problem.contains("the loopback of the container is down")
    };
    wait_until("status names the member", || problems().iter().any(names_it));
    let doctor: Vec<serde_json::Value> =
        serde_json::from_slice(&host.cli().output(&["doctor", "-o", "json"]).stdout).expect("doctor's JSON");
    let agent = doctor.iter().find(|check| check["check"] == "agent").expect("the agent's check");
    assert_ne!(agent["status"], "ok", "{agent}");
    // It is the container's: nothing but its owner sets it up.
    assert!(!web.app.run("ip -br link show lo").contains("LOWER_UP"));
    // A container that is attached with its loopback down is told so at once.
    let late = lab.container("late-1");
    late.space.run("ip link set lo down");
    let attached = host.attach(&network, &late, None).expect("attach");
    assert!(attached.ready, "on this host's side");
    assert!(attached.problems.iter().any(|problem| problem.why.contains("loopback")), "{:?}", attached.problems);
    late.space.run("ip link set lo up");
    web.app.run("ip link set lo up");
    wait_until("and forgets it", || !problems().iter().any(|problem| problem.contains("the loopback")));
    host.wait_until_settled();
    lab.finish();
}
