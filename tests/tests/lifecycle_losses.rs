//! A store that loses what it was told takes no running container's network away, and gets it back.
//!
//! ```text
//!  h1: agent, web-1 ──────────┐            ┌── h2: agent, backend-1
//!                             ├─ underlay ─┤   a stream of datagrams from web-1 to backend-1, and back, throughout
//!               h3: etcd ─────┘            └── (keys deleted, an older copy put back, agents away meanwhile)
//! ```
//!
//! And a host whose own disk takes nothing more.

mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cluster::{Cluster, LATER, PACE, PORT};
use privnet::agent::ErrorCode;
use privnet::agent::views::{Check, CheckStatus, HostView};
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{Container, Host, Lab, figure, process, say, wait_until, wait_within};
use rustix::process::Signal;

const SUBNET: &str = "10.90.0.0/24";
/// A refusal that waited for something takes longer: an attach waits for 30 s.
const AT_ONCE: Duration = Duration::from_secs(10);
/// What a line begins with that tells of what was lost for the first time and is put back.
const PUT_BACK: &str = "INFO privnet::agent::put_back: put back what the store had lost: ";
/// A part of the line that tells of a member that was lost again, and names the command that ends it.
const AGAIN: &str = " was lost again, and is put back (2 times by now), after growing pauses; `privnet detach ";

/// Deletes keys, waits until the store has all records again, and returns how long that took.
#[track_caller]
fn lose(cluster: &Cluster, records: &BTreeMap<String, String>, lost: &[&str]) -> Duration {
    let begun = Instant::now();
    cluster.etcd.delete(lost);
    cluster.wait_until_back(records, &lost.join(" "));
    let took = begun.elapsed();
    cluster.flows();
    assert_eq!(cluster.web.told(&cluster.backend.attached.member.hostname), cluster.backend.address().to_string());
    took
}

/// The keys that begin so.
fn keys(cluster: &Cluster, prefix: &str) -> BTreeSet<String> {
    cluster.etcd.records(&[]).into_keys().filter(|key| key.starts_with(prefix)).collect()
}

/// Both agents die and others start, which put back at once what was lost before.
fn restart(cluster: &Cluster, meanwhile: impl FnOnce()) {
    cluster.hosts.iter().for_each(|host| host.kill());
    meanwhile();
    cluster.hosts.iter().for_each(|host| host.start());
    cluster.wait_until_settled();
}

/// Fences only move, and hold nothing: what moves them next makes them anew.
#[track_caller]
fn fences_are_made_anew(cluster: &Cluster, further: &Container) {
    let [one, _] = &cluster.hosts;
    cluster.etcd.delete(&["fences/"]);
    let attached = one.attach(&cluster.network, further, None).expect("a further name");
    assert_eq!(attached.member.address, cluster.web.address());
    one.create_network("other", None).expect("created");
    one.delete_network("other").expect("deleted");
    cluster.flows();
    assert!(keys(cluster, "fences/").contains("fences/networks"));
}

/// Each host puts back its own, and says it once; one of them puts back a network.
#[track_caller]
fn each_puts_back_its_own(cluster: &Cluster, records: &BTreeMap<String, String>) {
    let names = ["1.web.", "1.backend."];
    let took = lose(cluster, records, &["members/"]);
    figure(&format!("each host put back its own member within {took:.1?}"));
    for (host, own) in cluster.hosts.iter().zip(names) {
        wait_until("the host says what it has put back", || !host.said(PUT_BACK).is_empty());
        let lines = host.said(PUT_BACK);
        let told: Vec<&str> = names.into_iter().filter(|name| lines.concat().contains(name)).collect();
        assert!(lines.len() == 1 && told == [own], "{} tells of {own} alone: {lines:?}", host.name);
    }
    lose(cluster, records, &["networks/"]);
    let line = format!("{PUT_BACK}network {}", cluster.network.id);
    let of_network = || cluster.hosts.iter().flat_map(|host| host.said(&line)).collect::<Vec<_>>();
    wait_until("a host says that it has put back the network", || !of_network().is_empty());
    assert_eq!(of_network().len(), 1, "{:?}", of_network());
    lose(cluster, records, &["hosts/"]);
    for (host, other) in cluster.hosts.iter().zip(["host h2", "host h1"]) {
        assert_eq!(host.said(&format!("{PUT_BACK}{other}")), Vec::<String>::new(), "each host tells of itself");
    }
}

