//! A store that is not the fleet's, or does not answer: agents serve what they have seen, and write nothing, until an operator
//! says which store it is.
//!
//! ```text
//!  h1: agent, web-1 ──────────┐            ┌── h2: agent, backend-1
//!                             ├─ underlay ─┤   a stream of datagrams from web-1 to backend-1, and back, throughout
//!      h3: etcd (wiped, older,┘            └── h4: an etcd of another fleet, or the next one of this
//!          without its keys)                   h5: an agent of the other fleet, or a new one of this
//! ```
#![expect(clippy::print_stdout, reason = "the figures")]

mod cluster;
mod rebuild;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::thread;
use std::time::Instant;

use cluster::{Cluster, ready_records_of, records_of};
use privnet::agent::ErrorCode;
use privnet::agent::views::{Attached, ImportedState};
use privnet_tests::lab::cli::Cli;
use privnet_tests::lab::failpoint::{Action, Passage};
use privnet_tests::lab::{Container, Etcd, Host, Lab, Options, SOON, wait_until};
use rebuild::{Elsewhere, is_refused, rebuild, wait_until_it_says, wait_until_on_disk};
use serde_json::Value;

#[test]
fn a_store_that_was_lost_is_rebuilt_by_the_hosts_and_no_datagram_is_lost() {
    let lab = Lab::new("a_store_that_was_lost_is_rebuilt_by_the_hosts_and_no_datagram_is_lost");
    let mut cluster = Cluster::start(&lab, &mut lab.underlay(3, 1500));
    let records = cluster.ready_records();
    let error = rebuild(&cluster.hosts[0], &[]).expect_err("nothing is wrong");
    assert!(error.message.contains("nothing to rebuild"), "{error:?}");

    // The store does not answer: an agent that is started again then serves what was seen.
    cluster.etcd.kill();
    for host in &cluster.hosts {
        host.kill();
        host.start();
    }
    cluster.serves(cluster.etcd.url());
    cluster.etcd.start();
    cluster.wait_until_settled();
    assert_eq!(records_of(&cluster.etcd), records);

    // Its data directory is gone.
    cluster.etcd.kill();
    cluster.etcd.put_data_aside();
    cluster.etcd.start();
    let reason = "has no record of fleet fl-";
    cluster.wait_until_refused(reason);
    cluster.serves(reason);
    for host in &cluster.hosts {
        host.kill();
        host.start();
    }
    cluster.wait_until_refused(reason);
    cluster.serves(reason);
    assert_eq!(cluster.etcd.records(&[]), BTreeMap::new(), "nothing was written");
    assert_eq!(cluster.rebuild(&cluster.hosts[0], &records, "a store whose data were gone").epoch, 2);
    cluster.wait_until_settled();

    // Everything was deleted, with the fleet's record, and the host of one member is away until later.
    cluster.hosts[0].kill();
    cluster.etcd.delete(&[""]);
    wait_until_it_says(&cluster.hosts[1], reason);
    assert_eq!(cluster.rebuild(&cluster.hosts[1], &records, "a store whose keys were deleted, one host away").epoch, 3);
    cluster.hosts[0].start();
    cluster.wait_until_settled();
    assert_eq!(records_of(&cluster.etcd), records);

    // An older copy, from before both.
    cluster.etcd.kill();
    cluster.etcd.put_data_back();
    cluster.etcd.start();
    cluster.wait_until_refused("it is an older copy");
    cluster.hosts[0].kill();
    cluster.hosts[0].start();
    cluster.serves("it is an older copy");
    assert_eq!(cluster.rebuild(&cluster.hosts[0], &records, "an older copy").epoch, 4);
    cluster.wait_until_settled();

    is_attached_meanwhile(&lab, &cluster);
    is_restored_twice(&lab, &mut cluster);
    cluster.end_stream();
    // The twin of the refusals.
    assert!(cluster.hosts[0].detach(&cluster.network, &cluster.web.container).expect("detach").detached);
    lab.finish();
}

