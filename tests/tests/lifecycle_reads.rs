//! What a user sees of an etcd that is killed, hangs, is full, slow, without a leader, or asks who is there: reads go on at
//! once, changes give up in time, and all is well soon after it is back.
//!
//! ```text
//!  h1: agent, web-1 ──┐            ┌── h2: agent
//!                     ├─ underlay ─┤
//!       h3: etcd ─────┘  (one, behind a way that can be slow; or three)
//! ```

use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, Instant};

use privnet::agent::views::{Check, CheckStatus, StatusView};
use privnet::agent::{ControlError, ErrorCode};
use privnet_tests::lab::cli::Cli;
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{Etcd, Host, Lab, Options, Way, figure, say, underlay_address, wait_until, wait_within};

const SUBNET: &str = "10.92.0.0/24";
/// What a busy machine adds to the 2 s of a change and of a recovery.
const SLACK: Duration = Duration::from_secs(2);

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

fn reads_answer_at_once(host: &Host, fault: &str, paths: &[&str]) {
    for path in paths {
        let time = time_of(host, path);
        say(&format!("{fault}: {path} in {time} ms"));
        assert!(time < 50, "{fault}: {path} took {time} ms");
    }
}

/// A store that is well again is known to be.
fn is_soon_current(hosts: &[&Host], fault: &str) {
    let back = Instant::now();
    wait_until("all are current", || {
        hosts.iter().all(|host| {
            let status = host.status().expect("status");
            status.store_age_seconds.is_none() && status.problems.is_empty()
        })
    });
    say(&format!("{fault}: current {:?} after it was back", back.elapsed()));
    assert!(back.elapsed() < Duration::from_secs(2) + SLACK, "{fault}: {:?}", back.elapsed());
}

/// Until the store's problem is told, with a text.
fn store_is_said(host: &Host, text: &str) {
    wait_until(format!("the store's problem is told: {text}"), || {
        let problems = host.status().expect("status").problems;
        problems.iter().any(|problem| problem.starts_with("store: ") && problem.contains(text))
    });
}

#[test]
fn reads_answer_at_once_and_changes_give_up_in_time_whatever_etcd_does() {
    let lab = Lab::new("reads_answer_at_once_and_changes_give_up_in_time_whatever_etcd_does");
    let ([one, two], mut etcd) = lab.hosts_with_etcd();
    let (one, two) = (&one, &two);
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
        reads_answer_at_once(one, fault, &reads);
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
        is_soon_current(&[one, two], fault);
        assert_eq!(two.network(&format!("net-{fault}"), SUBNET).addresses_used, 0);
        wait_until("the other host hears of it", || {
            one.networks().expect("networks").len() == two.networks().expect("networks").len()
        });
        assert_eq!(one.cli().text(&["members"]), shown);
    }
    lab.finish();
}

