//! What a user sees of an etcd that is killed, hangs or is full: reads go on at once, changes give up in time, and all is well
//! soon after it is back.
//!
//! ```text
//!  h1: agent, web-1 ──┐            ┌── h2: agent
//!                     ├─ underlay ─┤
//!       h3: etcd ─────┘  (killed, stopped, full)
//! ```

use std::time::{Duration, Instant};

use privnet::agent::views::{Check, CheckStatus};
use privnet::agent::{ControlError, ErrorCode};
use privnet_tests::lab::{Etcd, Host, Lab, Options, say, wait_until, wait_within};

const SUBNET: &str = "10.92.0.0/24";

/// How long a read took, by the median of some, in milliseconds.
fn time_of(host: &Host, path: &str) -> u128 {
    let socket = host.paths().socket.display().to_string();
    let line = format!("curl -sf -o /dev/null -w %{{time_total}} --unix-socket {socket} http://privnet{path}");
    let mut times: Vec<u128> = (0..9)
        .map(|_| Duration::from_secs_f64(host.space.run(&line).trim().parse().expect("a time")).as_millis())
        .collect();
    times.sort_unstable();
    times[4]
}

/// What a change said that must not be made, and how long it took to say so.
fn refused(host: &Host, arguments: &[&str]) -> (ControlError, Duration) {
    let begun = Instant::now();
    let error = host.cli().json::<serde_json::Value>(arguments).expect_err("nobody answers");
    (error, begun.elapsed())
}

#[test]
fn reads_answer_at_once_and_changes_give_up_in_time_whatever_etcd_does() {
    /// What a busy machine adds to the 2 s of a change and of a recovery.
    const SLACK: Duration = Duration::from_secs(2);
    let lab = Lab::new("reads_answer_at_once_and_changes_give_up_in_time_whatever_etcd_does");
    let mut spaces = lab.underlay(3, 1500);
    let mut etcd = Etcd::new(spaces.pop().expect("three"), 3);
    etcd.start();
    let options = Options::ebpf().with_etcd(etcd.url());
    let [one, two] = &[1, 2].map(|number| lab.host_in(spaces.remove(0), number, &options));
    let network = one.network("shop", SUBNET);
    let web = lab.member(one, &network, "web-1");
    let (shown, known) = (one.cli().text(&["members"]), one.members().expect("members"));
    assert!(known[0].store_age_seconds.is_none() && shown.contains("ready"), "{known:?}");
    let asker = format!("/v1/resolve?name=shop&as={}", web.address());
    let reads = ["/v1/members", "/v1/networks", "/v1/networks/shop", "/v1/status", &asker, "/metrics"];
    for fault in ["killed", "stopped", "full"] {
        let answers_reads = fault == "full";
        match fault {
            "killed" => etcd.kill(),
            "stopped" => etcd.pause(),
            _ => {
                etcd.kill();
                etcd.start_with("--quota-backend-bytes=1");
            }
        }
        let begun = Instant::now();
        let (error, took) = refused(one, &["network", "create", "bank"]);
        say(&format!("{fault}: a change gave up after {took:?}: {error:?}"));
        assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
        assert!(error.message.contains(etcd.url()), "{error:?}");
        if answers_reads {
            assert!(error.remedy.contains("alarm disarm"), "{error:?}");
        } else {
            wait_until("what is shown is known to be old", || {
                one.members().expect("members")[0]
                    .store_age_seconds
                    .is_some_and(|age| age <= begun.elapsed().as_secs() + 2)
            });
            assert!(one.status().expect("status").problems.iter().any(|problem| problem.starts_with("store: ")));
        }
        for path in reads {
            let time = time_of(one, path);
            say(&format!("{fault}: {path} in {time} ms"));
            assert!(time < 50, "{fault}: {path} took {time} ms");
        }
        let output = one.cli().output(&["members"]);
        let (text, note) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(text, shown);
        assert_eq!(note.contains("the store answered last"), !answers_reads, "{note}");
        let missing =
            one.cli().json::<serde_json::Value>(&["network", "show", "bank"]).expect_err("it was not created");
        assert_eq!(missing.code, ErrorCode::NetworkNotFound);
        let checks: Vec<Check> =
            serde_json::from_slice(&one.cli().output(&["doctor", "-o", "json"]).stdout).expect("checks");
        let failed: Vec<&str> =
            checks.iter().filter(|check| check.status == CheckStatus::Fail).map(|check| check.check.as_str()).collect();
        assert_eq!(failed.contains(&"store"), !answers_reads, "{failed:?}");
        assert!(failed.contains(&"store_write"), "{failed:?}");
        match fault {
            // Long enough for its watches to give up.
            "killed" => {
                wait_within("the agent knows that it follows nothing", Duration::from_secs(60), || {
                    begun.elapsed() > Duration::from_secs(14)
                });
                etcd.start();
            }
            "stopped" => etcd.resume(),
            _ => {
                etcd.kill();
                // With its own quota again; it is not healthy until it is told that it is full no more.
                etcd.start_with("--quota-backend-bytes=0");
                etcd.is_full_no_more();
            }
        }
        let back = Instant::now();
        let is_current = |host: &Host| {
            let status = host.status().expect("status");
            status.store_age_seconds.is_none() && status.problems.is_empty()
        };
        wait_until("both are current", || is_current(one) && is_current(two));
        say(&format!("{fault}: current {:?} after it was back", back.elapsed()));
        assert!(back.elapsed() < Duration::from_secs(2) + SLACK, "{:?}", back.elapsed());
        assert_eq!(two.network(&format!("net-{fault}"), SUBNET).addresses_used, 0);
        wait_until("the other host hears of it", || {
            one.networks().expect("networks").len() == two.networks().expect("networks").len()
        });
        assert_eq!(one.cli().text(&["members"]), shown);
    }
    lab.finish();
}
