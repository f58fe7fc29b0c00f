//! An older copy of the store is put back while much goes on: addresses have other holders since, one host has no agent, one is
//! cut off, and a container is being attached.
//!
//! ```text
//!  h1: web-1, dead-1 → alive-2 ──┐            ┌── h2: backend-1, alive-1 → dead-2 (in turn: who held an address before, who since)
//!                                ├─ underlay ─┤
//!  h3: far-1, cut-1 ─────────────┘            └── h4: etcd   streams between web-1, backend-1 and far-1, throughout
//! ```
//!
//! And an older copy whose address a third host, which saw nothing of it, gives to another container while both hosts that saw it
//! are cut off.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use privnet::agent::views::{Attached, NetworkView};
use privnet_tests::lab::probe::{Server, Stream, ask_udp};
use privnet_tests::lab::{Container, Cut, Etcd, Host, Joined, Lab, Options, figure, underlay_address, wait_until};

const SUBNET: &str = "10.92.0.0/24";
const PORT: u16 = 7000;
/// Six streams are not to keep the machine busy.
const PACE: Duration = Duration::from_millis(10);
/// What is not put back byte for byte.
const PASSING: [&str; 4] = ["presences/", "vteps/", "fences/", "hosts/"];
/// The number of the host that has etcd.
const ETCD: u8 = 4;

/// Three hosts, and the etcd that they share.
struct Cluster {
    hosts: [Host; 3],
    network: NetworkView,
    etcd: Etcd,
}

impl Cluster {
    fn start(lab: &Lab) -> Self {
        let mut spaces = lab.underlay(ETCD, 1500);
        let mut etcd = Etcd::new(spaces.pop().expect("four"), ETCD);
        etcd.start();
        let options = Options::ebpf().with_etcd(etcd.url());
        let hosts = (1..).zip(spaces).map(|(number, space)| lab.host_in(space, number, &options)).collect::<Vec<_>>();
        let hosts = <[Host; 3]>::try_from(hosts).unwrap_or_else(|_| unreachable!("three"));
        let network = hosts[0].network("shop", SUBNET);
        for host in &hosts {
            wait_until("each host knows the network", || host.networks().is_ok_and(|networks| networks.len() == 1));
        }
        Self { hosts, network, etcd }
    }

    /// Copies the store, or puts the copy back, while it does not run.
    fn restart(&mut self, meanwhile: impl FnOnce(&Etcd)) {
        self.etcd.kill();
        meanwhile(&self.etcd);
        self.etcd.start();
    }

    fn is_well(&self, hosts: &[usize], members: usize) -> bool {
        hosts.iter().all(|host| {
            let listed = self.hosts[*host].members().map(|members| members.len());
            let status = self.hosts[*host].status();
            status.is_ok_and(|status| status.problems.is_empty() && status.members == status.members_ready)
                && listed.is_ok_and(|listed| listed == members)
        })
    }

    #[track_caller]
    fn wait_until_well(&self, hosts: &[usize], members: usize) {
        let said =
            || hosts.iter().map(|host| format!("{:?}", self.hosts[*host].status())).collect::<Vec<_>>().join("\n");
        wait_until(format!("{hosts:?} are well with {members} members: {}", said()), || self.is_well(hosts, members));
    }

    #[track_caller]
    fn detach(&self, host: usize, container: &Container) {
        assert!(self.hosts[host].detach(&self.network, container).expect("detach").detached);
    }

    /// Gives an address that was just let go to another container.
    fn give(&self, host: usize, container: &Container, address: Ipv4Addr) -> Attached {
        let mut given = None;
        wait_until("the address is given to the next one", || {
            given = self.hosts[host].attach(&self.network, container, Some(address)).ok();
            given.is_some()
        });
        given.expect("attached")
    }

    fn records(&self) -> BTreeMap<String, String> {
        self.etcd.records(&PASSING)
    }
}

fn stream(from: &Joined, to: &Joined) -> Stream {
    let stream = Stream::start(&from.app, (to.address(), PORT), PACE);
    stream.flows();
    stream
}