/// Containers are attached on both hosts, one after the other, while the store loses all its keys and is rebuilt.
fn is_attached_meanwhile(lab: &Lab, cluster: &Cluster) {
    let before = cluster.ready_records();
    let containers: Vec<_> = (1..=6).map(|number| lab.container(&format!("flight-{number}"))).collect();
    let asking: Vec<_> = cluster
        .hosts
        .iter()
        .zip(containers.chunks(3))
        .map(|(host, containers)| {
            let (agent, containers) = (host.cli(), containers.iter().map(attach_line).collect::<Vec<_>>());
            thread::spawn(move || containers.iter().map(|line| attaches(&agent, line)).collect::<Vec<_>>())
        })
        .collect();
    cluster.etcd.delete(&[""]);
    cluster.wait_until_refused("has no record of fleet fl-");
    let begun = Instant::now();
    rebuild(&cluster.hosts[0], &[]).expect("rebuilt");
    let answers: Vec<(Ipv4Addr, usize)> =
        asking.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
    let addresses: BTreeSet<Ipv4Addr> = answers.iter().map(|(address, _)| *address).collect();
    assert_eq!(addresses.len(), containers.len(), "{answers:?}");
    for host in &cluster.hosts {
        wait_until(format!("all are members, and no other: {:?}", host.members()), || {
            host.members().is_ok_and(|members| members.len() == containers.len() + 2)
                && host.status().is_ok_and(|status| status.problems.is_empty())
        });
    }
    wait_until("backend reaches them all", || addresses.iter().all(|address| cluster.backend.pings(*address)));
    let refusals: usize = answers.iter().map(|(_, refusals)| refusals).sum();
    println!(
        "figure: a rebuild beside attaches: {} answered and there after {:.1?}, {refusals} refused meanwhile",
        answers.len(),
        begun.elapsed()
    );
    cluster.flows();
    for (host, containers) in cluster.hosts.iter().zip(containers.chunks(3)) {
        for container in containers {
            assert!(host.detach(&cluster.network, container).expect("detach").detached);
        }
    }
    let is_as_before = || {
        let now = records_of(&cluster.etcd);
        before.iter().all(|(key, value)| now.get(key) == Some(value)) && !now.keys().any(|key| key.contains(".flight."))
    };
    wait_until("the store has what it had, and nothing of them", is_as_before);
    cluster.wait_until_settled();
}

fn attach_line(container: &Container) -> Vec<String> {
    let (path, number) = (container.space.path().display().to_string(), container.number.to_string());
    let Container { app, kind, .. } = container;
    let line = ["attach", "--network", "shop", "--app", app, "--type", kind, "--number", &number, "--netns", &path];
    line.map(str::to_owned).to_vec()
}

/// Attaches a container, and again for as long as the store is none; its address, and how often it was refused.
fn attaches(agent: &Cli, line: &[String]) -> (Ipv4Addr, usize) {
    let (begun, line): (Instant, Vec<&str>) = (Instant::now(), line.iter().map(String::as_str).collect());
    let mut refusals = 0;
    loop {
        match agent.json::<Attached>(&line) {
            Ok(attached) => return (attached.member.address, refusals),
            Err(error) => {
                let is_of_store = [ErrorCode::StoreUnavailable, ErrorCode::OutcomeUnknown].contains(&error.code);
                assert!(is_of_store && begun.elapsed() < SOON, "{error:?}");
                refusals += 1;
            }
        }
    }
}

