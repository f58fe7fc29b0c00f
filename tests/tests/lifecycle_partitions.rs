//! Hosts that lose the store, each other, or both, in both directions or in one: what was there goes on, in numbers. And hosts
//! that are asked for very much at once.
//!
//! ```text
//!  h1: agent, web-1, db-1 ──┐            ┌── h2: agent, backend-1
//!                           ├─ underlay ─┤
//!             h3: etcd ─────┘  (frames to one address are lost, in one direction)
//! ```

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use privnet::agent::ErrorCode;
use privnet::agent::views::NetworkView;
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{Container, Cut, Etcd, Host, Joined, Lab, say, underlay_address, wait_until};

const SUBNET: &str = "10.92.0.0/24";
const PORT: u16 = 7000;
const PACE: Duration = Duration::from_millis(2);
/// What a change may take while the store is away, and what it may take until all is well again.
const BOUND: Duration = Duration::from_secs(2);
/// What a busy machine adds to it.
const SLACK: Duration = Duration::from_secs(2);

/// Two agents, and the etcd that they share.
struct Cluster {
    hosts: [Host; 2],
    etcd: Etcd,
}

impl Cluster {
    fn start(lab: &Lab) -> Self {
        let (hosts, etcd) = lab.hosts_with_etcd();
        Self { hosts, etcd }
    }

    /// Loses what goes along a way; ways are named by the numbers of hosts.
    fn cut(&self, ways: &[(u8, u8)]) -> Vec<Cut> {
        let space = |number| match number {
            1 => &self.hosts[0].space,
            2 => &self.hosts[1].space,
            _ => self.etcd.space(),
        };
        ways.iter().map(|(from, to)| Cut::new(space(*from), underlay_address(*to))).collect()
    }
}

fn stream(from: &Joined, to: Ipv4Addr) -> Stream {
    let stream = Stream::start(&from.app, (to, PORT), PACE);
    wait_until("the stream begins", || stream.answered() > 50);
    stream
}

fn is_current(host: &Host) -> bool {
    let status = host.status().expect("status");
    status.store_age_seconds.is_none() && status.problems.is_empty() && status.members == status.members_ready
}

/// What a host knows of all members.
fn listed(host: &Host) -> BTreeSet<String> {
    let members = host.members().expect("members").into_iter();
    members
        .map(|member| format!("{} {} {}", member.member.hostname, member.member.address, member.public_key))
        .collect()
}

/// What a change says while the store is away, which it says in time.
fn gives_up(host: &Host, etcd: &Etcd, case: &str) {
    let begun = Instant::now();
    let error = host.create_network("bank", None).expect_err("nobody answers");
    let took = begun.elapsed();
    say(&format!("{case}: a change gave up after {took:?}: {error:?}"));
    assert!(took < BOUND + SLACK, "{case}: {took:?}");
    assert!(matches!(error.code, ErrorCode::StoreUnavailable | ErrorCode::OutcomeUnknown), "{error:?}");
    assert!(error.message.contains(etcd.url()), "{error:?}");
}

