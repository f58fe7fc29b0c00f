//! What attach builds: the namespaces, links and routes of the drawing, traffic through them, and their repair.
//!
//! ```text
//!  app netns              binding netns           network netns              host h1            host h2
//! ┌────────────────┐     ┌─────────────────┐     ┌───────────────────┐      ┌────────┐         ┌────────┐
//! │ wg0 10.90.0.x  │~~~~~│ UDP 51820       │     │ veth-<address> ─┐ │      │ UDP    │ 192.168 │        │
//! │ unreachable    │     │ vxlan-1-veth0 ══╪═════╪═                │ │      │ 4789 ══╪═════════╪═ …     │
//! │ 10.90.0.0/24   │     │ 10.90.0.x       │     │ vxlan0 ─────────┘═╪══════╪═ eth0  │ .77.0/24│        │
//! └────────────────┘     └─────────────────┘     └───────────────────┘      └────────┘         └────────┘
//! ```

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use privnet::datapath::{Outcome, features};
use privnet_tests::lab::leak::pins_below;
use privnet_tests::lab::probe::{PATIENCE, Server, ask_tcp, reaches};
use privnet_tests::lab::process::companions_below;
use privnet_tests::lab::{
    Host, Joined, Lab, Monitor, Options, SOON, Sniffer, Space, process, say, wait_until, wait_within,
};

const SUBNET: &str = "10.90.0.0/24";
/// How long it may take until an agent looks at everything anew.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The MTU of `wg0` on an underlay of 1500 bytes.
const WIREGUARD_MTU: usize = 1390;
/// IPv4 and ICMP headers of an echo request.
const PING_HEADERS: usize = 28;

#[test]
fn attach_builds_the_drawing_and_detach_leaves_nothing() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("attach_builds_the_drawing_and_detach_leaves_nothing");
        let host = lab.host(&options);
        let links_of_host = host.space.links();
        let network = host.network("shop", SUBNET);
        let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));

        for member in [&web, &worker] {
            assert_eq!(member.app.links(), ["wg0"]);
            assert_eq!(member.binding.links(), ["vxlan-1-veth0"]);
            assert_eq!(mtu(&member.app, "wg0"), 1390);
            assert_eq!(mtu(&member.binding, "vxlan-1-veth0"), 1450);
            assert_eq!(mtu(&member.network, &member.port_veth()), 1450);
            let addresses = member.app.run("ip -o -4 address show dev wg0");
            assert!(addresses.contains(&format!(" {}/24 ", member.address())), "{addresses}");
            let addresses = member.binding.run("ip -o -4 address show dev vxlan-1-veth0");
            assert!(addresses.contains(&format!(" {}/24 ", member.address())), "{addresses}");
            let backstop = member.app.run(&format!("ip route show type unreachable {SUBNET}"));
            assert!(backstop.contains("metric 4294967295"), "{backstop}");
            let sockets = member.binding.run("ss -Hnlu");
            assert!(sockets.contains(":51820 "), "the socket of wg0 is in the binding netns: {sockets}");
            let sockets = member.app.run("ss -Hnlu");
            let lines: Vec<&str> = sockets.lines().filter(|line| !line.contains("127.0.0.82:53")).collect();
            assert_eq!(lines, [""; 0], "and not in the app netns");
        }
        let mut links = vec![web.port_veth(), worker.port_veth(), "vxlan0".to_owned()];
        if options.datapath == "bridge" {
            links.push("br0".to_owned());
        }
        links.sort();
        assert_eq!(web.network.links(), links, "no bridge but where it was asked for");
        assert_eq!(mtu(&web.network, "vxlan0"), 1450);
        assert!(host.space.run("ss -Hnlu").contains(":4789 "), "the socket of vxlan0 is in the host's namespace");
        assert_eq!(host.space.links(), links_of_host, "and nothing else of ours");
        assert_eq!(host.status().expect("status").datapath.to_string(), options.datapath);

        for member in [&web, &worker] {
            assert!(host.detach(&network, &member.container).expect("detach").detached);
            assert_eq!(member.app.links(), Vec::<String>::new());
            assert_eq!(member.app.run("ip route show table main"), "");
        }
        wait_until("nothing is left", || host.leftovers().is_empty());
        // The kernel takes a namespace down a moment after its last user.
        wait_until("the VTEP's socket is gone", || !host.space.run("ss -Hnlu").contains(":4789 "));
        lab.finish_detached();
    }
}