/// Two copies of the same epoch: the second has a member that has gone since, and the first has not heard of it.
fn is_restored_twice(lab: &Lab, cluster: &mut Cluster) {
    cluster.etcd.kill();
    cluster.etcd.back_up_data();
    cluster.etcd.start();
    cluster.wait_until_settled();
    let new = lab.member(&cluster.hosts[0], &cluster.network, "new-1");
    let with_new = cluster.ready_records();
    let restore = |cluster: &mut Cluster, records: &BTreeMap<String, String>, what: &str| {
        cluster.etcd.kill();
        cluster.etcd.put_data_back();
        cluster.etcd.start();
        let start = Instant::now();
        wait_until(format!("{what}: the store has what was seen"), || records_of(&cluster.etcd) == *records);
        println!("figure: {what}: {} records were there after {:.1?}", records.len(), start.elapsed());
    };
    restore(cluster, &with_new, "a copy from before a member");
    wait_until("backend reaches it", || cluster.backend.pings(new.address()));
    assert!(cluster.hosts[0].detach(&cluster.network, &new.container).expect("detach").detached);
    let without = cluster.ready_records();
    assert!(!without.keys().any(|key| key.contains("/1.new.")), "{without:?}");
    restore(cluster, &without, "and then one that still has it");
    cluster.wait_until_settled();
    assert!(!cluster.backend.pings(new.address()), "it has gone");
}

#[test]
fn an_agent_writes_nothing_into_the_store_of_another_fleet() {
    let lab = Lab::new("an_agent_writes_nothing_into_the_store_of_another_fleet");
    let mut spaces = lab.underlay(5, 1500);
    let cluster = Cluster::start(&lab, &mut spaces);
    let mut other = Etcd::new(spaces.remove(0), 4);
    other.start();
    let stranger = lab.host_in(spaces.remove(0), 5, &Options::ebpf().with_etcd(other.url()));
    let theirs = stranger.network("theirs", "10.93.0.0/24");
    let member = lab.member(&stranger, &theirs, "their-1");
    let before = ready_records_of(&other);
    wait_until_on_disk(&stranger, &["/1.their."]);
    let [one, _] = &cluster.hosts;

    let elsewhere = Elsewhere::start(one, &cluster.etcd, &other);
    let reason = "the store is that of fleet fl-";
    wait_until_it_says(one, reason);
    cluster.flows();
    is_refused(one, &cluster.network, &cluster.web, reason);
    let error = one.attach(&cluster.network, &lab.container("new-1"), None).expect_err("a refusal");
    assert!(error.code == ErrorCode::StoreUnavailable && error.message.contains(reason), "{error:?}");
    let error = rebuild(one, &[]).expect_err("another fleet has it");
    assert!(error.message.contains("which has 1 network and 1 member in it"), "{error:?}");
    assert!(error.remedy.contains("--yes"), "{error:?}");
    assert_eq!(records_of(&other), before, "nothing was written");
    let leased = other.records(&[]);
    assert!(!leased.contains_key("presences/h1") && !leased.contains_key(&format!("vteps/{}", one.vtep)), "{leased:?}");
    elsewhere.end();
    cluster.wait_until_settled();
    cluster.end_stream();

    // The operator's word: the other fleet's records go, and its agent serves and writes nothing. The agent is killed behind
    // each commit that follows from it.
    let mut elsewhere = Elsewhere::start(one, &cluster.etcd, &other);
    let (begun, mut kills) = (Instant::now(), 0);
    // Of the files, the note of the fleet and the snapshot are written. Behind the last commit nothing is left to do.
    let files = [("write file", 1), ("rename file", 1), ("rename file", 2)];
    let files = files.map(|(step, time)| Passage { step: step.to_owned(), time });
    let commits = (1..).map(|time| Passage { step: "commit".to_owned(), time });
    for passage in files.into_iter().chain(commits) {
        let was_killed = is_killed(&mut elsewhere, &other, &passage);
        if !was_killed && passage.step == "commit" {
            break;
        }
        kills += u32::from(was_killed);
        wait_until("this fleet's member is in the store, and nothing of the other fleet's", || {
            let records = other.records(&[]);
            let has = |part: &str| records.keys().any(|key| key.contains(part));
            has("/1.web.") && !has(&theirs.id.to_string()) && !records.contains_key("hosts/h5")
        });
        if kills == 1 {
            wait_until_it_says(&stranger, "the store ");
            is_refused(&stranger, &theirs, &member, "the store ");
        }
        take_back(&stranger, &other, &before);
    }
    assert!(kills > 5, "{kills}");
    println!("figure: a rebuild over another fleet's records: killed behind {kills} steps, {:.1?}", begun.elapsed());
    elsewhere.end();
    rebuild(one, &[]).expect("this fleet's, of an older epoch");
    cluster.wait_until_settled();
    take_back(&stranger, &other, &before);
    stranger.wait_until_settled();
    lab.finish();
}

