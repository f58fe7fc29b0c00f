//! Three hosts, each a virtual machine with a kernel of its own, on an underlay that these tests own and look into.
//!
//! ```text
//!  machine 1: 6.1, eBPF, kernel WireGuard, etcd ──┐
//!  machine 2: 6.12, bridge, kernel WireGuard ─────┼── underlay: every frame is looked into, links are cut and slowed down
//!  machine 3: 6.12, eBPF, userspace WireGuard ────┘   (kernel WireGuard, when it lost its power)
//!
//!  in each:  container ── eth0 ── docker0 ── eth0 ── underlay     in clear, and listened to
//!                      └─ wg0 ── binding netns ── network netns ── vxlan0 ── underlay
//! ```
//!
//! Every container has a way out in clear that leads everywhere: what does not take `wg0` is heard on the bridge of its
//! host, and mostly on the underlay.
//!
//! Runs outside of the machines; `cargo xtask vm` boots them and starts it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use privnet_tests::lab::wait_within;
use privnet_tests::machines::{Build, CANARY, Host, IN_CLEAR, Machines, Member, SOON, json};

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
    let machines = machines.lock().unwrap_or_else(PoisonError::into_inner);
    machines.begin();
    machines
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

/// Ends a test: the members leave, the network goes, nothing is left, and nothing was heard that must not be, up to the end.
fn finish(machines: &Machines, members: Vec<Member<'_>>, network: &str) {
    leave(machines, members, network);
    machines.nothing_in_clear();
    machines.forget();
    machines.nothing_is_left();
}

fn leave(machines: &Machines, members: Vec<Member<'_>>, network: &str) {
    members.into_iter().for_each(Member::leave);
    machines.machine(1).soon(&format!("privnet network delete {network}"));
}

#[test]
fn members_of_three_machines_reach_each_other_by_address_and_name_and_nothing_is_in_clear() {
    let machines = machines();
    let hosts = hosts(&machines);
    let network = hosts[0].network("everywhere");
    let mut members = members(&hosts, &network, "all");
    let before = machines.underlay.seen().carrier;
    for one in &members {
        for other in &members {
            for protocol in ["udp", "tcp"] {
                one.reaches(protocol, &other.address);
                one.reaches(protocol, &other.hostname);
            }
            one.reaches("icmp", &other.address);
        }
        assert!(one.run(&format!("vm_talk find {}", one.hostname)).is_well);
        assert!(!one.run(&format!("vm_talk find {CANARY}.{}", one.hostname)).is_well, "there is no such name");
    }
    // Two on one host.
    members.push(hosts[0].member(&network, "near"));
    for (one, other) in [(0, 3), (3, 0)] {
        for protocol in ["udp", "tcp", "icmp"] {
            members[one].reaches(protocol, &members[other].address);
        }
    }
    assert!(machines.underlay.seen().carrier > before, "the underlay saw nothing of it");
    machines.nothing_in_clear();

    // The twins: a listener that stops is missed;
    hosts[0].background("deaf", "vm_talk watch deaf");
    machines.machine(1).soon("test -s /run/watch/deaf && kill $(cat /run/pid-deaf)");
    wait_within("the listener is missed", SOON, || machines.heard(CANARY) == ["machine 1: deaf: the listener died"]);
    machines.machine(1).must("rm /run/watch/deaf");
    // what a container says past its network is heard on every road, and so is a question for a name that is
    // somebody else's. All of them leave by the road on which nothing was heard.
    let outside = hosts[1].container("outside");
    hosts[0].machine.soon(&format!("vm_talk ask-in-clear {} 7000", outside.outside));
    wait_within("eth0 leads to the containers of another machine", SOON, || members[0].asks_in_clear(&outside.outside));
    wait_within("and of its own", SOON, || members[3].asks_in_clear(&members[0].container.outside));
    machines.is_heard_in_clear(&["underlay: from machine 1", "underlay: from machine 2"]);
    machines.is_heard_in_clear(&["machine 1: host: docker0", "machine 2: host: docker0"]);
    hosts[1].end(&outside);
    assert!(!members[2].run(&format!("vm_talk find {IN_CLEAR}.example")).is_well, "nobody answers there");
    machines.is_heard_in_clear(&["underlay: from machine 3"]);
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
    wait_within("its own network answers what is asked at once", SOON, || {
        let both = [("udp", &*them[1].address), ("udp", &*them[1].hostname)];
        them[0].answered(&both).lines().count() == both.len()
    });
    let subnet = hosts[0].subnet(&ours);
    for ((stranger, neighbour), remote) in them.iter().zip(&us).zip(us.iter().cycle().skip(1)) {
        // Root of a container may send what it likes into its own network.
        stranger.ip(&format!("route add {subnet} dev wg0"));
        let questions = us.iter().flat_map(|member| [("udp", &*member.address), ("udp", &*member.hostname)]);
        assert_eq!(stranger.answered(&questions.collect::<Vec<_>>()), "", "another network answers");
        stranger.ip(&format!("route delete {subnet} dev wg0"));
        // Or past it: to the member on its own bridge, and out of the host.
        stranger.ip(&format!("route add {} via {}", neighbour.address, neighbour.container.outside));
        for member in [neighbour, remote] {
            assert!(!stranger.asks_in_clear(&member.address), "{} is reached", member.address);
        }
        // The twin: the same container, over the same bridge, by its other address.
        wait_within("its bridge is in order", SOON, || stranger.asks_in_clear(&neighbour.container.outside));
    }
    machines.is_heard_on_every_road();
    leave(&machines, us, &ours);
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
    members[0].reaches("udp", &members[1].address);
    members[0].reaches("udp", &members[2].address);
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
    let old: Vec<Build> = members.iter().map(Build::of).collect();
    for host in &hosts {
        host.kill_agent();
        // An upgrade: another build under the same name.
        let (file, pin) =
            ("$(readlink -f /usr/local/bin/privnet)", format!("/sys/fs/bpf/privnet/*/{network}/pn_config"));
        host.machine.must(&format!("vm_talk rebuild {file} /tmp/next {pin} && mv /tmp/next {file}"));
        host.start_agent();
    }
    for (member, old) in members.iter().zip(&old) {
        wait_within("everything is of the new build", SOON, || Build::of(member).differs_from(old));
    }
    for member in &members {
        // What is lost is counted when it is too late for its answer.
        member.flows_without_loss(LATE);
    }
    for member in &members {
        member.stops_to_flow();
    }
    finish(&machines, members, &network);
}