#[test]
fn members_of_one_host_reach_each_other_on_any_port() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("members_of_one_host_reach_each_other_on_any_port");
        let host = lab.host(&options);
        let network = host.network("shop", SUBNET);
        let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));
        reach_each_other(&web, &worker);
        let counters = host.counters();
        match options.datapath {
            "ebpf" => assert!(counters.of_outcome(Outcome::ForwardedLocal) > 0, "the programs forwarded: {counters:?}"),
            _ => assert_eq!(counters.of_outcome(Outcome::ForwardedLocal), 0, "the bridge forwarded"),
        }
        lab.finish();
    }
}

#[test]
fn members_of_two_hosts_reach_each_other_whatever_datapath_each_host_has() {
    let choices = [Options::ebpf(), Options::bridge()];
    for (one, other) in [(0, 0), (0, 1), (1, 1)] {
        let lab = Lab::new("members_of_two_hosts_reach_each_other_whatever_datapath_each_host_has");
        let hosts = lab.hosts(&[choices[one].clone(), choices[other].clone()]);
        let network = hosts[0].network("shop", SUBNET);
        let web = lab.member(&hosts[0], &network, "web-1");
        let backend = lab.member(&hosts[1], &network, "backend-1");
        reach_each_other(&web, &backend);
        // A third member, whose host already has one, is known everywhere as well.
        let worker = lab.member(&hosts[1], &network, "worker-1");
        wait_until("web reaches worker", || web.pings(worker.address()));
        wait_until("backend reaches worker", || backend.pings(worker.address()));
        lab.finish();
    }
}

#[test]
fn a_container_in_two_networks_reaches_the_members_of_both() {
    let lab = Lab::new("a_container_in_two_networks_reaches_the_members_of_both");
    let host = lab.host(&Options::ebpf());
    let (blue, red) = (host.network("blue", SUBNET), host.network("red", "10.91.0.0/24"));
    let both = lab.container("web-1");
    let (in_blue, in_red) = (host.join(&blue, &both), host.join(&red, &both));
    assert_eq!((in_blue.index(), in_red.index()), (0, 1));
    assert_eq!(in_blue.binding.links(), ["vxlan-1-veth0", "vxlan-2-veth0"], "one binding netns per container");
    let (of_blue, of_red) = (lab.member(&host, &blue, "blue-1"), lab.member(&host, &red, "red-1"));
    reach_each_other(&in_blue, &of_blue);
    reach_each_other(&in_red, &of_red);

    assert!(host.detach(&blue, &both).expect("detach").detached);
    assert_eq!(both.space.links(), ["wg1"]);
    assert!(in_red.pings(of_red.address()), "the other membership goes on");
    let again = host.join(&blue, &both);
    assert_eq!(again.attached.interface.as_str(), "wg0", "the lowest free name");
    wait_until("the old neighbour is reached again", || again.pings(of_blue.address()));
    lab.finish();
}

#[test]
fn whatever_a_stranger_removes_is_made_again() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("whatever_a_stranger_removes_is_made_again");
        let host = lab.host(&options);
        let network = host.network("shop", SUBNET);
        let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));
        wait_until("web reaches worker", || web.pings(worker.address()));
        let whole = repairable(&web);
        let is_whole = || same_but_for_indexes(&repairable(&web), &whole) && web.pings(worker.address());

        say("a link that goes is announced by the kernel, and made again at once");
        let veth = web.port_veth();
        let mut removals = vec![
            (&web.app, "ip link delete wg0".to_owned()),
            (&web.network, format!("ip link delete {veth}")),
            (&web.network, "ip link delete vxlan0".to_owned()),
        ];
        if options.datapath == "bridge" {
            removals.push((&web.network, "ip link delete br0".to_owned()));
        }
        for (space, command) in removals {
            space.run(&command);
            wait_until(format!("the repair after {command}"), is_whole);
            host.wait_until_settled();
        }
        kill_wireguard_of(&host);
        wait_until("the repair after the WireGuard processes died", is_whole);

        say("the rest is found by an agent that starts");
        let quiet = quiet_removals(&web, worker.address(), options.datapath);
        // What takes others with it goes by itself.
        let (by_themselves, rest): (Vec<_>, Vec<_>) =
            quiet.iter().partition(|(_, line)| line.starts_with("ip netns delete") || line.ends_with("nomaster"));
        for removed in std::iter::once(rest).chain(by_themselves.into_iter().map(|removal| vec![removal])) {
            host.stop();
            for (space, command) in &removed {
                space.run(command);
            }
            host.start();
            wait_until(format!("the repair after {removed:?}"), is_whole);
            host.wait_until_settled();
        }
        if options.datapath == "ebpf" {
            say("and by one that runs, the next time it looks");
            for (space, command) in &quiet {
                space.run(command);
            }
            wait_within("the repair of all of it", LOOK_AGAIN + SOON, is_whole);
            host.wait_until_settled();
        }
        let links: Vec<_> = pins_below(&host.paths().bpffs).into_iter().filter(|pin| is_link(pin)).collect();
        let is_by_link = options.datapath == "ebpf" && features().tcx;
        assert_eq!(links.len(), usize::from(is_by_link), "that of from_vtep, where it is: {links:?}");
        reach_each_other(&web, &worker);
        lab.finish();
    }
}