/// What is held under a lease its host writes anew; the names stay meanwhile.
#[track_caller]
fn each_says_again_that_it_is_there(cluster: &Cluster) {
    for leased in ["presences/", "vteps/"] {
        let before = keys(cluster, leased);
        assert_eq!(before.len(), 2, "{before:?}");
        cluster.etcd.delete(&[leased]);
        wait_until("both hosts say again what is theirs", || keys(cluster, leased) == before);
        cluster.flows();
    }
    assert_eq!(cluster.web.told(&cluster.backend.attached.member.hostname), cluster.backend.address().to_string());
}

/// A drained host stays drained.
#[track_caller]
fn a_drain_is_put_back(cluster: &Cluster) {
    let [one, _] = &cluster.hosts;
    let _ = one.cli().text(&["host", "drain", "h2", "--wait", "0"]);
    let is_drained = || one.cli().json::<Vec<HostView>>(&["hosts"]).expect("hosts")[1].draining;
    wait_until("h2 is drained", is_drained);
    let records = cluster.ready_records();
    cluster.etcd.delete(&["drains/"]);
    cluster.wait_until_back(&records, "drains/");
    assert!(is_drained());
    cluster.flows();
    let _ = one.cli().text(&["host", "drain", "h2", "--cancel"]);
    let (name, address) = (&cluster.backend.attached.member.hostname, cluster.backend.address().to_string());
    wait_until("the name of h2's member is told again", || cluster.web.told(name) == address);
}

/// Another host puts back what is of a host that is away, after that one's turn.
#[track_caller]
fn another_puts_back_what_is_of_a_host_that_is_away(cluster: &Cluster, records: &BTreeMap<String, String>) {
    let [one, two] = &cluster.hosts;
    let line = format!("{PUT_BACK}1.backend.");
    assert_eq!(one.said(&line), Vec::<String>::new(), "it was the turn of h2 each time");
    two.kill();
    let begun = Instant::now();
    cluster.etcd.delete(&["members/", "presences/h2"]);
    cluster.wait_until_back(records, "members of a host that is away");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(3), "it is the host's own turn first: {took:?}");
    figure(&format!("another host put back the member of a host that is away within {took:.1?}"));
    wait_until("the other host says what it has put back", || !one.said(&line).is_empty());
    two.start();
    cluster.wait_until_settled();
}

#[test]
fn keys_that_are_deleted_come_back_and_no_datagram_is_lost() {
    let lab = Lab::new("keys_that_are_deleted_come_back_and_no_datagram_is_lost");
    let (hosts, etcd) = lab.hosts_with_etcd();
    let cluster = Cluster::of(&lab, hosts, etcd);
    let [one, two] = &cluster.hosts;
    let side = Container { kind: "side".to_owned(), ..cluster.web.container.clone() };
    fences_are_made_anew(&cluster, &side);
    let records = cluster.ready_records();
    each_puts_back_its_own(&cluster, &records);
    each_says_again_that_it_is_there(&cluster);
    let of_members = ["members/", "member-names/", "addresses/", "public-keys/", "networks/", "names/", "vnis/"];
    lose(&cluster, &records, &[&of_members[..], &["hosts/", "presences/", "vteps/", "fences/"]].concat());
    // The second loss of the same is told by the same host, once, with the command that ends it.
    for (host, other, container) in [(one, two, "--type web "), (two, one, "--type backend ")] {
        let lines = |host: &Host| host.said(AGAIN).iter().filter(|line| line.contains(container)).count();
        wait_until("the host says that it was lost again", || lines(host) > 0);
        assert_eq!((lines(host), lines(other)), (1, 0), "{container}");
    }
    cluster.wait_until_settled();

    // The agents were away when it happened: what they saw is on the disk.
    restart(&cluster, || cluster.etcd.delete(&of_members));
    cluster.wait_until_back(&records, "what was lost while no agent ran");
    a_drain_is_put_back(&cluster);
    // Each kind by itself that leads to members and networks.
    restart(&cluster, || {});
    let records = cluster.ready_records();
    for lost in ["member-names/", "names/", "public-keys/", "vnis/", "addresses/"] {
        lose(&cluster, &records, &[lost]);
    }
    restart(&cluster, || {});
    another_puts_back_what_is_of_a_host_that_is_away(&cluster, &records);
    cluster.end_stream();
    for host in &cluster.hosts {
        let lines = host.said("");
        let twice: Vec<_> = lines.windows(2).filter(|lines| lines[0] == lines[1]).collect();
        assert!(twice.is_empty(), "{} said twice in a row: {twice:?}", host.name);
    }

    // The twin: a detach ends it everywhere, and is not put back.
    for container in [&side, &cluster.web.container] {
        assert!(one.detach(&cluster.network, container).expect("detach").detached);
    }
    let route = format!("ip route get {}", cluster.web.address());
    wait_until("backend hears that web is gone", || !cluster.backend.app.succeeds(&route));
    let records = cluster.records();
    assert!(!records.keys().any(|key| key.contains("/1.web.") || key.contains("/1.side.")), "{records:?}");
    cluster.etcd.delete(&["members/"]);
    cluster.wait_until_back(&records, "the other member alone");
    lab.finish();
}