#[test]
fn a_host_that_is_cut_off_goes_on_and_is_whole_soon_after() {
    /// A way from one host to another.
    type Way = (u8, u8);
    /// What is lost, the ways on which it is, and for how long.
    const CUTS: [(&str, &[Way], Duration); 7] = [
        ("the store", &[(1, 3), (3, 1)], Duration::from_secs(7)),
        ("what it tells the store", &[(1, 3)], Duration::from_secs(2)),
        ("what the store tells it", &[(3, 1)], Duration::from_secs(2)),
        ("the other host", &[(1, 2), (2, 1)], Duration::ZERO),
        ("what it tells the other host", &[(1, 2)], Duration::ZERO),
        ("what the other host tells it", &[(2, 1)], Duration::ZERO),
        ("both", &[(1, 3), (3, 1), (1, 2), (2, 1)], Duration::from_secs(2)),
    ];
    let lab = Lab::new("a_host_that_is_cut_off_goes_on_and_is_whole_soon_after");
    let mut cluster = Cluster::start(&lab);
    let [one, two] = &cluster.hosts;
    let network = one.network("shop", SUBNET);
    let (web, db) = (lab.member(one, &network, "web-1"), lab.member(one, &network, "db-1"));
    let backend = lab.member(two, &network, "backend-1");
    let _servers = [&db, &backend].map(|member| Server::echo(&member.app, PORT));
    wait_until("web reaches both", || web.pings(db.address()) && web.pings(backend.address()));
    let (within, between) = (stream(&web, db.address()), stream(&web, backend.address()));
    // The datagrams to the other host that a cut may cost: from and to these numbers.
    let mut spans = Vec::new();
    for (case, ways, time) in CUTS {
        let (loses_store, loses_host) = (ways.iter().any(|way| way.0 == 3 || way.1 == 3), ways.contains(&(1, 2)));
        let loses_host = loses_host || ways.contains(&(2, 1));
        // Some were on their way when it began.
        let from = between.sent().saturating_sub(100);
        let cuts = cluster.cut(ways);
        let begun = Instant::now();
        if loses_store {
            gives_up(one, &cluster.etcd, case);
            wait_until("the trouble is said", || {
                one.status().expect("status").problems.iter().any(|problem| problem.starts_with("store: "))
            });
            assert!(is_current(two), "{:?}", two.status());
        }
        within.flows();
        if !loses_host {
            between.flows();
        }
        wait_until("it lasts", || begun.elapsed() > time);
        drop(cuts);
        let mended = Instant::now();
        between.flows();
        let flowing = mended.elapsed();
        if loses_host {
            spans.push((from, between.sent()));
        }
        wait_until("both are well", || is_current(one) && is_current(two));
        say(&format!("{case}: traffic after {flowing:?}, well after {:?}", mended.elapsed()));
        assert!(mended.elapsed() < BOUND + SLACK, "{case}: {:?}", mended.elapsed());
        assert_eq!(one.members().expect("members").len(), two.members().expect("members").len());
    }

    // What the other host does meanwhile is known soon, also where the store has forgotten how it came about.
    let cuts = cluster.cut(&[(1, 3), (3, 1)]);
    let other = lab.member(two, &network, "other-1");
    assert!(two.detach(&network, &backend.container).expect("detach").detached);
    let again = two.attach(&network, &backend.container, None).expect("attached again");
    cluster.etcd.compact();
    cluster.etcd.kill();
    cluster.etcd.start();
    drop(cuts);
    let mended = Instant::now();
    let [one, two] = &cluster.hosts;
    wait_until("both know the same", || is_current(one) && is_current(two) && listed(one) == listed(two));
    say(&format!("after a compaction: well after {:?}", mended.elapsed()));
    assert!(mended.elapsed() < BOUND + SLACK, "{:?}", mended.elapsed());
    wait_until("all are reached", || web.pings(again.member.address) && web.pings(other.address()));
    let (sent, lost) = within.finish();
    assert!(lost.is_empty(), "{} of {sent} on one host were lost: {lost:?}", lost.len());
    let (sent, lost) = between.finish();
    let end = spans.last().expect("some").1;
    let is_allowed = |number: &u64| spans.iter().any(|(from, to)| (from..to).contains(&number));
    let stray: Vec<u64> = lost.iter().copied().filter(|number| *number < end && !is_allowed(number)).collect();
    say(&format!("{} of {sent} to the other host were lost, in the cuts {spans:?}", lost.len()));
    assert!(stray.is_empty(), "{} of {sent} were lost outside of a cut: {stray:?}", stray.len());
    lab.finish();
}

