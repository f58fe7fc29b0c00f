//! Three hosts, each a virtual machine with a kernel of its own, on an underlay that these tests own and look into.
//!
//! ```text
//!  machine 1: 6.1, eBPF, kernel WireGuard, etcd ──┐
//!  machine 2: 6.12, bridge, kernel WireGuard ─────┼── underlay: every frame is looked into, links are cut and slowed down
//!  machine 3: 6.12, eBPF, userspace WireGuard ────┘
//! ```
//!
//! Runs outside of the machines; `cargo xtask vm` boots them and starts it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use privnet_tests::lab::wait_until;
use privnet_tests::machines::{Flow, Host, Machines, Member, SOON, json};

static MACHINES: OnceLock<Mutex<Machines>> = OnceLock::new();
static TRIED: AtomicBool = AtomicBool::new(false);

/// How many datagrams a flow sends in the time that an answer may take, and some.
const LATE: u64 = 200;

/// The machines, each with its agent. One test has them at a time.
fn machines() -> MutexGuard<'static, Machines> {
    let machines = MACHINES.get_or_init(|| {
        assert!(!TRIED.swap(true, Ordering::Relaxed), "the machines did not come up, as another test tells");
        let machines = Machines::up();
        let hosts = hosts(&machines);
        hosts[0].start_store();
        for host in hosts {
            host.start_agent();
        }
        Mutex::new(machines)
    });
    // A test that failed says so itself; what it left in the network of its own is in nobody's way.
    machines.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hosts(machines: &Machines) -> [Host<'_>; 3] {
    [
        Host::new(machines.machine(1), "ebpf", "kernel"),
        Host::new(machines.machine(2), "bridge", "kernel"),
        Host::new(machines.machine(3), "ebpf", "userspace"),
    ]
}

/// One member on each host.
fn members<'a>(hosts: &[Host<'a>], network: &str, kind: &str) -> Vec<Member<'a>> {
    hosts.iter().map(|host| host.member(network, kind)).collect()
}

/// Ends a test: the members leave, the network goes, and nothing was seen that must not be.
fn finish(machines: &Machines, members: Vec<Member<'_>>, network: &str) {
    nothing_in_clear(machines);
    machines.forget_canaries();
    for member in members {
        member.leave();
    }
    machines.machine(1).soon(&format!("privnet network delete {network}"));
}

fn nothing_in_clear(machines: &Machines) {
    assert_eq!(machines.canaries(), Vec::<String>::new(), "a payload was seen outside of the containers");
    assert_eq!(
        machines.underlay.seen().strange,
        Vec::<String>::new(),
        "the carrier carried something else than WireGuard"
    );
}

#[test]
fn members_of_three_machines_reach_each_other_by_address_and_name_and_nothing_is_in_clear() {
    let machines = machines();
    let hosts = hosts(&machines);
    let network = hosts[0].network("everywhere");
    let members = members(&hosts, &network, "all");
    let before = machines.underlay.seen().carrier;
    for one in &members {
        for other in &members {
            for protocol in ["udp", "tcp"] {
                one.reaches(protocol, &other.address);
                one.reaches(protocol, &other.hostname);
            }
        }
    }
    assert!(machines.underlay.seen().carrier > before, "the underlay saw nothing of it");
    nothing_in_clear(&machines);

    // The twin: what is said in clear is seen.
    hosts[1].background("clear", "vm_talk echo 9");
    machines.machine(1).soon("vm_talk ask udp 192.0.2.2 9");
    for place in ["underlay: from machine 1", "underlay: from machine 2", "machine 1: host", "machine 2: host"] {
        wait_until(format!("{place} is seen"), SOON, || machines.canaries().join(", ").contains(place));
    }
    machines.machine(2).must("kill $(cat /run/pid-clear)");
    machines.forget_canaries();
    finish(&machines, members, &network);
}

#[test]
fn members_of_another_network_reach_nobody() {
    let machines = machines();
    let hosts = hosts(&machines);
    let (ours, theirs) = (hosts[0].network("ours"), hosts[0].network("theirs"));
    let us = members(&hosts, &ours, "us");
    let them = members(&hosts, &theirs, "them");
    for (one, other) in us.iter().zip(us.iter().rev()) {
        one.reaches("udp", &other.address);
    }
    for (one, other) in them.iter().zip(them.iter().rev()) {
        one.reaches("udp", &other.address);
        one.reaches("udp", &other.hostname);
    }
    for stranger in &them {
        for member in &us {
            assert!(!stranger.asks("udp", &member.address), "{} is reached", member.address);
            assert!(!stranger.asks("udp", &member.hostname), "{} is known", member.hostname);
        }
    }
    finish(&machines, us, &ours);
    finish(&machines, them, &theirs);
}

#[test]
fn a_link_that_is_cut_parts_two_hosts_and_no_others_until_it_is_mended() {
    let machines = machines();
    let hosts = hosts(&machines);
    let network = hosts[0].network("cut");
    let members = members(&hosts, &network, "cut");
    members[1].reaches("udp", &members[2].address);
    members[0].reaches("udp", &members[1].address);
    machines.underlay.cut(2, 3);
    assert!(!members[1].asks("udp", &members[2].address), "the link is cut");
    assert!(!members[2].asks("tcp", &members[1].address), "the link is cut");
    assert!(members[0].asks("udp", &members[1].address), "these links are not");
    assert!(members[0].asks("udp", &members[2].address), "these links are not");
    machines.underlay.mend(2, 3);
    members[1].reaches("udp", &members[2].address);
    members[2].reaches("tcp", &members[1].address);

    machines.underlay.delay(Duration::from_millis(150));
    members[1].reaches("tcp", &members[2].address);
    machines.underlay.delay(Duration::ZERO);
    finish(&machines, members, &network);
}