#[test]
fn a_host_that_loses_its_power_comes_back_and_takes_part_again() {
    let machines = machines();
    let hosts = hosts(&machines);
    let network = hosts[0].network("power");
    let mut members = members(&hosts, &network, "power");
    members[0].reaches("udp", &members[2].address);
    members[2].reaches("udp", &members[1].address);
    let before = members.pop().expect("a member");
    let peers = |member: &Member<'_>| member.run("wg show wg0 allowed-ips").output.matches(&before.address).count();
    assert_eq!(members.iter().map(peers).collect::<Vec<_>>(), [1, 1]);
    machines.machine(3).cut_power();
    assert!(!members[0].asks("udp", &before.address), "its machine is empty");

    // The agent finds that its containers are gone, and says so; with the kernel's WireGuard this time.
    let host = Host::new(machines.machine(3), "ebpf", "kernel");
    host.start_agent();
    for host in &hosts {
        host.machine.soon(&format!("test $(privnet members --network {network} | grep -c power) = 2"));
    }
    for member in &members {
        wait_within("the lost member is nobody's peer", SOON, || peers(member) == 0);
        assert!(!member.asks("tcp", &before.address), "nobody has its address");
        assert!(!member.asks("udp", &before.hostname), "nobody has its name");
    }
    let records = "find /var/lib/privnet/members -type f";
    host.machine.soon(&format!("test -z \"$({records})\""));
    assert_eq!(
        host.machine.must("ls /run/netns /sys/fs/bpf/privnet/*/ 2> /dev/null | grep -e ^pn- -e ^bind-; true"),
        ""
    );

    // The same container comes back, and has its name.
    let after = host.member(&network, "power");
    assert_ne!(host.machine.must(records), "", "the twin: a member has a record");
    assert_eq!(after.hostname, before.hostname);
    for member in &members {
        member.reaches("udp", &after.address);
        member.reaches("udp", &after.hostname);
        after.reaches("tcp", &member.hostname);
    }
    members.push(after);
    finish(&machines, members, &network);
    host.kill_agent();
    hosts[2].start_agent();
}