#[test]
fn a_restore_beside_reused_addresses_absent_hosts_and_an_attach_takes_nothing_away() {
    let lab = Lab::new("a_restore_beside_reused_addresses_absent_hosts_and_an_attach_takes_nothing_away");
    let mut cluster = Cluster::start(&lab);
    let member = |cluster: &Cluster, host: usize, name: &str| lab.member(&cluster.hosts[host], &cluster.network, name);
    let (web, backend, far) =
        (member(&cluster, 0, "web-1"), member(&cluster, 1, "backend-1"), member(&cluster, 2, "far-1"));
    let servers = [&web, &backend, &far].map(|member| Server::echo(&member.app, PORT));
    wait_until("all reach each other", || {
        web.pings(backend.address()) && backend.pings(far.address()) && far.pings(web.address())
    });
    let streams = [stream(&web, &backend), stream(&backend, &far), stream(&far, &web)];
    // Those whose addresses have another holder after the copy.
    let (dead, alive, cut_off) =
        (member(&cluster, 0, "dead-1"), member(&cluster, 1, "alive-1"), member(&cluster, 2, "cut-1"));
    cluster.wait_until_well(&[0, 1, 2], 6);
    cluster.restart(Etcd::back_up_data);
    cluster.wait_until_well(&[0, 1, 2], 6);

    // Each address goes to a container on another host; two of the holders before live on, at other addresses.
    let mut since = Vec::new();
    for (from, before, to, name) in [(0, &dead, 1, "next-1"), (1, &alive, 0, "next-2"), (2, &cut_off, 0, "next-3")] {
        cluster.detach(from, &before.container);
        let next = lab.container(name);
        let attached = cluster.give(to, &next, before.address());
        since.push(cluster.hosts[to].joined(&cluster.network, &next, attached));
    }
    let alive = cluster.hosts[1].join(&cluster.network, &alive.container);
    let cut_off = cluster.hosts[2].join(&cluster.network, &cut_off.container);
    let far_new = member(&cluster, 2, "far-2");
    let all: Vec<&Joined> = [&web, &backend, &far, &alive, &cut_off, &far_new].into_iter().chain(&since).collect();
    wait_until("all are reached", || {
        all.iter().all(|member| web.address() == member.address() || web.pings(member.address()))
    });
    let more_servers: Vec<Server> = since.iter().map(|member| Server::echo(&member.app, PORT)).collect();
    let to_next: Vec<Stream> = since.iter().map(|next| stream(&backend, next)).collect();
    cluster.wait_until_well(&[0, 1, 2], all.len());
    wait_until("each is ready in the store", || {
        !cluster.records().values().any(|record| record.contains(r#""attaching""#))
    });
    let whole = cluster.records();

    // The third host is cut off from the store, the copy is put back, and a container is attached meanwhile.
    let cuts =
        Cut::between((&cluster.hosts[2].space, underlay_address(3)), (cluster.etcd.space(), underlay_address(ETCD)));
    let container = lab.container("late-1");
    let path = container.space.path().display().to_string();
    let line =
        ["attach", "--network", "shop", "--app", &container.app, "--type", "late", "--netns", &path, "-o", "json"];
    let mut command = cluster.hosts[0].cli().command(&line);
    let in_flight = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    cluster.restart(Etcd::put_data_back);
    let restored = Instant::now();
    let output = in_flight.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // Done before, done after, or refused: and then it succeeds.
    let late = cluster.hosts[0].join(&cluster.network, &container);
    let members = all.len() + 1;
    cluster.wait_until_well(&[0, 1], members);
    let of_two = restored.elapsed();
    for stream in streams.iter().chain(&to_next) {
        stream.flows();
    }
    drop(cuts);
    let rejoined = Instant::now();
    cluster.wait_until_well(&[0, 1, 2], members);
    let is_whole = || {
        let now = cluster.records();
        whole.iter().all(|(key, value)| now.get(key) == Some(value))
    };
    wait_until("the store has again what it had", is_whole);
    let of_third = rejoined.elapsed();
    wait_until("the late one is reached", || far.pings(late.address()) && backend.pings(late.address()));
    figure(&format!(
        "a restore with a host cut off: two hosts well after {of_two:.1?}, the third {of_third:.1?} after its return; an attach in \
         flight {}",
        if output.status.success() { "succeeded".to_owned() } else { format!("was refused: {said}") }
    ));

    // Again, and the third host has no agent; what is attached meanwhile keeps clear of what it has.
    cluster.restart(Etcd::back_up_data);
    cluster.wait_until_well(&[0, 1, 2], members);
    let far_newest = member(&cluster, 2, "far-3");
    wait_until("it is reached", || web.pings(far_newest.address()));
    cluster.hosts[2].kill();
    cluster.restart(Etcd::put_data_back);
    let restored = Instant::now();
    cluster.wait_until_well(&[0, 1], members + 1);
    let of_two = restored.elapsed();
    let newest = member(&cluster, 0, "newest-1");
    assert!(newest.address() != far_newest.address());
    cluster.hosts[2].start();
    let back = Instant::now();
    cluster.wait_until_well(&[0, 1, 2], members + 2);
    wait_until("the third host's member is in the store again", || {
        cluster.records().keys().any(|key| key.contains("/3.far.") && key.starts_with("members/"))
    });
    wait_until("all reach each other", || newest.pings(far_newest.address()) && far_newest.pings(newest.address()));
    figure(&format!(
        "a restore with a host away: two hosts well after {of_two:.1?}, all {:.1?} after its return",
        back.elapsed()
    ));

    // Each name leads to its own member, and no datagram was lost, in either restore.
    for member in all.iter().copied().chain([&late, &far_newest, &newest]) {
        let (name, address) = (&member.attached.member.hostname, member.address().to_string());
        wait_until(format!("{name} is {address}"), || web.told(name) == address && far.told(name) == address);
    }
    assert_eq!(web.told(&dead.attached.member.hostname), "");
    let (mut all_sent, mut all_lost) = (0, 0);
    for stream in streams.into_iter().chain(to_next) {
        stream.flows();
        let (sent, lost) = stream.finish();
        (all_sent, all_lost) = (all_sent + sent, all_lost + lost.len());
    }
    figure(&format!("two restores: {all_lost} of {all_sent} datagrams of six streams were lost"));
    assert_eq!(all_lost, 0);
    drop((servers, more_servers));
    lab.finish();
}

#[test]
fn of_two_living_members_of_one_address_the_earlier_keeps_it_and_the_later_gets_another() {
    let lab = Lab::new("of_two_living_members_of_one_address_the_earlier_keeps_it_and_the_later_gets_another");
    let mut spaces = lab.underlay(ETCD, 1500);
    let mut etcd = Etcd::new(spaces.pop().expect("four"), ETCD);
    etcd.start();
    let options = Options::ebpf().with_etcd(etcd.url());
    let of_third = spaces.pop().expect("three");
    let two = lab.host_in(spaces.pop().expect("two"), 2, &options);
    let one = lab.host_in(spaces.pop().expect("one"), 1, &options);
    let network = one.network("shop", SUBNET);
    let web = lab.member(&one, &network, "web-1");
    wait_until("the other host knows the network", || two.networks().is_ok_and(|networks| networks.len() == 1));
    etcd.kill();
    etcd.back_up_data();
    etcd.start();
    let attaches = |host: &Host, container: &Container| {
        let mut attached = None;
        wait_until("it is attached", || {
            attached = host.attach(&network, container, None).ok();
            attached.is_some()
        });
        host.joined(&network, container, attached.expect("attached"))
    };
    let earlier = attaches(&two, &lab.container("earlier-1"));
    let address = earlier.address();
    let of_earlier = Server::echo(&earlier.app, PORT);
    wait_until("web reaches it", || web.pings(address));
    let between = stream(&web, &earlier);

    // The store steps back behind the attach while both hosts that saw it are cut off from it. A third host joins meanwhile,
    // which nothing tells that the address is held.
    let cuts = [(&one, 1), (&two, 2)].map(|(host, number)| {
        Cut::between((&host.space, underlay_address(number)), (etcd.space(), underlay_address(ETCD)))
    });
    etcd.kill();
    etcd.put_data_back();
    etcd.start();
    let three = lab.host_in(of_third, 3, &options);
    let later = attaches(&three, &lab.container("later-1"));
    assert_eq!(later.address(), address, "it is free, as far as the store and the third host know");
    let near = attaches(&three, &lab.container("near-1"));
    let of_later = Server::echo(&later.app, PORT);
    let asks = |what: &[u8], of: &Server| {
        let _ = ask_udp(&near.app, (address, PORT), what, Duration::from_secs(1));
        of.heard(what)
    };
    wait_until("on its host the later one has the address", || asks(b"before", &of_later));
    between.flows();

    // Both hosts are back: each of the three says that the address is the earlier one's, and that of the later one says why.
    drop(cuts);
    let begun = Instant::now();
    let names = [&earlier, &later].map(|joined| joined.container.reference().to_string());
    let said = |host: &Host| host.status().expect("status").problems;
    wait_until("the host of the later one says that it is kept off", || {
        said(&three).iter().any(|problem| {
            problem.starts_with(&format!("store: {} is kept off ", names[1]))
                && problem.contains(&names[0])
                && problem.contains(&address.to_string())
        })
    });
    let took = begun.elapsed();
    let has_it = |host: &Host| {
        let members = host.members().expect("members").into_iter();
        let of_address = members.filter(|member| member.member.address == address);
        of_address.map(|member| (member.host.to_string(), member.member.hostname)).collect::<Vec<_>>()
    };
    let name = earlier.attached.member.hostname.clone();
    for host in [&one, &two, &three] {
        wait_until(format!("{} lists the earlier one alone: {:?}", host.name, host.members()), || {
            has_it(host) == [("h2".to_owned(), name.clone())]
        });
    }
    wait_until("the hosts of the earlier one and of its peer are well", || {
        [&one, &two].iter().all(|host| said(host).is_empty())
    });
    wait_until("from the host of the later one the earlier one is reached", || asks(b"after", &of_earlier));
    assert!(!of_later.heard(b"after"));
    between.flows();

    // Attached again it has another address, at which all reach it.
    drop(of_later);
    let again = three.attach(&network, &later.container, None).expect("attached again");
    let again = three.joined(&network, &later.container, again);
    assert!(again.address() != address && again.address() != web.address() && again.address() != near.address());
    three.wait_until_settled();
    wait_until("all reach it", || [&web, &earlier, &near].iter().all(|member| member.pings(again.address())));
    wait_until("it reaches the earlier one", || again.pings(address));
    let (sent, lost) = between.finish();
    figure(&format!(
        "an address of two living members: kept off after {took:.1?}; {} of {sent} datagrams to the earlier were lost",
        lost.len()
    ));
    assert_eq!(lost, Vec::<u64>::new());
    lab.finish();
}