/// Gives the word, kills the agent behind this step, and gives the word again; whether it came to that step.
fn is_killed(elsewhere: &mut Elsewhere<'_>, store: &Etcd, passage: &Passage) -> bool {
    let points = elsewhere.host.failpoints();
    points.arm(Action::Kill, passage);
    let answer = rebuild(elsewhere.host, &["--yes"]);
    // What it knows is put back behind the answer.
    let is_whole = || records_of(store).keys().any(|key| key.contains("/1.web."));
    wait_until("the agent is killed, or has written all", || elsewhere.has_ended() || is_whole());
    if !points.is_reached() {
        let _ = points.disarm();
        answer.expect("nothing was in its way");
        return false;
    }
    wait_until("its end", || elsewhere.has_ended());
    elsewhere.start_again();
    match rebuild(elsewhere.host, &["--yes"]) {
        Ok(_) => {}
        Err(error) => assert!(error.message.contains("nothing to rebuild"), "{error:?}"),
    }
    true
}

/// The other fleet's operator says that the store is its own.
fn take_back(stranger: &Host, store: &Etcd, records: &BTreeMap<String, String>) {
    // What was lost again and again waits longer each time; not in the next agent.
    stranger.kill();
    stranger.start();
    rebuild(stranger, &["--yes"]).expect("the other fleet's");
    wait_until("the other fleet has its records", || records_of(store) == *records);
}

