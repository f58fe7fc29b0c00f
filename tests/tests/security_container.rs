//! Root in one container stands in the agent's way: it harms its own member, and no other.
//!
//! ```text
//!  web (root, CAP_NET_ADMIN): what the agent reads there cannot be read, or is not what it was
//!  backend, worker, late: go on, come and go as if nothing was
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use privnet::metrics::exposition;
use privnet::wireguard::{Support, kernel_support};
use privnet_tests::lab::{Host, Joined, Lab, Options, Space, process, say, skip_part, wait_until};
use rustix::process::Signal;

const SUBNET: &str = "10.93.0.0/24";

/// Runs a line of shell in a namespace; blanks and bytes that are no text stay as they are.
fn shell(space: &Space, line: &str) {
    say(&format!("{line} # in a shell"));
    let output = space.command("sh -c").arg(line).output().expect("sh starts");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Gives a member's device another name, and puts another link in its place; the device works on.
fn hide_device(member: &Joined) {
    say("the device is hidden, and another link has its name");
    let (interface, address) = (&member.attached.interface, member.address());
    for line in [
        format!("ip link set {interface} down"),
        format!("ip link set {interface} name hidden"),
        "ip link set hidden up".to_owned(),
        format!("ip route replace {SUBNET} dev hidden src {address}"),
        format!("ip link add {interface} type bridge"),
        format!("ip link set {interface} up"),
    ] {
        member.app.run(&line);
    }
}

/// What one scrape shows.
struct Scrape {
    /// The members with WireGuard figures.
    tunnels: BTreeSet<String>,
    /// The members with packets that were forwarded.
    counted: BTreeSet<String>,
    /// How many reads failed, by kind.
    errors: BTreeMap<String, u64>,
}

impl Scrape {
    fn of(host: &Host) -> Self {
        let text = host.cli().text(&["metrics"]);
        let samples = exposition::parse(&text).expect("samples");
        let of = |name: &'static str| samples.iter().filter(move |sample| sample.name == name);
        let members = |name| of(name).map(|sample| sample.labels["member"].clone()).collect();
        let number = |value: f64| value.to_string().parse().expect("a count");
        Self {
            tunnels: members("privnet_wireguard_peers"),
            counted: members("privnet_forwarded_packets_total"),
            errors: of("privnet_scrape_errors_total")
                .map(|sample| (sample.labels["kind"].clone(), number(sample.value)))
                .collect(),
        }
    }
}

/// A member as the metrics name it.
fn name_of(member: &Joined) -> String {
    let attached = &member.attached;
    format!("{}.{}.{}", attached.member.number, attached.member.kind, attached.member.app)
}

fn owned((kind, count): (&str, u64)) -> (String, u64) {
    (kind.to_owned(), count)
}

/// Whether the agent's status names trouble with this member.
fn is_in_trouble(host: &Host, member: &Joined) -> bool {
    let address = member.address().to_string();
    host.status().is_ok_and(|status| status.problems.iter().any(|problem| problem.contains(&address)))
}

#[test]
fn a_container_that_cannot_be_read_holds_up_no_other_and_not_its_own_end() {
    let lab = Lab::new("a_container_that_cannot_be_read_holds_up_no_other_and_not_its_own_end");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let [web, backend, worker] = ["web-1", "backend-1", "worker-1"].map(|name| lab.member(&host, &network, name));
    wait_until("web reaches backend", || web.pings(backend.address()));

    say("an address whose label is no text");
    host.stop();
    shell(&web.app, "ip address add 192.0.2.9/32 dev lo label \"$(printf 'lo:\\377')\"");
    host.start();
    wait_until("the agent says so of web", || is_in_trouble(&host, &web));
    assert!(!is_in_trouble(&host, &backend) && !is_in_trouble(&host, &worker));
    assert!(web.pings(backend.address()), "what web has is left as it is");
    let late = lab.member(&host, &network, "late-1");
    wait_until("whoever comes is reached", || late.pings(backend.address()) && backend.pings(late.address()));
    assert!(host.detach(&network, &worker.container).expect("worker is readable").detached);
    assert!(!backend.pings(worker.address()));

    say("its end");
    assert!(host.detach(&network, &web.container).expect("web goes").detached);
    wait_until("the way out of its binding netns is gone", || !web.network.links().contains(&web.port_veth()));
    assert!(!web.pings(backend.address()) && !backend.pings(web.address()));
    wait_until("the agent has no trouble any more", || !is_in_trouble(&host, &web));
    for member in [&late, &backend] {
        assert!(host.detach(&network, &member.container).expect("detach").detached);
    }
    lab.finish_detached();
}

#[test]
fn another_link_under_the_name_of_a_members_device_is_that_members_trouble() {
    let lab = Lab::new("another_link_under_the_name_of_a_members_device_is_that_members_trouble");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let [web, backend] = ["web-1", "backend-1"].map(|name| lab.member(&host, &network, name));
    wait_until("web reaches backend", || web.pings(backend.address()));

    host.stop();
    hide_device(&web);
    let (address, subnet) = (web.address(), SUBNET);
    wait_until("the hidden device still works", || web.pings(backend.address()));
    host.start();
    let late = lab.member(&host, &network, "late-1");
    wait_until("whoever comes is reached", || late.pings(backend.address()) && backend.pings(late.address()));

    assert!(host.detach(&network, &web.container).expect("web goes").detached);
    // Should the agent have removed the route, it is there again: the device is what must be dead.
    let _ = web.app.attempt(&format!("ip route replace {subnet} dev hidden src {address}"));
    assert!(!web.pings(backend.address()) && !backend.pings(address));
    assert!(late.pings(backend.address()), "the twin");
    lab.finish();
}

#[test]
fn a_device_that_is_hidden_is_missing_from_a_scrape_and_all_others_are_in_it() {
    let lab = Lab::new("a_device_that_is_hidden_is_missing_from_a_scrape_and_all_others_are_in_it");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let [web, backend, worker] = ["web-1", "backend-1", "worker-1"].map(|name| lab.member(&host, &network, name));
    wait_until("web reaches backend", || web.pings(backend.address()));
    let whole = Scrape::of(&host);
    assert_eq!(whole.tunnels, BTreeSet::from([&web, &backend, &worker].map(name_of)), "the twin");
    assert_eq!(whole.errors, BTreeMap::from([("counters", 0), ("names", 0), ("wireguard", 0)].map(owned)), "the twin");

    host.stop();
    hide_device(&web);
    host.start();
    let scrape = Scrape::of(&host);
    assert!(scrape.counted.is_superset(&BTreeSet::from([name_of(&web), name_of(&backend)])), "{:?}", scrape.counted);
    match kernel_support() {
        Support::Present => {
            assert_eq!(scrape.tunnels, BTreeSet::from([&backend, &worker].map(name_of)));
            assert_eq!(scrape.errors, BTreeMap::from([("counters", 0), ("names", 0), ("wireguard", 1)].map(owned)));
        }
        Support::Missing { .. } => {
            // The process is asked, whatever its link is called, until the agent replaces it, for which another link is in the
            // way.
            assert!(
                scrape.tunnels.is_superset(&BTreeSet::from([&backend, &worker].map(name_of))),
                "{:?}",
                scrape.tunnels
            );
            assert!(scrape.tunnels.is_subset(&whole.tunnels), "{:?}", scrape.tunnels);
            skip_part("the hidden device is counted", "kernel WireGuard");
        }
    }
    lab.finish();
}

#[test]
fn processes_that_hang_cost_a_scrape_one_timeout_and_the_others_nothing() {
    let lab = Lab::new("processes_that_hang_cost_a_scrape_one_timeout_and_the_others_nothing");
    let host = lab.host(&Options { wireguard: "userspace", ..Options::ebpf() });
    let network = host.network("shop", SUBNET);
    let names = ["web-1", "backend-1", "worker-1", "mail-1", "cache-1"];
    let members = names.map(|name| lab.member(&host, &network, name));
    host.wait_until_settled();
    let whole = Scrape::of(&host);
    assert_eq!((whole.tunnels.len(), whole.errors["wireguard"]), (5, 0), "the twin");

    let hung = &members[..4];
    let processes = hung.iter().map(|member| host.wireguard_of(member).expect("a process").pid);
    let processes: Vec<i32> = processes.collect();
    for pid in &processes {
        process::kill(*pid, Signal::STOP);
    }
    let start = Instant::now();
    let scrape = Scrape::of(&host);
    let took = start.elapsed();
    for pid in &processes {
        process::kill(*pid, Signal::CONT);
    }
    assert_eq!(scrape.tunnels, BTreeSet::from([name_of(&members[4])]), "the one that answers");
    assert_eq!(scrape.errors, BTreeMap::from([("counters", 0), ("names", 0), ("wireguard", 4)].map(owned)));
    // One after the other they would take 20 s.
    assert!(took < Duration::from_secs(15), "it took {took:?}");
    wait_until("all are in a scrape again", || Scrape::of(&host).tunnels == whole.tunnels);
    lab.finish();
}

#[test]
fn a_container_with_an_interface_that_cannot_be_guarded_gets_no_tunnel() {
    let lab = Lab::new("a_container_with_an_interface_that_cannot_be_guarded_gets_no_tunnel");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let container = lab.container("web-1");
    let mut monitor = container.space.command("ip -oneline monitor link").stdout(Stdio::piped()).spawn().expect("ip");
    let seen = Arc::new(Mutex::new(String::new()));
    let reader = thread::spawn({
        let (seen, output) = (Arc::clone(&seen), monitor.stdout.take().expect("piped"));
        move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let mut seen = seen.lock().expect("not poisoned");
                seen.push_str(&String::from_utf8_lossy(&line));
                seen.push('\n');
            }
        }
    });
    let was_seen = |what: &str| seen.lock().expect("not poisoned").contains(what);
    let name = "\"$(printf 'odd\\377')\"";
    // Until the monitor has begun.
    let mut count = 0;
    wait_until("the monitor sees links come", || {
        count += 1;
        container.space.run(&format!("ip link add early{count} type bridge"));
        container.space.run(&format!("ip link delete early{count}"));
        was_seen("early")
    });

    shell(&container.space, &format!("ip link add {name} type bridge"));
    let error = host.attach(&network, &container, None).expect_err("no guard can be there");
    assert!(error.message.contains("guard"), "{error:?}");
    shell(&container.space, &format!("ip link delete {name}"));
    container.space.run("ip link add last type bridge");
    wait_until("the monitor has seen all of it", || was_seen("last"));
    assert!(!was_seen("wg0"), "there was a device: {}", seen.lock().expect("not poisoned"));

    say("the twin: what can be guarded gets its tunnel");
    let joined = host.join(&network, &container);
    wait_until("its device is seen", || was_seen(joined.attached.interface.as_str()));
    monitor.kill().expect("killed");
    monitor.wait().expect("ended");
    reader.join().expect("the reader ends");
    lab.finish();
}