#[test]
fn an_older_copy_of_the_store_brings_nothing_back_and_takes_nothing_away() {
    let lab = Lab::new("an_older_copy_of_the_store_brings_nothing_back_and_takes_nothing_away");
    let (hosts, etcd) = lab.hosts_with_etcd();
    let mut cluster = Cluster::of(&lab, hosts, etcd);
    let [one, two] = &cluster.hosts;
    // One of two names ends while the store has lost the record of both, which is put back first.
    let side = Container { kind: "side".to_owned(), ..cluster.web.container.clone() };
    let attached = one.attach(&cluster.network, &side, None).expect("a further name");
    assert_eq!(attached.member.address, cluster.web.address());
    cluster.etcd.delete(&[&format!("members/{}/1.web.", cluster.network.id)]);
    wait_until("the name is detached", || match one.detach(&cluster.network, &side) {
        Ok(detached) => detached.detached,
        Err(error) => {
            assert_eq!(error.code, ErrorCode::StoreUnavailable, "{error:?}");
            false
        }
    });
    wait_until("the name has ended, and the membership goes on", || {
        let records = cluster.etcd.records(&[]);
        let has = |part: &str| records.keys().any(|key| key.contains(part));
        has("/1.web.") && !has("/1.side.") && !records.values().any(|record| record.contains(r#""side""#))
    });
    let old = lab.member(two, &cluster.network, "old-1");
    let reused = lab.member(one, &cluster.network, "reused-1");
    // What h2 holds under its lease is lost while no watch tells of it: the next reading of the store does.
    let leased = ["presences/h2".to_owned(), format!("vteps/{}", two.vtep)];
    process::kill(two.pid(), Signal::STOP);
    cluster.etcd.kill();
    cluster.etcd.back_up_data();
    cluster.etcd.start();
    leased.iter().for_each(|key| cluster.etcd.delete(&[key]));
    cluster.etcd.compact();
    process::kill(two.pid(), Signal::CONT);
    wait_until("h2 says again what is its own", || {
        let records = cluster.etcd.records(&[]);
        leased.iter().all(|key| records.contains_key(key))
    });
    wait_within("both hosts reach the store", LATER, || {
        [one, two].iter().all(|host| host.status().is_ok_and(|status| status.problems.is_empty()))
    });

    // Since then: one has gone, one has come, and an address has another holder.
    assert!(two.detach(&cluster.network, &old.container).expect("detach").detached);
    assert!(one.detach(&cluster.network, &reused.container).expect("detach").detached);
    let new = lab.member(one, &cluster.network, "new-1");
    let next = lab.container("next-1");
    let next = two.attach(&cluster.network, &next, Some(reused.address())).expect("the address is free");
    wait_until("web reaches the new member", || cluster.backend.pings(new.address()));
    let server = Server::echo(&cluster.web.app, PORT);
    let other = Stream::start(&new.app, (cluster.web.address(), PORT), PACE);
    wait_until("it flows", || other.answered() > 100);
    let records = cluster.ready_records();
    assert!(next.ready);

    cluster.etcd.kill();
    cluster.etcd.put_data_back();
    cluster.etcd.start();
    let took = cluster.wait_until_back(&records, "what the older copy had not");
    assert!(took < LATER);
    cluster.wait_until_settled_with(2);
    assert_eq!(cluster.web.told(&old.attached.member.hostname), "");
    assert_eq!(cluster.web.told(&new.attached.member.hostname), new.address().to_string());
    // Its address was another's on web's host a moment ago, by whose name web may have it.
    wait_until("the next holder has its name", || {
        cluster.web.told(&next.member.hostname) == next.member.address.to_string()
    });
    other.finish_whole();
    drop(server);
    cluster.end_stream();
    lab.finish();
}

#[test]
fn a_host_of_an_etcd_whose_disk_is_full_or_read_only_refuses_attaches_and_loses_no_datagram() {
    let lab = Lab::new("a_host_of_an_etcd_whose_disk_is_full_or_read_only_refuses_attaches_and_loses_no_datagram");
    let ([one, two], etcd) = lab.hosts_with_etcd();
    one.stop();
    let state = one.paths().state.clone();
    let disk = Disk::over(&state);
    one.start();
    let network = one.network("shop", SUBNET);
    let web = lab.member(&one, &network, "web-1");
    let worker = lab.member(&two, &network, "worker-1");
    let server = Server::echo(&worker.app, PORT);
    wait_until("web reaches worker", || web.pings(worker.address()));
    let stream = Stream::start(&web.app, (worker.address(), PORT), Duration::from_millis(1));
    stream.flows();
    let (late, another) = (lab.container("late-1"), lab.container("other-1"));
    let filler = state.join("filler");
    for (fault, said, remedy, found) in [
        ("full", "No space left on device", "the disk is full: ", "is full"),
        ("read-only", "Read-only file system", "is read-only", "Read-only file system"),
    ] {
        match fault {
            "full" => fill(&filler),
            _ => make_read_only(&state),
        }
        let begun = Instant::now();
        let error = one.attach(&network, &late, None).expect_err("a refusal");
        let took = begun.elapsed();
        assert!(took < AT_ONCE, "{fault}: {took:?}");
        assert!(error.message.contains(said) && error.remedy.contains(remedy), "{fault}: {error:?}");
        assert!(error.remedy.contains(&state.display().to_string()), "{fault}: {error:?}");
        assert_eq!(late.space.links(), Vec::<String>::new(), "nothing of it is left in the container");
        wait_until("nothing of it is left in the store", || {
            !etcd.records(&[]).keys().any(|key| key.starts_with("members/") && key.contains("/1.late."))
        });
        // What others do is acted on, and cannot be written down: a restart would not know it.
        let other = two.join(&network, &another);
        wait_until("web reaches what another host has attached", || web.pings(other.address()));
        wait_until("that it is not on the disk is said", || {
            let problems = one.status().expect("reads go on").problems;
            problems.iter().any(|problem| problem.starts_with("store: what was seen of it ") && problem.contains(said))
        });
        let checks = one.cli().output(&["doctor", "-o", "json"]).stdout;
        let checks: Vec<Check> = serde_json::from_slice(&checks).expect("checks");
        let is_found = |check: &Check| check.check == "state_dir" && check.status == CheckStatus::Fail;
        assert!(checks.iter().any(|check| is_found(check) && check.detail.contains(found)), "{fault}: {checks:?}");
        stream.flows();

        say("the twin: there is room, and what was refused passes");
        match fault {
            "full" => fs::remove_file(&filler).expect("removed"),
            _ => assert!(unmount(&state)),
        }
        one.wait_until_settled();
        let joined = one.join(&network, &late);
        wait_until("the late member is reached", || other.pings(joined.address()) && joined.pings(worker.address()));
        for (host, container) in [(&one, &late), (&two, &another)] {
            assert!(host.detach(&network, container).expect("detach").detached);
        }
        one.wait_until_settled();
        figure(&format!("{fault}: an attach was refused in {took:.1?}"));
    }
    let (sent, lost) = stream.finish();
    figure(&format!("{} of {sent} datagrams between two hosts were lost meanwhile", lost.len()));
    assert!(lost.is_empty(), "{} of {sent} were lost: {lost:?}", lost.len());
    drop(server);
    for (host, member) in [(&one, &web), (&two, &worker)] {
        assert!(host.detach(&network, &member.container).expect("detach").detached);
    }
    two.delete_network("shop").expect("deleted");
    wait_until("the other host knows it", || one.networks().is_ok_and(|networks| networks.is_empty()));
    drop(disk);
    lab.finish();
}

/// Leaves no byte on the disk of a file.
fn fill(filler: &Path) {
    let mut file = fs::File::create(filler).expect("a filler");
    let full = loop {
        if let Err(error) = file.write_all(&[7; 1024]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

/// The directory itself over it, and nothing in it can be changed by its name.
fn make_read_only(directory: &Path) {
    for further in [&["--bind"][..], &["-o", "remount,bind,ro"]] {
        let status = Command::new("mount").args(further).arg(directory).arg(directory).status();
        assert!(status.expect("mount").success(), "{}", directory.display());
    }
}

/// Takes what is on top of a directory away, and returns whether there was anything.
fn unmount(directory: &Path) -> bool {
    Command::new("umount").arg("-l").arg(directory).output().expect("umount").status.success()
}

/// A small disk over a directory, as long as it lives.
struct Disk(PathBuf);

impl Disk {
    fn over(directory: &Path) -> Self {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(directory).status();
        assert!(status.expect("mount").success(), "{}", directory.display());
        Self(directory.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A test that fails leaves it read-only as well.
        while unmount(&self.0) {}
    }
}
