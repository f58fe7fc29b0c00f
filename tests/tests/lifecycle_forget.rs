//! A host that is drained, a host that is gone for ever, forgotten, and then back, with two members and with six, and a store
//! that is put back from between.
//!
//! ```text
//!  h1: agent, web-1 ─────┐            ┌── h2: agent (gone, forgotten, back, adopted), backend-1, side-1
//!                        ├─ underlay ─┤   a stream of datagrams from web-1 to backend-1, and back
//!          h3: etcd ─────┘            └── (each agent is killed behind the steps of forget and adopt)
//! ```
#![expect(clippy::print_stdout, reason = "the figures")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use privnet::agent::views::{Adopted, Detached, DomainNameView, DrainedHost, ForgottenHost, HostView};
use privnet::agent::{ControlError, ErrorCode};
use privnet_tests::lab::container::APP;
use privnet_tests::lab::failpoint::{Action, Passage};
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{Etcd, Host, Joined, Lab, Options, say, wait_until, wait_within};

const PORT: u16 = 7000;
const PACE: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_secs(60);

fn forget(host: &Host, further: &[&str]) -> Result<ForgottenHost, ControlError> {
    host.cli().json(&[&["host", "forget", "h2"], further].concat())
}

fn drain(host: &Host, further: &[&str]) -> Result<DrainedHost, ControlError> {
    host.cli().json(&[&["host", "drain", "h2"], further].concat())
}

/// Drains h2, which does not become empty in time.
#[track_caller]
fn drain_ends_early(host: &Host, wait: &str, left: &str) {
    let words = [left, &format!("after {wait} s"), "privnet members", "--cancel"];
    refused(drain(host, &["--wait", wait]), ErrorCode::Timeout, &words);
}

fn adopt(host: &Host) -> Result<Adopted, ControlError> {
    host.cli().json(&["host", "adopt"])
}

/// How many names `web-1` and those of h2 have.
fn names(host: &Host) -> usize {
    let names: Vec<DomainNameView> = host.cli().json(&["domain-names", "--app", APP]).expect("the names");
    names.len()
}

fn members_of_two(host: &Host) -> usize {
    let members = host.members().expect("the members");
    members.iter().filter(|member| member.host.as_str() == "h2").count()
}

/// The records of h2's members, and the rows of their addresses that have a holder.
fn left_of_two(etcd: &Etcd, holders: &[String]) -> Vec<String> {
    let records = etcd.records(&[]);
    let is_left = |(key, text): &(&String, &String)| {
        let is_of_two = ["members/", "public-keys/", "addresses/"].iter().any(|prefix| key.starts_with(prefix));
        let names_it = holders.iter().any(|holder| text.contains(&format!("\"holder\":\"{holder}\"")));
        key.as_str() == "hosts/h2" || is_of_two && (names_it || text.contains("\"host\":\"h2\""))
    };
    records.iter().filter(is_left).map(|(key, _)| key.clone()).collect()
}

fn marks(etcd: &Etcd) -> BTreeMap<String, String> {
    etcd.records(&[]).into_iter().filter(|(key, _)| key.starts_with("marks/")).collect()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ControlError>, code: ErrorCode, words: &[&str]) {
    let error = result.expect_err("refused");
    let text = format!("{} ({})", error.message, error.remedy);
    say(&text);
    assert!(error.code == code && words.iter().all(|word| text.contains(word)), "{error:?} lacks one of {words:?}");
}

fn settles(host: &Host, members: usize) {
    wait_within(format!("{} has {members} members and rests: {:?}", host.name, host.status()), LATER, || {
        host.status().is_ok_and(|status| {
            (status.members, status.members_ready) == (members, members) && status.problems.is_empty()
        })
    });
}

/// Kills each agent that finishes what follows from the mark, behind one commit more each time, and says how many there were.
fn is_killed_while_it_finishes(host: &Host, etcd: &Etcd, holders: &[String]) -> u32 {
    let points = host.failpoints();
    for time in 1.. {
        points.arm(Action::Kill, &Passage { step: "commit".to_owned(), time });
        host.begin();
        let has_finished = || host.has_ended() || left_of_two(etcd, holders).is_empty();
        wait_until("the agent is killed, or has finished", has_finished);
        let was_killed = points.disarm();
        assert_eq!(marks(etcd).len(), 1, "killed behind commit {time}");
        if !was_killed {
            wait_until("it serves", || host.status().is_ok());
            return time - 1;
        }
        wait_until("its end", || host.has_ended());
    }
    unreachable!("the commits end")
}