#[test]
fn without_wg0_nothing_leaves_by_the_road_that_leads_everywhere() {
    let machines = machines();
    let hosts = hosts(&machines);
    let network = hosts[0].network("down");
    let members = members(&hosts, &network, "down");
    let pairs = || [(0, 1), (1, 2), (2, 0)].map(|(one, other)| (&members[one], &members[other]));
    for (one, other) in pairs() {
        one.reaches("udp", &other.address);
        wait_within("all are answered", SOON, || {
            let answered = one.answered_at(&other.address);
            ["udp", "tcp", "icmp"].iter().all(|protocol| answered.contains(protocol))
        });
    }
    // An agent would put back what is missing, at once.
    hosts.iter().for_each(Host::kill_agent);
    for change in ["link set wg0 down", "link delete wg0"] {
        members.iter().for_each(|member| member.ip(change));
        for (one, other) in pairs() {
            assert_eq!(one.answered_at(&other.address), "", "after {change}");
        }
    }
    machines.nothing_in_clear();

    // The twin: the same container, the same address, and what held it back is taken away.
    for (one, other) in pairs() {
        one.ip("route flush type unreachable");
        for side in ["ingress", "egress"] {
            let filters = format!("tc -n {} filter delete dev eth0 {side}", one.container.netns);
            one.host.machine.must(&filters);
        }
        assert!(!one.asks_in_clear(&other.address), "there is nobody of that address out there");
    }
    machines.is_heard_on_every_road();

    hosts.iter().for_each(Host::start_agent);
    for (one, other) in pairs() {
        one.reaches("tcp", &other.address);
    }
    finish(&machines, members, &network);
}

#[test]
fn members_that_leave_while_they_speak_are_heard_nowhere_in_clear() {
    let machines = machines();
    let hosts = hosts(&machines);
    let network = hosts[0].network("leave");
    let mut members = members(&hosts, &network, "leave");
    members.push(hosts[0].member(&network, "beside"));
    let pairs = [(0, 1), (1, 2), (2, 3), (3, 0)];
    for (one, other) in pairs {
        members[one].reaches("udp", &members[other].address);
        members[one].flows_to(&members[other]);
    }
    for member in &members {
        member.detach();
        // All of them go on speaking: to members that are there, to members that left, and from addresses without a
        // member.
        for speaker in &members {
            speaker.flows_on(20);
        }
    }
    machines.nothing_in_clear();
    members.iter().for_each(Member::stops_to_flow);

    // The twin: a container that left may send to the same address, from an address of its own, and is heard.
    for (one, other) in pairs {
        assert!(!members[one].asks_in_clear(&members[other].address), "there is nobody of that address out there");
    }
    machines.is_heard_on_every_road();
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
    members[0].flows_on(50);
    assert_eq!(members[1].answered_at(&members[0].address), "", "its interface is gone");
    machines.nothing_in_clear();
    // The bridge lets pass the kernel's answer of a closed port; eBPF would not.
    assert!(machines.underlay.seen().refusals > before, "machine 2 heard nothing of the flow");
    let late = hosts[1].container("late");
    let name = hosts[1].name("late");
    let attach = format!("privnet attach --network {network} {name} --netns /run/netns/{} -o json", late.netns);
    let refused = machine.run(&attach);
    assert!(!refused.is_well, "{}", refused.output);
    let error = &json(&refused.output)["error"];
    assert_eq!(error["code"], "unsupported", "{error}");
    assert!(error["remedy"].as_str().is_some_and(|remedy| remedy.contains("modprobe wireguard")), "{error}");

    // The twins: a container that was not attached is no member, and what it sends to a member's address by its own
    // route is heard;
    assert!(!hosts[1].asks_in_clear(&late, &members[0].address), "that road leads to nobody");
    machines.is_heard_in_clear(&["machine 2: host: docker0", "underlay: from machine 2"]);
    // with the module it is attached, and what was there is there again.
    machine.must(&format!("mv /tmp/hidden {file} && modprobe wireguard"));
    members[1].reaches("udp", &members[0].address);
    machine.soon(&attach);
    machine.must(&format!("privnet detach --network {network} {name}"));
    hosts[1].end(&late);
    members[0].stops_to_flow();
    finish(&machines, members, &network);
}