fn is_link(pin: &Path) -> bool {
    pin.file_name().is_some_and(|name| name.to_string_lossy().starts_with("link-"))
}

/// What a stranger can remove without a link going.
fn quiet_removals<'a>(web: &'a Joined, worker: Ipv4Addr, datapath: &str) -> Vec<(&'a Space, String)> {
    let veth = web.port_veth();
    let mut removals = vec![
        (&web.app, format!("ip route delete unreachable {SUBNET} metric 4294967295")),
        (&web.app, "ip address flush dev wg0".to_owned()),
        (&web.app, "ip link set wg0 down".to_owned()),
        (&web.binding, "ip address flush dev vxlan-1-veth0".to_owned()),
        (&web.binding, "ip link set vxlan-1-veth0 down".to_owned()),
        (&web.network, format!("ip link set {veth} down")),
        (&web.network, "ip link set vxlan0 down".to_owned()),
        (&web.network, "ip link set vxlan0 mtu 1400".to_owned()),
        (&web.app, "ip link set wg0 mtu 1300".to_owned()),
    ];
    match datapath {
        "ebpf" => removals.push((&web.network, format!("tc qdisc delete dev {veth} clsact"))),
        _ => removals.extend(
            [
                format!("ip link set {veth} nomaster"),
                format!("bridge link set dev {veth} learning on flood on"),
                "bridge link set dev vxlan0 learning on flood on".to_owned(),
                format!("bridge fdb delete {} dev {veth} master", web.mac_text()),
            ]
            .map(|line| (&web.network, line)),
        ),
    }
    if datapath == "bridge" {
        // A link that goes down takes it along.
        removals.insert(0, (&web.binding, format!("ip neighbour delete {worker} dev vxlan-1-veth0")));
    }
    removals.extend([&web.binding, &web.network].map(|space| (&web.app, format!("ip netns delete {}", space.pin()))));
    removals
}

fn kill_wireguard_of(host: &Host) {
    for pid in pids(host) {
        say(&format!("[{}] kill -9 {pid}", host.name));
        process::kill(pid, rustix::process::Signal::KILL);
    }
}

#[test]
fn a_namespace_that_somebody_looks_into_does_not_stand_in_the_way_of_the_next_member() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("a_namespace_that_somebody_looks_into_does_not_stand_in_the_way_of_the_next_member");
        let host = lab.host(&options);
        let network = host.network("shop", SUBNET);
        let (web, worker) = (lab.container("web-1"), lab.container("worker-1"));
        let first = host.join(&network, &web);
        // As `ip netns exec … tcpdump` does: the namespaces outlive their names.
        let onlookers = [Sniffer::start(&first.network), Sniffer::start(&first.binding)];
        assert!(host.detach(&network, &web).expect("detach").detached);
        let (again, worker) = (host.join(&network, &web), host.join(&network, &worker));
        wait_until("web reaches worker", || again.pings(worker.address()));
        host.wait_until_settled();
        drop(onlookers);
        lab.finish();
    }
}

#[test]
fn an_agent_that_starts_again_adopts_what_is_there_and_writes_nothing() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("an_agent_that_starts_again_adopts_what_is_there_and_writes_nothing");
        let host = lab.host(&options);
        let network = host.network("shop", SUBNET);
        let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));
        reach_each_other(&web, &worker);
        host.wait_until_settled();
        let spaces = [&web.app, &web.binding, &web.network, &worker.app, &worker.binding];
        let before = (indexes(&spaces), host.programs(), pids(&host));

        for crash in [false, true] {
            let monitors: Vec<Monitor> = spaces.iter().map(|space| Monitor::start(space)).collect();
            if crash {
                host.kill();
            } else {
                host.stop();
            }
            host.start();
            wait_until("a pass has ended", || {
                host.status().is_ok_and(|status| status.last_pass_unix_seconds.is_some())
            });
            host.wait_until_settled();
            let status = host.status().expect("status");
            assert_eq!((status.problems.as_slice(), status.members_ready), (&[] as &[String], 2));
            assert_eq!((indexes(&spaces), host.programs(), pids(&host)), before);
            let written: Vec<String> = monitors.into_iter().flat_map(Monitor::finish).collect();
            assert_eq!(written, Vec::<String>::new(), "the pass wrote to the kernel");
            assert!(web.pings(worker.address()));
        }
        lab.finish();
    }
}