#[test]
fn a_fleet_moves_to_another_cluster_and_the_old_one_takes_nothing_back() {
    let lab = Lab::new("a_fleet_moves_to_another_cluster_and_the_old_one_takes_nothing_back");
    let mut spaces = lab.underlay(5, 1500);
    let cluster = Cluster::start(&lab, &mut spaces);
    let mut next = Etcd::new(spaces.remove(0), 4);
    next.start();
    let [one, two] = &cluster.hosts;
    let records = cluster.ready_records();
    let file = lab.directory().join("store.json").display().to_string();

    // A copy of now, without a private key; what is detached since stays away when it is given back.
    let old = lab.member(two, &cluster.network, "old-1");
    let with_old = cluster.ready_records();
    assert!(with_old.keys().any(|key| key.contains("/1.old.")), "{with_old:?}");
    let past = one.network("past", "10.94.0.0/24");
    let exported: Value = one.cli().json(&["state", "export", &file]).expect("a copy");
    assert_eq!((&exported["closed"], exported.get("store_age_seconds")), (&Value::Bool(false), None));
    has_no_private_key(&std::fs::read_to_string(&file).expect("the copy"), [one, two]);
    assert!(two.detach(&cluster.network, &old.container).expect("detach").detached);
    one.delete_network("past").expect("deleted");
    cluster.etcd.delete(&["members/", "networks/", "public-keys/"]);
    let imported = one.cli().json::<ImportedState>(&["state", "import", &file]).expect("imported");
    assert_eq!((imported.epoch, imported.passed_over.len()), (1, 1), "it was the fleet's all the time");
    wait_until("what was lost is back", || {
        let now = records_of(&cluster.etcd);
        records.keys().all(|key| now.contains_key(key)) && !now.keys().any(|key| key.contains("/1.old."))
    });
    cluster.wait_until_settled();
    // The deleted network comes back by the operator's word alone.
    assert!(imported.passed_over[0].contains(&past.id.to_string()), "{imported:?}");
    assert_eq!(one.networks().expect("the networks").len(), 1);
    let imported = one.cli().json::<ImportedState>(&["state", "import", &file, "--lost-networks"]).expect("imported");
    assert!(imported.passed_over.is_empty(), "{imported:?}");
    wait_until("it is back", || one.networks().is_ok_and(|networks| networks.len() == 2));
    one.delete_network("past").expect("deleted again");

    // The move: closed, the agents on it serve and refuse.
    let before = cluster.ready_records();
    let closed: Value = one.cli().json(&["state", "export", &file, "--close"]).expect("closed");
    assert_eq!(closed["closed"], Value::Bool(true));
    let reason = "the store was closed when fleet fl-";
    cluster.wait_until_refused(reason);
    cluster.serves(reason);
    assert_eq!(records_of(&cluster.etcd), before, "nothing was written");
    let refused = two.cli().json::<ImportedState>(&["state", "import", &file]).expect_err("it is the old one");
    assert!(refused.message.contains(reason), "{refused:?}");
    let start = Instant::now();
    // By a new host that has seen nothing of it, whose agent is killed when the store is the fleet's and has nothing yet.
    let options = Options::ebpf().with_etcd(next.url()).with_failpoints();
    let new = lab.host_in(spaces.remove(0), 5, &options);
    new.failpoints().arm(Action::Kill, &Passage { step: "commit".to_owned(), time: 1 });
    let killed = new.cli().json::<ImportedState>(&["state", "import", &file]);
    assert!(killed.is_err() && new.failpoints().is_reached(), "{killed:?}");
    new.start();
    assert_eq!(records_of(&next).keys().filter(|key| !key.starts_with("hosts/")).count(), 0, "nothing yet");
    let imported = new.cli().json::<ImportedState>(&["state", "import", &file]).expect("imported");
    assert_eq!((imported.epoch, imported.written), (2, imported.records));
    let moved = [one, two].map(|host| Elsewhere::start(host, &cluster.etcd, &next));
    wait_until("the records are in the next one", || {
        let mut records = records_of(&next);
        records.remove("hosts/h5");
        records == before
    });
    cluster.wait_until_settled();
    println!("figure: a fleet that moved: on the next cluster without a problem after {:.1?}", start.elapsed());
    cluster.end_stream();
    assert!(one.detach(&cluster.network, &cluster.web.container).is_ok_and(|detached| detached.detached), "the twin");

    // An agent that is given the old one again.
    let [first, second] = moved;
    second.end();
    wait_until_it_says(two, "it is an older copy");
    is_refused(two, &cluster.network, &cluster.backend, "it is an older copy");
    assert_eq!(records_of(&cluster.etcd), before, "nothing was written");
    // The operator takes the move back.
    first.end();
    assert_eq!(rebuild(two, &[]).expect("rebuilt").epoch, 3);
    wait_until("both are on the old one", || {
        [one, two].iter().all(|host| host.status().is_ok_and(|status| status.problems.is_empty()))
    });
    wait_until("what was ended meanwhile is away", || {
        !records_of(&cluster.etcd).keys().any(|key| key.contains("/1.web."))
    });
    lab.finish();
}

fn has_no_private_key(copy: &str, hosts: [&Host; 2]) {
    let mut keys = 0;
    for host in hosts {
        for entry in std::fs::read_dir(host.paths().state.join("members")).expect("its records") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "key") {
                let key = std::fs::read_to_string(path).expect("a key");
                assert!(!key.trim().is_empty() && !copy.contains(key.trim()), "a private key is in the copy");
                keys += 1;
            }
        }
    }
    assert_eq!(keys, 3);
}