#[test]
fn an_agent_that_is_killed_and_replaced_under_load_costs_no_datagram() {
    let machines = machines();
    let hosts = hosts(&machines);
    let network = hosts[0].network("load");
    let members = members(&hosts, &network, "load");
    for (one, other) in [(0, 1), (1, 2), (2, 0)] {
        members[one].reaches("udp", &members[other].address);
        members[one].flows_to(&members[other]);
    }
    for host in &hosts {
        host.kill_agent();
        // An upgrade: another file under the same name.
        let file = "$(readlink -f /usr/local/bin/privnet)";
        host.machine.must(&format!("cp {file} /tmp/next && mv /tmp/next {file}"));
        host.start_agent();
    }
    for member in &members {
        // What is lost is counted when it is too late for its answer.
        let flow = flow_beyond(member, member.flow().sent + LATE);
        assert_eq!(flow.lost, 0, "{flow:?}");
    }
    for member in &members {
        member.stops_to_flow();
    }
    finish(&machines, members, &network);
}

/// Waits until a flow has sent so many.
fn flow_beyond(member: &Member<'_>, sent: u64) -> Flow {
    let start = Instant::now();
    loop {
        let flow = member.flow();
        if flow.sent > sent {
            return flow;
        }
        assert!(start.elapsed() < SOON, "the flow ended: {flow:?}");
    }
}

#[test]
fn a_host_that_loses_its_power_comes_back_and_takes_part_again() {
    let machines = machines();
    let hosts = hosts(&machines);
    let network = hosts[0].network("power");
    let mut members = members(&hosts, &network, "power");
    members[0].reaches("udp", &members[2].address);
    let before = members.pop().expect("a member");
    machines.machine(3).must("sync");
    machines.machine(3).cut_power();
    assert!(!members[0].asks("udp", &before.address), "its machine is empty");
    hosts[2].start_agent();
    let after = hosts[2].member(&network, "power");
    for member in &members {
        member.reaches("udp", &after.address);
        after.reaches("tcp", &member.hostname);
    }
    members.push(after);
    finish(&machines, members, &network);
}

#[test]
fn a_clock_that_steps_back_parts_nobody() {
    let machines = machines();
    let hosts = hosts(&machines);
    let network = hosts[0].network("clock");
    let members = members(&hosts, &network, "clock");
    for other in [0, 2] {
        members[1].reaches("udp", &members[other].address);
        members[other].reaches("udp", &members[1].address);
    }
    let step = |sign: &str| machines.machine(2).must(&format!("date -s \"@$(($(date +%s) {sign} 3600))\""));
    step("-");
    // A session that is there goes on.
    for other in [0, 2] {
        assert!(members[1].asks("udp", &members[other].address));
    }
    // One that begins anew, by a handshake of an hour ago, is what the others would not hear of.
    members[..2].iter().for_each(Member::forgets_its_sessions);
    for other in [0, 2] {
        members[1].reaches("udp", &members[other].address);
    }
    step("+");
    finish(&machines, members, &network);
}

#[test]
fn without_the_module_of_wireguard_attach_is_refused_and_nothing_is_in_clear() {
    let machines = machines();
    let hosts = hosts(&machines);
    let network = hosts[0].network("module");
    let members = members(&hosts, &network, "module");
    members[0].reaches("udp", &members[1].address);
    members[0].flows_to(&members[1]);
    let machine = machines.machine(2);
    let file = machine.must("modinfo -n wireguard 2> /dev/null || find /lib/modules -name 'wireguard.ko*'");
    machine.must(&format!("mv {file} /tmp/hidden && rmmod wireguard"));
    let before = machines.underlay.seen().refusals;

    // What the flow says stays in its container, and the other's answers too.
    let sent = members[0].flow().sent;
    flow_beyond(&members[0], sent + 50);
    assert!(!members[1].asks("udp", &members[0].address), "its interface is gone");
    nothing_in_clear(&machines);
    // The bridge lets pass what the kernel says of a port that nobody has; eBPF would not.
    assert!(machines.underlay.seen().refusals > before, "machine 2 heard nothing of the flow");
    hosts[1].container("late");
    let app = "--app ap-a71da13f-7c70-4c00-a644-eee8558d8053 --type late";
    let attach = format!("privnet attach --network {network} {app} --netns /run/netns/late-2 -o json");
    let refused = machine.run(&attach);
    assert!(!refused.is_well, "{}", refused.output);
    let error = &json(&refused.output)["error"];
    assert_eq!(error["code"], "unsupported", "{error}");
    assert!(error["remedy"].as_str().is_some_and(|remedy| remedy.contains("modprobe wireguard")), "{error}");

    // The twins: with the module it is attached, and what was there is there again.
    machine.must(&format!("mv /tmp/hidden {file} && modprobe wireguard"));
    members[1].reaches("udp", &members[0].address);
    machine.soon(&attach);
    machine.must(&format!("privnet detach --network {network} {app}"));
    machine.must("kill $(cat /run/pid-late-2); ip netns delete late-2");
    members[0].stops_to_flow();
    finish(&machines, members, &network);
}
