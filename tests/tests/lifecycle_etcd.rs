//! Agents that are processes on several hosts share networks through a real etcd, and leave traffic alone while it is away.
//!
//! ```text
//!  h1: agent, own state, web-1 ──┐            ┌── h2: agent, own state, backend-1
//!                                ├─ underlay ─┤
//!                  h3: etcd ─────┘  (killed, stopped, emptied)
//! ```

use std::thread;
use std::time::Duration;

use privnet::agent::ErrorCode;
use privnet::agent::views::{Check, CheckStatus, HostState, HostView, StatusView};
use privnet_tests::lab::cli::Cli;
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{Etcd, Host, Lab, Options, has_program, say, skip, wait_until, wait_within};

const SUBNET: &str = "10.92.0.0/24";
const PORT: u16 = 7000;
const PACE: Duration = Duration::from_millis(1);
/// How long an agent may take to say that its store is away: it tries to go on before that.
const LATER: Duration = Duration::from_secs(90);

/// Two agents and the etcd that they share.
struct Cluster {
    // The order in which they go: hosts are stopped by the lab.
    hosts: [Host; 2],
    etcd: Etcd,
}

impl Cluster {
    fn start(lab: &Lab) -> Self {
        let (hosts, etcd) = lab.hosts_with_etcd();
        Self { hosts, etcd }
    }
}

/// What `privnet doctor` finds of the store.
fn diagnosed(host: &Host) -> (CheckStatus, String) {
    let output = host.cli().output(&["doctor", "-o", "json"]);
    let checks: Vec<Check> = serde_json::from_slice(&output.stdout).expect("checks");
    let store = checks.into_iter().find(|check| check.check == "store").expect("a check of the store");
    (store.status, store.detail)
}

#[test]
fn agents_of_two_hosts_share_a_network_by_address_and_by_name() {
    let lab = Lab::new("agents_of_two_hosts_share_a_network_by_address_and_by_name");
    let cluster = Cluster::start(&lab);
    let [one, two] = &cluster.hosts;
    let network = one.network("shop", SUBNET);
    wait_until("the other host has seen it", || two.networks().expect("networks") == one.networks().expect("networks"));
    assert_eq!(two.create_network("shop", None).expect_err("the name is taken").code, ErrorCode::NetworkExists);
    let web = lab.member(one, &network, "web-1");
    let backend = lab.member(two, &network, "backend-1");
    assert_ne!(web.address(), backend.address());
    wait_until("web reaches backend", || web.pings(backend.address()));
    assert!(backend.pings(web.address()));
    for (asker, member) in [(&web, &backend), (&backend, &web)] {
        let address = member.address().to_string();
        wait_until("the name is told on the other host", || asker.told(&member.attached.member.hostname) == address);
    }
    let states = |host: &Host| -> Vec<String> {
        let members = host.members().expect("members").into_iter();
        members.map(|member| format!("{} {} {:?}", member.public_key, member.host, member.state)).collect()
    };
    assert_eq!(states(one), states(two));

    // What one host ends, the other hears of.
    let error = one.detach(&network, &backend.container).expect_err("it is not there");
    assert!(error.message.contains("h2"), "{error:?}");
    assert!(two.detach(&network, &backend.container).expect("detach").detached);
    wait_until("the name is gone on the other host", || web.told(&backend.attached.member.hostname).is_empty());
    let route = format!("ip route get {}", backend.address());
    wait_until("who connects to it hears that nobody is there", || !web.app.succeeds(&route));
    let again = two.join(&network, &backend.container);
    wait_until("web reaches backend again", || web.pings(again.address()));
    lab.finish();
}