/// Both ways, on ports of every kind; the largest packet; and more than any buffer holds.
fn reach_each_other(one: &Joined, other: &Joined) {
    wait_until(format!("{} answers", other.address()), || one.pings(other.address()));
    for (from, to) in [(one, other), (other, one)] {
        for port in [53, 8080, 51_820, 65_535] {
            // On the member's address: the loopback's port 53 is where the container asks for names.
            let _server = Server::echo_at(&to.app, to.address(), port);
            assert!(reaches(&from.app, (to.address(), port)), "{} on port {port}", to.address());
        }
        let ping = |size: usize| from.app.attempt(&format!("ping -n -c 1 -W 2 -M do -s {size} {}", to.address()));
        assert!(ping(WIREGUARD_MTU - PING_HEADERS).status.success(), "a packet of the MTU passes whole");
        let refused = ping(WIREGUARD_MTU - PING_HEADERS + 1);
        let why = String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
        assert!(!refused.status.success() && why.contains("ocal error"), "one byte more is refused here: {why}");
    }
    let _server = Server::echo(&other.app, 9000);
    let much: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let answer = ask_tcp(&one.app, (other.address(), 9000), &much, 5 * PATIENCE).expect("a long answer");
    assert!(answer == much, "every byte comes back as it was sent");
}

fn mtu(space: &Space, interface: &str) -> u64 {
    space
        .link(interface)
        .and_then(|link| link.get("mtu")?.as_u64())
        .unwrap_or_else(|| panic!("there is no {interface}"))
}

/// What of a member a stranger could remove, as `ip` shows it.
fn repairable(member: &Joined) -> Vec<String> {
    let show = |space: &Space, line: &str| {
        let output = space.output(line);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    vec![
        show(&member.app, "ip route show table main"),
        show(&member.app, "ip -br link show"),
        show(&member.app, "ip -br -4 address show"),
        show(&member.binding, "ip -br link show"),
        show(&member.binding, "ip -br -4 address show"),
        show(&member.network, "ip -br link show"),
        show(&member.binding, "ip neighbour show nud permanent"),
        show(&member.network, "bridge fdb show"),
        show(&member.network, "bridge -d link show").lines().filter(|line| line.contains("learning")).collect(),
    ]
}

/// `wg0@if12` names the other end by its index, which a link that was made again does not have.
fn same_but_for_indexes(now: &[String], before: &[String]) -> bool {
    let plain = |shown: &[String]| -> Vec<Vec<String>> {
        let word = |word: &str| word.split("@if").next().unwrap_or_default().to_owned();
        let mut all: Vec<Vec<String>> =
            shown.iter().map(|text| text.lines().map(|line| line.split(' ').map(word).collect()).collect()).collect();
        all.iter_mut().for_each(|lines: &mut Vec<String>| lines.sort());
        all
    };
    plain(now) == plain(before)
}

fn indexes(spaces: &[&Space]) -> BTreeMap<String, u64> {
    let of_space = |space: &&Space| -> Vec<(String, u64)> {
        let named = |link: String| {
            let index = space.ifindex(&link).expect("the link is there");
            (format!("{} {link}", space.pin()), index)
        };
        space.links().into_iter().map(named).collect()
    };
    spaces.iter().flat_map(of_space).collect()
}

fn pids(host: &Host) -> Vec<i32> {
    companions_below(&host.paths().state).into_iter().map(|process| process.pid).collect()
}

/// The subnet's second address, the first that a member can have, depends on the allocator: nothing here does.
#[test]
fn an_address_that_was_asked_for_is_the_one_that_is_given() {
    let lab = Lab::new("an_address_that_was_asked_for_is_the_one_that_is_given");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let wanted = Ipv4Addr::new(10, 90, 0, 77);
    let container = lab.container("web-1");
    let attached = host.attach(&network, &container, Some(wanted)).expect("attach");
    assert_eq!((attached.member.address, attached.interface.as_str(), attached.ready), (wanted, "wg0", true));
    let name = format!("1.web.{}.{}.private-network.internal", attached.member.app, attached.network);
    assert_eq!(attached.member.hostname.trim_end_matches('.'), name);
    let environment: BTreeMap<&str, &str> = attached.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = [
        ("PRIVNET_ADDRESS", "10.90.0.77".to_owned()),
        ("PRIVNET_APPLICATION_ID", attached.member.app.to_string()),
        ("PRIVNET_HOSTNAME", attached.member.hostname.clone()),
        ("PRIVNET_NETWORK_ID", attached.network.to_string()),
    ];
    assert_eq!(environment, expected.iter().map(|(key, value)| (*key, value.as_str())).collect());
    let members = host.members().expect("members");
    assert_eq!(members.len(), 1);
    assert_eq!((members[0].member.address, members[0].interface.as_ref()), (wanted, Some(&attached.interface)));
    lab.finish();
}