/// What an application of a host that does not hear the store has resolved just before the host hears it again.
#[test]
fn a_name_that_a_cut_off_host_still_answered_leads_to_no_later_holder_of_the_address() {
    const KEPT: Duration = Duration::from_secs(3);
    let lab = Lab::new("a_name_that_a_cut_off_host_still_answered_leads_to_no_later_holder_of_the_address");
    let cluster = Cluster::start(&lab);
    let [one, two] = &cluster.hosts;
    let kept = KEPT.as_secs().to_string();
    let network: NetworkView =
        one.cli().json(&["network", "create", "shop", "--subnet", SUBNET, "--ttl", &kept]).expect("the network");
    let web = lab.member(one, &network, "web-1");
    wait_until("the other host knows the network", || !two.networks().expect("networks").is_empty());
    let backend = lab.member(two, &network, "backend-1");
    wait_until("web reaches backend", || web.pings(backend.address()));
    let to = SocketAddrV4::new(backend.address(), PORT);
    let socket = web.app.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a socket");
    let send = || {
        // The kernel refuses the address while nothing has it.
        let _ = socket.send_to(b"for backend", to);
    };

    let cuts = cluster.cut(&[(1, 3), (3, 1)]);
    assert!(two.detach(&network, &backend.container).expect("detach").detached);
    let other = lab.container("other-1");
    let taken = two.attach(&network, &other, Some(backend.address())).expect("its address is free");
    let server = Server::echo(&other.space, PORT);
    two.wait_until_settled();
    send();
    let returned = Instant::now();
    drop(cuts);
    wait_until("the later holder is reached in the end", || {
        send();
        server.heard(b"for backend")
    });
    let after = returned.elapsed();
    say(&format!("the later holder, {}, was reached after {after:?}", taken.member.hostname));
    assert!(after >= KEPT, "who resolved the name just before reached another after {after:?}");
    drop(server);
    lab.finish();
}

#[test]
fn fifty_attaches_at_once_on_each_of_two_hosts_all_succeed() {
    const EACH: u32 = 50;
    const NETWORKS: u32 = 5;
    let lab = Lab::new("fifty_attaches_at_once_on_each_of_two_hosts_all_succeed");
    let cluster = Cluster::start(&lab);
    let [one, two] = &cluster.hosts;
    let networks: Vec<NetworkView> =
        (0..NETWORKS).map(|number| one.network(&format!("net-{number}"), &format!("10.92.{number}.0/24"))).collect();
    wait_until("the other host knows the networks", || two.networks().expect("networks").len() == networks.len());
    let wanted: Vec<(&Host, &NetworkView, Container)> = (0..EACH)
        .flat_map(|number| [(one, "web", number), (two, "backend", number)])
        .map(|(host, kind, number)| {
            let network = &networks[(number % NETWORKS) as usize];
            (host, network, lab.container(&format!("{kind}-{}", number + 1)))
        })
        .collect();
    let all_at_once = |verb: &str| {
        let begun = Instant::now();
        let running: Vec<_> = wanted
            .iter()
            .map(|(host, network, container)| {
                let (id, number) = (network.id.to_string(), container.number.to_string());
                let path = container.space.path().display().to_string();
                let (app, kind) = (&container.app, &container.kind);
                let mut line = vec![verb, "--network", &id, "--app", app, "--type", kind, "--number", &number];
                if verb == "attach" {
                    line.extend(["--netns", &path]);
                }
                let mut command = host.cli().command(&line);
                command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts")
            })
            .collect();
        for process in running {
            let output = process.wait_with_output().expect("its end");
            assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
        }
        say(&format!("{} times {verb} at once: {:?}", wanted.len(), begun.elapsed()));
    };
    all_at_once("attach");
    let members = one.members().expect("members");
    assert_eq!(members.len(), wanted.len());
    let addresses: BTreeSet<Ipv4Addr> = members.iter().map(|member| member.member.address).collect();
    assert_eq!(addresses.len(), wanted.len(), "each has an address of its own");
    wait_until("both know all of them", || is_current(one) && is_current(two) && listed(one) == listed(two));
    let of_kind = |kind: &str| {
        members.iter().find(|member| *member.member.kind.as_str() == *kind && member.network == networks[0].id)
    };
    let backend = of_kind("backend").expect("it is there").member.address;
    let (_, _, web) = wanted.iter().find(|(_, network, _)| network.id == networks[0].id).expect("it is there");
    wait_until("one reaches one of the other host", || web.space.succeeds(&format!("ping -q -n -c 1 -W 1 {backend}")));
    all_at_once("detach");
    wait_until("both know that nobody is left", || {
        [one, two].iter().all(|host| host.members().expect("members").is_empty())
    });
    drop(wanted);
    lab.finish_detached();
}