#[test]
fn an_etcd_or_an_agent_that_is_away_leaves_traffic_alone() {
    let lab = Lab::new("an_etcd_or_an_agent_that_is_away_leaves_traffic_alone");
    let mut cluster = Cluster::start(&lab);
    let [one, two] = &cluster.hosts;
    let network = one.network("shop", SUBNET);
    let web = lab.member(one, &network, "web-1");
    let backend = lab.member(two, &network, "backend-1");
    let _server = Server::echo(&backend.app, PORT);
    wait_until("web reaches backend", || web.pings(backend.address()));
    let stream = Stream::start(&web.app, (backend.address(), PORT), PACE);
    let flows = || {
        let before = stream.answered();
        wait_until("the stream flows", || stream.answered() > before + 200);
    };
    let well = (CheckStatus::Ok, "etcd, reachable".to_owned());
    assert_eq!(diagnosed(one), well);
    flows();
    for (round, is_crash) in [(2, true), (3, false)] {
        if is_crash {
            cluster.etcd.kill();
        } else {
            cluster.etcd.pause();
        }
        for host in [one, two] {
            wait_within("the agent says that its store is away", LATER, || {
                let status = host.status().expect("status");
                status.members == 1
                    && status.members_ready == 1
                    && status
                        .problems
                        .iter()
                        .any(|problem| problem.starts_with("store: ") && problem.contains(cluster.etcd.url()))
            });
        }
        let (status, detail) = diagnosed(one);
        assert!(status == CheckStatus::Fail && detail.contains(cluster.etcd.url()), "{detail}");
        let other = lab.container(&format!("other-{round}"));
        let error = two.attach(&network, &other, None).expect_err("nobody answers");
        // One that is down certainly did nothing; one that hangs may do it yet.
        let code = if is_crash { ErrorCode::StoreUnavailable } else { ErrorCode::OutcomeUnknown };
        assert_eq!(error.code, code, "{error:?}");
        assert!(error.message.contains(cluster.etcd.url()), "{error:?}");
        flows();
        one.kill();
        flows();
        if is_crash {
            cluster.etcd.start();
        } else {
            cluster.etcd.resume();
        }
        one.start();
        for host in [one, two] {
            wait_within(format!("{} has settled: {:?}", host.name, host.status()), LATER, || {
                host.status().is_ok_and(|status| status.problems.is_empty() && status.members_ready == 1)
            });
        }
        flows();
        assert_eq!(diagnosed(one), well);
        // What is attached after it is known on the other host as before.
        let other = two.join(&network, &other);
        wait_until("web reaches the new member", || web.pings(other.address()));
        let _ = two.detach(&network, &other.container).expect("detach");
    }
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} were lost: {lost:?}", lost.len());
    // The log of the agent that ran throughout tells when the store is doubted, why, and when it is believed again.
    let (doubted, believed) = ("the store is doubted", "the store is believed again");
    let lines = two.said("the store is ");
    let is_named = |line: &&String| line.contains(doubted) && line.contains(cluster.etcd.url());
    assert!(lines.iter().filter(is_named).count() >= 2, "{lines:?}");
    let mut story: Vec<&str> =
        lines.iter().filter_map(|line| [doubted, believed].into_iter().find(|text| line.contains(text))).collect();
    assert_eq!(two.said(believed).len(), 2, "{lines:?}");
    story.dedup();
    assert_eq!(story, [doubted, believed, doubted, believed], "{lines:?}");
    assert!(lines.windows(2).all(|lines| lines[0] != lines[1]), "nothing is said twice in a row: {lines:?}");
    lab.finish();
}

#[test]
fn an_etcd_that_lost_its_data_ends_no_membership() {
    let lab = Lab::new("an_etcd_that_lost_its_data_ends_no_membership");
    let mut cluster = Cluster::start(&lab);
    let [one, two] = &cluster.hosts;
    let network = one.network("shop", SUBNET);
    let web = lab.member(one, &network, "web-1");
    let backend = lab.member(two, &network, "backend-1");
    wait_until("web reaches backend", || web.pings(backend.address()));
    cluster.etcd.kill();
    cluster.etcd.put_data_aside();
    cluster.etcd.start();
    for host in [one, two] {
        wait_within("the agent says that this is not its store", LATER, || {
            let problems = host.status().expect("status").problems;
            problems.iter().any(|problem| problem.contains("has no record of fleet fl-"))
        });
    }
    assert!(web.pings(backend.address()) && backend.pings(web.address()));
    // The next agent does not take it for its own either.
    one.kill();
    one.start();
    let problems = one.status().expect("status").problems;
    assert!(problems.iter().any(|problem| problem.contains("has no record of fleet fl-")), "{problems:?}");
    assert!(web.pings(backend.address()));

    cluster.etcd.kill();
    cluster.etcd.put_data_back();
    cluster.etcd.start();
    for host in [one, two] {
        wait_within(format!("{} has settled: {:?}", host.name, host.status()), LATER, || {
            host.status().is_ok_and(|status| status.problems.is_empty() && status.members_ready == 1)
        });
    }
    assert!(web.pings(backend.address()));
    lab.finish();
}