#[test]
fn a_forgotten_host_ends_for_all_and_goes_on_once_it_is_adopted() {
    let lab = Lab::new("a_forgotten_host_ends_for_all_and_goes_on_once_it_is_adopted");
    let ([one, two], mut etcd) = lab.hosts_of_etcd(&Options::ebpf().with_failpoints());
    let network = one.network("shop", "10.92.0.0/24");
    let web = lab.member(&one, &network, "web-1");
    let (backend, side) = (lab.member(&two, &network, "backend-1"), lab.member(&two, &network, "side-1"));
    let holders = [&backend, &side].map(|member| format!("1.{}.{APP}", member.container.kind));
    let _server = Server::echo(&backend.app, PORT);
    wait_until("web reaches backend", || web.pings(backend.address()));
    let stream = Stream::start(&web.app, (backend.address(), PORT), PACE);
    stream.flows();
    settles(&one, 1);
    settles(&two, 2);

    say("drain");
    wait_until("all have names", || names(&one) > 0);
    let before = names(&one);
    let begun = Instant::now();
    drain_ends_early(&one, "1", "host h2 still has 2 members");
    let took = begun.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(20)).contains(&took), "{took:?}");
    let hosts: Vec<HostView> = two.cli().json(&["hosts"]).expect("the hosts");
    assert_eq!(hosts.iter().map(|host| host.draining).collect::<Vec<_>>(), [false, true]);
    wait_until("the names of h2 are withdrawn", || names(&one) < before);
    let late = lab.container("late-1");
    refused(two.attach(&network, &late, None).map(drop), ErrorCode::HostDraining, &["h2", "--cancel"]);
    stream.flows();
    assert_eq!(drain(&one, &["--cancel"]).expect("taken back"), DrainedHost { members_left: 2 });
    wait_until("the names are back", || names(&one) == before);
    let twin = two.join(&network, &late);
    let (to_leave, agent) = (twin.container.clone(), two.cli());
    let leaving = std::thread::spawn(move || {
        let arguments = ["detach", "--network", "shop", "--app", &to_leave.app, "--type", &to_leave.kind];
        agent.json::<Detached>(&arguments)
    });
    assert!(leaving.join().expect("joined").expect("the twin").detached);
    let (sent, lost) = stream.finish();
    println!("figure: host drain and back: {} of {sent} datagrams lost", lost.len());
    assert!(lost.is_empty(), "{lost:?}");

    say("forget");
    refused(forget(&two, &[]), ErrorCode::InvalidArgument, &["is this host"]);
    refused(forget(&one, &[]), ErrorCode::InvalidArgument, &["h2 is there", "--force", "drain"]);
    two.kill();
    etcd.delete(&["presences/h2"]);
    wait_until("h2 is not heard", || one.status().is_ok_and(|status| status.hosts_unreachable.len() == 1));
    one.failpoints().arm(Action::Kill, &Passage { step: "commit".to_owned(), time: 1 });
    let begun = Instant::now();
    let answer = forget(&one, &[]);
    wait_until("the agent was killed behind the mark", || one.has_ended());
    assert!(answer.is_err() && one.failpoints().disarm());
    assert_eq!(marks(&etcd).len(), 1, "the mark comes first");
    let kills = is_killed_while_it_finishes(&one, &etcd, &holders);
    wait_until("they have ended", || members_of_two(&one) == 0);
    let ended = begun.elapsed();
    wait_within(format!("nothing is left: {:?}", left_of_two(&etcd, &holders)), LATER, || {
        left_of_two(&etcd, &holders).is_empty()
    });
    println!(
        "figure: host forget, its agent killed behind the mark and {kills} further commits: ended {ended:?}, nothing left {:?}",
        begun.elapsed()
    );
    assert_eq!(forget(&one, &[]).expect("once more"), ForgottenHost { members_ended: 0 });
    settles(&one, 1);
    let mark = marks(&etcd);

    say("back without adopt");
    two.start();
    wait_until("it says that it was forgotten", || {
        let says = |problem: &String| problem.contains("forgotten at host h1") && problem.contains("host adopt");
        two.status().is_ok_and(|status| status.problems.iter().any(says))
    });
    refused(two.attach(&network, &late, None).map(drop), ErrorCode::HostNotAdopted, &["forgotten", "host adopt"]);
    refused(two.detach(&network, &side.container), ErrorCode::HostNotAdopted, &["forgotten", "host adopt"]);
    assert_eq!((members_of_two(&one), left_of_two(&etcd, &holders)), (0, Vec::new()));
    assert!(side.app.links().contains(&"wg0".to_owned()), "what is in its kernel stays");
    etcd.kill();
    etcd.back_up_data();
    etcd.start();
    settles(&one, 1);

    say("adopt, killed behind the commits of both members and of the presence");
    let begun = Instant::now();
    for _ in 0..3 {
        two.failpoints().arm(Action::Kill, &Passage { step: "commit".to_owned(), time: 1 });
        adopt(&two).expect_err("the agent was killed");
        wait_until("the agent was killed", || two.has_ended());
        assert!(two.failpoints().disarm(), "{}", two.log_tail());
        two.start();
    }
    let adopted = adopt(&two).expect("adopted");
    println!("figure: host adopt after forget: killed three times, {:?}", begun.elapsed());
    assert_eq!(adopted.ended, 0);
    settles(&two, 2);
    let reaches = || web.pings(backend.address()) && web.pings(side.address());
    wait_within("both go on under their addresses", LATER, reaches);
    let stream = Stream::start(&web.app, (backend.address(), PORT), PACE);
    stream.flows();

    say("a store from between, and marks that are lost");
    etcd.kill();
    etcd.put_data_back();
    etcd.start();
    wait_within("the members are back in the store", LATER, || left_of_two(&etcd, &holders).len() > 5);
    settles(&one, 1);
    settles(&two, 2);
    etcd.delete(&["marks/"]);
    wait_until("the mark is never taken back", || marks(&etcd) == mark);
    settles(&two, 2);
    stream.flows();
    let (sent, lost) = stream.finish();
    println!("figure: a store from between forget and adopt: {} of {sent} datagrams lost", lost.len());
    assert!(lost.is_empty(), "{lost:?}");
    let next = two.join(&network, &late);
    wait_until("a new member reaches web", || next.pings(web.address()));

    say("forget six");
    let more = ["side-2", "side-3", "side-4"].map(|name| lab.member(&two, &network, name));
    wait_until("h1 knows all six", || members_of_two(&one) == 6);
    settles(&two, 6);
    two.kill();
    let mark = marks(&etcd);
    refused(forget(&one, &["--force"]), ErrorCode::InvalidArgument, &["6 members of host h2 would end", "--yes"]);
    assert_eq!((members_of_two(&one), marks(&etcd)), (6, mark), "nothing was done");
    assert_eq!(forget(&one, &["--force", "--yes"]).expect("forgotten"), ForgottenHost { members_ended: 6 });
    assert_eq!(members_of_two(&one), 0);
    two.start();
    assert_eq!(adopt(&two).expect("adopted"), Adopted { kept: 6, ended: 0 });
    settles(&two, 6);
    wait_until("h1 knows all six again", || members_of_two(&one) == 6);

    say("drained to the last");
    let agent = one.cli();
    let draining = std::thread::spawn(move || agent.json::<DrainedHost>(&["host", "drain", "h2", "--wait", "600"]));
    let is_draining = || {
        let hosts: Vec<HostView> = two.cli().json(&["hosts"]).expect("the hosts");
        hosts.iter().any(|host| host.draining)
    };
    wait_until("h2 is drained", is_draining);
    for Joined { container, .. } in [&backend, &side, &next].into_iter().chain(&more) {
        assert!(two.detach(&network, container).expect("its owner stops it").detached);
    }
    wait_until("the command ends with the last member", || draining.is_finished());
    assert_eq!(draining.join().expect("joined").expect("drained"), DrainedHost { members_left: 0 });
    lab.finish();
}
