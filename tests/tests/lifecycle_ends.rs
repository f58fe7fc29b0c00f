//! What an operator ends without its host ends everywhere, also on a host that was away, and nothing else does.
//!
//! ```text
//!  h1: agent, web-1, five of doomed ──┐            ┌── h2: agent (away for a time), backend-1, side-1, one of doomed
//!                                     ├─ underlay ─┤   a stream of datagrams from web-1 to backend-1, and back, throughout
//!                       h3: etcd ─────┘            └──
//! ```

use std::time::Duration;

use privnet::agent::ControlError;
use privnet::agent::views::{Detached, EndedNetwork, NetworkView};
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{Etcd, Host, Joined, Lab, Options, say, wait_until, wait_within};
use serde_json::Value;

const PORT: u16 = 7000;
const PACE: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_secs(60);

/// `privnet detach` of another host's member.
fn detach(host: &Host, network: &NetworkView, member: &Joined, further: &[&str]) -> Result<Detached, ControlError> {
    let (network, container) = (network.id.to_string(), &member.container);
    let arguments = ["detach", "--network", &network, "--app", &container.app, "--type", &container.kind];
    host.cli().json(&[&arguments, further].concat())
}

/// `privnet network delete --force`.
fn end(host: &Host, network: &NetworkView, further: &[&str]) -> Result<EndedNetwork, ControlError> {
    let id = network.id.to_string();
    host.cli().json(&[&["network", "delete", &*id, "--force"], further].concat())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ControlError>, words: &[&str]) {
    let error = result.expect_err("refused");
    let text = format!("{} ({})", error.message, error.remedy);
    say(&text);
    assert!(words.iter().all(|word| text.contains(word)), "{text:?} lacks one of {words:?}");
}

fn has_members(host: &Host, count: usize) {
    wait_within(format!("{} has {count} members: {:?}", host.name, host.status()), LATER, || {
        host.status().is_ok_and(|status| status.members == count && status.members_ready == count)
    });
}

#[test]
fn what_an_operator_ends_ends_everywhere_and_a_host_that_was_away_obeys() {
    let lab = Lab::new("what_an_operator_ends_ends_everywhere_and_a_host_that_was_away_obeys");
    let mut spaces = lab.underlay(3, 1500);
    let mut etcd = Etcd::new(spaces.pop().expect("three"), 3);
    etcd.start();
    let options = Options::ebpf().with_etcd(etcd.url());
    let [one, two] = [1, 2].map(|number| lab.host_in(spaces.remove(0), number, &options));
    let (shop, doomed) = (one.network("shop", "10.92.0.0/24"), one.network("doomed", "10.93.0.0/24"));
    let (web, backend) = (lab.member(&one, &shop, "web-1"), lab.member(&two, &shop, "backend-1"));
    let side = lab.member(&two, &shop, "side-1");
    let ending: Vec<Joined> = (1..=5).map(|n| lab.member(&one, &doomed, &format!("job-{n}"))).collect();
    let _away = lab.member(&two, &doomed, "job-6");
    let _server = Server::echo(&backend.app, PORT);
    wait_until("web reaches backend", || web.pings(backend.address()));
    let stream = Stream::start(&web.app, (backend.address(), PORT), PACE);
    wait_until("the stream flows", || stream.answered() > 100);
    has_members(&one, 6);
    has_members(&two, 3);

    // While the other host is there, it is the one to ask.
    refused(one.delete_network("doomed"), &["6 members", "on host h1", "on host h2", "1 more", "--force"]);
    refused(end(&one, &doomed, &[]), &["6 members", "--yes"]);
    refused(detach(&one, &shop, &side, &[]), &["number 1 on host h2"]);
    refused(detach(&one, &shop, &side, &["--number", "1"]), &["is on host h2", "detach it on host h2"]);
    refused(detach(&one, &shop, &side, &["--number", "1", "--force"]), &["is on host h2", "detach it on host h2"]);
    assert!(one.detach(&doomed, &ending[4].container).expect("the twin").detached);

    // Its lease ends here, at once.
    two.kill();
    etcd.delete(&["presences/h2"]);
    wait_until("h2 is not heard", || one.status().is_ok_and(|status| status.hosts_unreachable.len() == 1));
    refused(one.delete_network("doomed"), &["5 members", "on host h2"]);
    refused(detach(&one, &shop, &side, &["--number", "1"]), &["is on host h2, which is away", "--force"]);
    assert!(detach(&one, &shop, &side, &["--number", "1", "--force"]).expect("it is away").detached);
    let again = detach(&one, &shop, &side, &["--number", "1", "--force"]).expect("it has ended");
    assert!(!again.detached);
    assert_eq!(end(&one, &doomed, &[]).expect("five need no word").members_ended, 5);
    has_members(&one, 1);
    let gone: Result<Value, ControlError> = one.cli().json(&["network", "show", "doomed"]);
    refused(gone, &["does not exist"]);

    // Back, it obeys.
    two.start();
    has_members(&two, 1);
    let log = two.log_tail();
    for line in ["was ended by an operator", "doomed was deleted with its members, at host h1"] {
        assert!(log.contains(line), "no line {line:?} in\n{log}");
    }
    let left = |what: &str| etcd.records(&[]).into_keys().filter(|key| key.contains(what)).collect::<Vec<_>>();
    let (mark, doomed_id) = (format!("marks/networks/{}", doomed.id), doomed.id.to_string());
    wait_until("the mark alone is left", || left(&doomed_id) == [mark.clone()]);
    // The name is free, and the mark stays that of the other network.
    let next = one.network("doomed", "10.93.0.0/24");
    let new = lab.member(&two, &next, "next-1");
    assert!(new.attached.ready && one.delete_network(&next.id.to_string()).is_err());

    let before = stream.answered();
    wait_until("the stream flows still", || stream.answered() > before + 100);
    let (sent, lost) = stream.finish();
    say(&format!("{sent} datagrams were sent, and {} lost", lost.len()));
    assert!(lost.is_empty(), "{} of {sent} were lost: {lost:?}", lost.len());
    lab.finish();
}