#[test]
fn an_etcd_that_is_upgraded_under_running_agents_changes_nothing_for_them() {
    /// Debian's package etcd-server of the release after the one whose etcd is 3.4.
    const NEWER: &str = "etcd-3.5";
    if !has_program(NEWER) {
        return skip("etcd-3.5");
    }
    let lab = Lab::new("an_etcd_that_is_upgraded_under_running_agents_changes_nothing_for_them");
    let mut cluster = Cluster::start(&lab);
    let before = cluster.etcd.version();
    if !before.starts_with("3.4.") {
        skip("etcd 3.4");
        return lab.finish();
    }
    let [one, two] = &cluster.hosts;
    let network = one.network("shop", SUBNET);
    let web = lab.member(one, &network, "web-1");
    let backend = lab.member(two, &network, "backend-1");
    let _server = Server::echo(&backend.app, PORT);
    wait_until("web reaches backend", || web.pings(backend.address()));
    let stream = Stream::start(&web.app, (backend.address(), PORT), PACE);
    cluster.etcd.upgrade(NEWER);
    say(&format!("{before} is {} now", cluster.etcd.version()));
    for host in [one, two] {
        host.wait_until_settled();
    }
    // Watches and writes, by agents that were there and by one that starts.
    one.kill();
    one.start();
    for (host, name) in [(one, "other-1"), (two, "other-2")] {
        let other = lab.member(host, &network, name);
        wait_until("it is reached", || web.pings(other.address()));
        wait_until("its name is told on both hosts", || {
            [&web, &backend]
                .iter()
                .all(|asker| asker.told(&other.attached.member.hostname) == other.address().to_string())
        });
        assert!(host.detach(&network, &other.container).expect("detach").detached);
    }
    // Leases are those of before.
    let hosts = one.cli().json::<Vec<HostView>>(&["hosts"]).expect("hosts");
    assert!(hosts.iter().all(|host| host.state == HostState::Present), "{hosts:?}");
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} were lost: {lost:?}", lost.len());
    lab.finish();
}

#[test]
fn two_agents_of_one_name_do_not_share_a_store() {
    let lab = Lab::new("two_agents_of_one_name_do_not_share_a_store");
    let cluster = Cluster::start(&lab);
    let [one, two] = &cluster.hosts;
    let network = one.network("shop", SUBNET);
    let _web = lab.member(one, &network, "web-1");
    two.kill();
    let namesake = two.agent_line().replace("--host h2", "--host h1");
    let refused = two.space.command(&namesake).output().expect("the agent ends");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("another agent") && said.contains("--host"), "{said}");
    assert_eq!(one.members().expect("members").len(), 1);
    // Nor do two of one VTEP address.
    let (own, other) = (two.paths().state.display().to_string(), lab.directory().join("h9").display().to_string());
    let twin = two.agent_line().replace("--host h2", "--host h9").replace(&own, &other);
    let refused = two.space.command(&twin).output().expect("the agent ends");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("host h2 of this store has the VTEP address"), "{said}");
    // The same directory under its own name is no stranger, however it ended; its VTEP is where etcd is, without a route to
    // anywhere else.
    let line = two.agent_line().replace(&format!("--vtep {} ", two.vtep), "");
    let mut agent = two.space.command(&line).spawn().expect("the agent starts");
    wait_until("it has found its VTEP address", || two.status().is_ok_and(|status| status.vtep == two.vtep));
    agent.kill().expect("kill -9");
    agent.wait().expect("its end");
    two.start();
    lab.finish();
}