#[test]
fn an_etcd_that_is_slow_or_asks_who_is_there_is_named_and_outlasted() {
    let lab = Lab::new("an_etcd_that_is_slow_or_asks_who_is_there_is_named_and_outlasted");
    let mut spaces = lab.underlay(2, 1500);
    let of_etcd = spaces.pop().expect("two");
    let mut etcd = Etcd::new(of_etcd.clone(), 2);
    etcd.start();
    let [before, own] = [2378, 2379].map(|port| SocketAddrV4::new(underlay_address(2), port));
    let way = Way::new(&of_etcd, before, own);
    let url = format!("http://{before}");
    let one = &lab.host_in(spaces.remove(0), 1, &Options::ebpf().with_etcd(&url));
    let network = one.network("shop", SUBNET);
    let web = lab.member(one, &network, "web-1");
    let asker = format!("/v1/resolve?name=shop&as={}", web.address());
    let reads = ["/v1/members", "/v1/networks", "/v1/networks/shop", "/v1/status", &asker, "/metrics"];

    // One that answers in time, though late, is no trouble.
    way.delay(Duration::from_millis(200));
    let late = lab.member(one, &network, "late-1");
    assert!(one.status().expect("status").problems.is_empty());

    way.delay(Duration::from_secs(2));
    let container = lab.container("other-1");
    let path = container.space.path().display().to_string();
    let attach = ["attach", "--network", "shop", "--app", &container.app, "--type", "other", "--number", "1"];
    let attach = [&attach[..], &["--netns", &path]].concat();
    for change in [&["network", "create", "bank"][..], &attach] {
        let (error, took) = refused(one, change);
        say(&format!("slow: a change gave up after {took:?}: {error:?}"));
        assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
        let code = error.code;
        assert!(matches!(code, ErrorCode::OutcomeUnknown | ErrorCode::StoreUnavailable), "{error:?}");
        assert!(error.message.contains(&url) && error.message.contains("no answer within"), "{error:?}");
    }
    store_is_said(one, &url);
    reads_answer_at_once(one, "slow", &reads);
    way.delay(Duration::ZERO);
    is_soon_current(&[one], "slow");
    // What was sent happened, or it did not: what came of the attach is taken back, and nothing is in the way of either.
    wait_until("the attach left nothing", || one.members().expect("members").len() == 2);
    if let Err(error) = one.create_network("bank", None) {
        assert_eq!(error.code, ErrorCode::NetworkExists, "{error:?}");
    }
    let other = one.join(&network, &container);
    wait_until("they reach each other", || other.pings(web.address()) && web.pings(late.address()));

    etcd.ask_for_names();
    let (error, took) = refused(one, &["network", "create", "post"]);
    say(&format!("asks who is there: a change gave up after {took:?}: {error:?}"));
    assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
    assert_eq!(error.code, ErrorCode::StoreUnavailable, "it certainly did not happen: {error:?}");
    assert!(error.message.contains("user name is empty") && error.remedy.contains("--etcd-cert"), "{error:?}");
    store_is_said(one, "user name is empty");
    reads_answer_at_once(one, "asks who is there", &reads);
    // An agent that begins then serves what it knows, and says what it waits for.
    one.kill();
    let line = one.agent_line();
    let mut agent = one.space.command(&line).spawn().expect("the agent starts");
    wait_until("it has begun", || one.status().is_ok());
    store_is_said(one, "user name is empty");
    assert!(other.pings(web.address()));
    etcd.ask_for_no_names();
    agent.kill().expect("kill -9");
    agent.wait().expect("its end");
    one.start();
    is_soon_current(&[one], "asks who is there");
    let _post = one.network("post", "10.93.0.0/24");
    lab.finish();
}

#[test]
fn an_etcd_without_a_leader_is_named_and_outlasted() {
    let lab = Lab::new("an_etcd_without_a_leader_is_named_and_outlasted");
    let mut spaces = lab.underlay(2, 1500);
    let mut cluster: [Etcd; 3] = Etcd::cluster(&spaces.pop().expect("two"), 2);
    let urls = cluster.each_ref().map(|member| member.url().to_owned());
    // A member of a cluster that has never been one.
    cluster[0].launch("");
    let cli = Cli::new("h1", lab.directory().join("h1").join("privnet.sock"));
    let awaited = urls[0].clone();
    let starter = thread::spawn(move || {
        wait_until("the agent says what it waits for", || {
            cli.json::<StatusView>(&["status"])
                .is_err_and(|error| error.code == ErrorCode::StoreUnavailable && error.message.contains(&awaited))
        });
        cluster[1].launch("");
        cluster[2].launch("");
        cluster
    });
    let one = &lab.host_in(spaces.remove(0), 1, &Options::ebpf().with_etcd(&urls.join(",")));
    let mut cluster = starter.join().expect("the others have started");
    let network = one.network("shop", SUBNET);
    let web = lab.member(one, &network, "web-1");
    let asker = format!("/v1/resolve?name=shop&as={}", web.address());
    let reads = ["/v1/members", "/v1/networks", "/v1/networks/shop", "/v1/status", &asker, "/metrics"];
    for (round, (left, is_crash)) in [(0, true), (2, false)].into_iter().enumerate() {
        let fault = if is_crash { "two of three died" } else { "two of three hang" };
        for member in (0..3).filter(|member| *member != left) {
            if is_crash {
                cluster[member].kill();
            } else {
                cluster[member].pause();
            }
        }
        store_is_said(one, &urls[left]);
        for _ in 0..2 {
            let (error, took) = refused(one, &["network", "create", "bank"]);
            say(&format!("{fault}: a change gave up after {took:?}: {error:?}"));
            assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
            // Which of them were asked before the time was up.
            assert!(urls.iter().any(|url| error.message.contains(url)), "{error:?}");
        }
        reads_answer_at_once(one, fault, &reads);
        for member in (0..3).filter(|member| *member != left) {
            if is_crash {
                cluster[member].launch("");
            } else {
                cluster[member].resume();
            }
        }
        cluster[left].wait_until_healthy();
        is_soon_current(&[one], fault);
        let _network = one.network(&format!("net-{round}"), &format!("10.93.{round}.0/24"));
    }
    lab.finish();
}