#[test]
fn a_host_that_is_not_heard_loses_its_members_names_and_nothing_else() {
    let lab = Lab::new("a_host_that_is_not_heard_loses_its_members_names_and_nothing_else");
    let cluster = Cluster::start(&lab);
    let [one, two] = &cluster.hosts;
    let network = one.network("shop", SUBNET);
    let web = lab.member(one, &network, "web-1");
    let backend = lab.member(two, &network, "backend-1");
    let (name, own) = (&backend.attached.member.hostname, &web.attached.member.hostname);
    let (address, own_address) = (backend.address().to_string(), web.address().to_string());
    wait_until("the name is told on the other host", || web.told(name) == address);
    wait_until("they reach each other", || web.pings(backend.address()) && backend.pings(web.address()));
    two.kill();
    cluster.etcd.end_leases();
    wait_until("the name is gone", || web.told(name).is_empty());
    assert!(web.pings(backend.address()) && backend.pings(web.address()));
    let hosts = || one.cli().json::<Vec<HostView>>(&["hosts"]).expect("hosts");
    let seen = |host: &HostView| (host.name.to_string(), host.vtep, host.members, host.state);
    wait_until("since when it is unreachable is known", || hosts()[1].unreachable_since_unix_seconds.is_some());
    wait_until("its own host is heard again", || hosts()[0].state == HostState::Present);
    assert_eq!(
        hosts().iter().map(seen).collect::<Vec<_>>(),
        [("h1".to_owned(), one.vtep, 1, HostState::Present), ("h2".to_owned(), two.vtep, 1, HostState::Unreachable)]
    );
    let leases: Vec<bool> = hosts().iter().map(|host| host.lease_since_unix_seconds.is_some()).collect();
    assert_eq!(leases, [true, false], "h1 holds its lease, that of h2 has ended");
    let shown = one.cli().text(&["members"]);
    assert_eq!(shown.matches("unreachable for").count(), 1, "{shown}");
    let since = |host: &str| {
        let members = one.members().expect("members").into_iter().find(|member| member.host.as_str() == host);
        members.expect("a member").unreachable_since_unix_seconds
    };
    assert!(since("h1").is_none() && since("h2").is_some());
    let status = one.status().expect("status");
    assert_eq!((status.hosts, status.hosts_unreachable.len(), status.members_unreachable), (2, 1, 1));
    assert!(one.cli().text(&["metrics"]).contains("privnet_members_unreachable 1\n"));
    // An agent that is there takes its place again by itself.
    wait_until("its own names are told again", || web.told(own) == own_address);
    two.start();
    wait_until("the name is told again", || web.told(name) == address);
    // What a stranger removes, and a detach: the log of the host has a line for each, and no more.
    assert_eq!(one.said("repaired: "), Vec::<String>::new(), "an attach is no repair");
    web.app.run("ip link set wg0 down");
    wait_until("it is repaired", || web.pings(backend.address()));
    wait_until("the repair is said", || !one.said("repaired: ").is_empty());
    assert!(one.detach(&network, &web.container).expect("detach").detached);
    for line in [
        "attached 1.web.",
        "detached 1.web.",
        "host h2 came",
        "host h2 is not heard any more",
        "host h2 is heard again",
    ] {
        wait_until(format!("{line:?} is in the log"), || !one.said(line).is_empty());
        assert_eq!(one.said(line).len(), 1, "{line:?} is said once");
    }
    wait_until("it is reached again", || {
        hosts().iter().all(|host| host.state == HostState::Present) && since("h2").is_none()
    });
    lab.finish();
}

#[test]
fn an_agent_that_is_started_before_etcd_waits_for_it() {
    let lab = Lab::new("an_agent_that_is_started_before_etcd_waits_for_it");
    let mut spaces = lab.underlay(2, 1500);
    let mut etcd = Etcd::new(spaces.pop().expect("two"), 2);
    let options = Options::ebpf().with_etcd(etcd.url());
    let cli = Cli::new("h1", lab.directory().join("h1").join("privnet.sock"));
    let starter = thread::spawn(move || {
        wait_until("the agent says what it waits for", || {
            cli.json::<StatusView>(&["status"])
                .is_err_and(|error| error.code == ErrorCode::StoreUnavailable && error.message.contains(etcd.url()))
        });
        etcd.start();
        etcd
    });
    let host = lab.host_in(spaces.remove(0), 1, &options);
    let _etcd = starter.join().expect("etcd has started");
    host.wait_until_settled();
    lab.finish();
}