#[test]
fn a_password_that_is_wrong_or_changes_is_named_and_outlasted() {
    let lab = Lab::new("a_password_that_is_wrong_or_changes_is_named_and_outlasted");
    let ([first, second], etcd) = lab.underlay_with_etcd();
    etcd.add_user("privnet", "first");
    let file = lab.directory().join("password");
    let has = |password: &str| std::fs::write(&file, format!("{password}\n")).expect("written");
    has("first");
    // One has a password before it is asked for one; the other never has.
    let options = Options::ebpf().with_etcd(etcd.url());
    let one = &lab.host_in(first, 1, &Options { etcd_password: Some(file.clone()), ..options.clone() });
    let two = &lab.host_in(second, 2, &options);
    let network = one.network("shop", SUBNET);
    let (web, backend) = (lab.member(one, &network, "web-1"), lab.member(two, &network, "backend-1"));
    let server = Server::echo(&backend.app, 7000);
    wait_until("web reaches backend", || web.pings(backend.address()));
    let stream = Stream::start(&web.app, (backend.address(), 7000), Duration::from_millis(1));
    let store_is_refused = |host: &Host, what: &str| {
        let (error, took) = refused(host, &["network", "create", "bank"]);
        say(&format!("{what}: a change gave up after {took:?}: {error:?}"));
        assert_eq!(error.code, ErrorCode::StoreUnavailable, "it certainly did not happen: {error:?}");
        assert!(error.message.contains(what) && error.remedy.contains("--etcd-password-file"), "{error:?}");
        store_is_said(host, what);
        assert_eq!(host.members().expect("reads go on").len(), 2);
        stream.flows();
    };
    let is_well_soon = |host: &Host, what: &str| {
        let begun = Instant::now();
        wait_until(format!("{what}: {} is well", host.name), || {
            host.status().is_ok_and(|status| status.problems.is_empty() && status.store_age_seconds.is_none())
        });
        figure(&format!("{what}: well after {} ms", begun.elapsed().as_millis()));
    };

    etcd.ask_for_names();
    store_is_refused(two, "user name is empty");
    is_well_soon(one, "etcd asks for the password");
    let _bank = one.network("bank", "10.93.0.0/24");

    etcd.change_password("privnet", "second");
    store_is_refused(one, "authentication failed");
    has("second");
    is_well_soon(one, "the password is put right");
    let late = lab.member(one, &network, "late-1");

    // One that is wrong when the agent starts.
    one.kill();
    has("wrong");
    let mut agent = one.space.command(&one.agent_line()).spawn().expect("the agent starts");
    wait_until("it has begun", || one.status().is_ok());
    store_is_said(one, "authentication failed");
    stream.flows();
    has("second");
    agent.kill().expect("kill -9");
    agent.wait().expect("its end");
    one.start();
    is_well_soon(one, "the password is right at the start");

    etcd.ask_for_no_names();
    is_well_soon(two, "etcd asks for no password");
    is_well_soon(one, "etcd asks for no password");
    wait_until("backend reaches the late one", || backend.pings(late.address()));
    let (sent, lost) = stream.finish();
    figure(&format!("{} of {sent} datagrams were lost meanwhile", lost.len()));
    assert!(lost.is_empty(), "{} of {sent} were lost: {lost:?}", lost.len());
    drop(server);
    lab.finish();
}
