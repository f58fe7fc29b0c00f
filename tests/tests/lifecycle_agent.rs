//! The agent may die at any moment: traffic goes on, isolated as before, and the next agent finishes what was begun.
//!
//! ```text
//!  web ── wg0 ── carrier ── worker        a stream of numbered datagrams, each answered, runs meanwhile
//!        agent: kill -9, SIGTERM, started again, killed within attach
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use privnet::agent::ErrorCode;
use privnet::agent::views::Attached;
use privnet_tests::lab::cli::{binary, failure};
use privnet_tests::lab::probe::{Server, Stream, ask_udp, reaches};
use privnet_tests::lab::process::kill;
use privnet_tests::lab::{Host, Lab, Options, figure, say, wait_until};
use privnet_tests::soak::Soak;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

const SUBNET: &str = "10.90.0.0/24";
const PORT: u16 = 7000;
const PACE: Duration = Duration::from_millis(1);

#[test]
fn nothing_is_lost_and_nothing_opens_while_the_agent_is_killed_and_started() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("nothing_is_lost_and_nothing_opens_while_the_agent_is_killed_and_started");
        let host = lab.host(&options);
        let (blue, red) = (host.network("blue", SUBNET), host.network("red", "10.91.0.0/24"));
        let one = host.join(&blue, &lab.container("blue-1").with_eth0(&host.space, 2));
        let two = lab.member(&host, &blue, "blue-2");
        let other = lab.member(&host, &red, "red-1");
        let attacker = lab.container("attacker-1").with_eth0(&host.space, 9);
        attacker.space.run(&format!("ip route add {} via 172.30.0.2", one.address()));
        let _servers = [&one, &two, &other].map(|member| Server::echo(&member.app, PORT));
        wait_until("blue reaches blue", || reaches(&one.app, (two.address(), PORT)));
        let programs = host.programs();
        let stream = Stream::start(&one.app, (two.address(), PORT), PACE);
        wait_until("the stream flows", || stream.answered() > 100);

        let holds = || {
            let quickly = Duration::from_millis(50);
            assert!(ask_udp(&attacker.space, (one.address(), PORT), b"weak host", quickly).is_err());
            assert!(ask_udp(&one.app, (other.address(), PORT), b"across", quickly).is_err());
        };
        for crash in [true, false, true] {
            if crash {
                host.kill();
            } else {
                host.stop();
            }
            let before = stream.answered();
            holds();
            wait_until("the stream flows without an agent", || stream.answered() > before + 200);
            host.start();
            holds();
            host.wait_until_settled();
        }
        assert_eq!(host.programs(), programs, "the programs are the ones that were there");
        let (sent, lost) = stream.finish();
        assert!(lost.is_empty(), "{} of {sent} were lost: {lost:?}", lost.len());
        lab.finish();
    }
}

#[test]
fn what_is_sent_while_a_wireguard_process_does_not_run_waits_for_it() {
    let lab = Lab::new("what_is_sent_while_a_wireguard_process_does_not_run_waits_for_it");
    let host = lab.host(&Options { wireguard: "userspace", ..Options::ebpf() });
    let network = host.network("shop", SUBNET);
    let [web, worker] = ["web-1", "worker-1"].map(|name| lab.member(&host, &network, name));
    let process = host.wireguard_of(&web).expect("a process");
    let _server = Server::echo(&worker.app, PORT);
    wait_until("web reaches worker", || reaches(&web.app, (worker.address(), PORT)));
    let lost_of = |meanwhile: u64| {
        let stream = Stream::start(&web.app, (worker.address(), PORT), PACE);
        stream.flows();
        kill(process.pid, Signal::STOP);
        let before = stream.sent();
        wait_until(format!("{meanwhile} are sent"), || stream.sent() > before + meanwhile);
        kill(process.pid, Signal::CONT);
        stream.flows();
        let (sent, lost) = stream.finish();
        figure(&format!("{meanwhile} of {sent} datagrams waited, {} were lost", lost.len()));
        lost.len()
    };
    assert_eq!(lost_of(1200), 0);
    assert!(lost_of(3000) > 0, "the twin: more than there is room for");
    lab.finish();
}

#[test]
fn an_agent_that_is_killed_within_attach_leaves_nothing_that_the_next_one_does_not_finish() {
    let lab = Lab::new("an_agent_that_is_killed_within_attach_leaves_nothing_that_the_next_one_does_not_finish");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let (web, worker) = (lab.container("web-1"), lab.container("worker-1"));
    let mut killed_within = 0;
    let soak = Soak::of_rounds(privnet_tests::repeats(20).into());
    let mut random = StdRng::seed_from_u64(soak.seed());
    for round in soak.rounds() {
        let _ = host.join(&network, &worker);
        let mut attach = start_attach(&host, network.id.to_string().as_str(), &web.space.path());
        sleep(Duration::from_micros(random.random_range(0..40_000)));
        let ended = attach.try_wait().expect("the command line").is_some();
        killed_within += u64::from(!ended);
        host.kill();
        let _ = attach.wait();
        host.start();
        host.wait_until_settled();
        if host.members().expect("members").iter().any(|view| view.member.kind.as_str() == "web") {
            let joined = host.join(&network, &web);
            let worker = host.join(&network, &worker);
            wait_until(format!("the finished member works, round {round}"), || joined.pings(worker.address()));
        }
        for container in [&web, &worker] {
            let _ = host.detach(&network, container).expect("detach");
            assert_eq!(container.space.links(), Vec::<String>::new(), "round {round}");
            assert_eq!(container.space.run("ip route show table main"), "", "round {round}");
        }
        wait_until(format!("nothing is left of round {round}: {:?}", host.leftovers()), || host.leftovers().is_empty());
        let left = host.networks().expect("networks")[0].addresses_used;
        assert_eq!(left, 0, "addresses are still held after round {round}");
    }
    soak.tell(killed_within, "agents killed within an attach");
    assert!(killed_within > 0, "no kill hit an attach: the test shows nothing");
    lab.finish_detached();
}

/// While no agent is there a namespace may go, and another may come under its path, with its number.
#[test]
fn a_namespace_that_only_looks_like_a_members_inherits_nothing() {
    let lab = Lab::new("a_namespace_that_only_looks_like_a_members_inherits_nothing");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let [web, worker] = ["web-1", "worker-1"].map(|name| lab.member(&host, &network, name));
    wait_until("web reaches worker", || web.pings(worker.address()));
    host.stop();
    let journal = lab.directory().join("h1/state/members");
    let record = record_of(&journal, web.address());
    let mut text: serde_json::Value = serde_json::from_slice(&fs::read(&record).expect("a record")).expect("JSON");
    let cookie = text["netns_cookie"].as_u64().expect("a cookie");
    assert_ne!(cookie, 0);
    text["netns_cookie"] = (cookie + 1).into();
    fs::write(&record, text.to_string()).expect("as if it had been another one");
    // What was in that one went with it.
    let _ = web.app.attempt(&format!("ip link delete {}", web.attached.interface));
    let _ = web.app.attempt("ip route flush type unreachable");
    host.start();
    wait_until("the membership has ended", || host.members().expect("members").len() == 1);
    wait_until("nothing of it is there", || web.app.links().is_empty());
    assert_eq!(host.members().expect("members")[0].member.address, worker.address(), "the twin");
    host.wait_until_settled();
    let again = host.join(&network, &web.container);
    wait_until("who attaches it is served", || again.pings(worker.address()));
    lab.finish();
}

#[test]
fn a_journal_that_is_lost_is_made_again_with_its_keys_where_the_containers_run() {
    let lab = Lab::new("a_journal_that_is_lost_is_made_again_with_its_keys_where_the_containers_run");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let [web, worker, gone] = ["web-1", "worker-1", "gone-1"].map(|name| lab.member(&host, &network, name));
    let _server = Server::echo(&worker.app, PORT);
    wait_until("web reaches worker", || reaches(&web.app, (worker.address(), PORT)));
    let stream = Stream::start(&web.app, (worker.address(), PORT), PACE);
    host.kill();
    let journal = lab.directory().join("h1/state/members");
    let key_of = |address| fs::read(record_of(&journal, address).with_extension("key")).expect("the key");
    let keys = [web.address(), worker.address()].map(key_of);
    files(&journal).iter().for_each(|path| fs::remove_file(path).expect("removed"));
    gone.app.remove();
    host.start();
    wait_until("the twin has ended: its container is gone", || host.members().expect("members").len() == 2);
    host.wait_until_settled();
    assert_eq!([web.address(), worker.address()].map(key_of), keys);
    let before = stream.answered();
    wait_until("the stream flows", || stream.answered() > before + 200);
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} were lost: {lost:?}", lost.len());
    lab.finish();
}

#[test]
fn a_container_that_ends_without_detach_is_collected_and_its_address_is_free() {
    let lab = Lab::new("a_container_that_ends_without_detach_is_collected_and_its_address_is_free");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let worker = lab.member(&host, &network, "worker-1");
    let mut process = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().expect("unshare");
    let netns = PathBuf::from(format!("/proc/{}/ns/net", process.id()));
    let own = fs::read_link("/proc/self/ns/net").expect("the own namespace");
    wait_until("the process has its namespace", || fs::read_link(&netns).is_ok_and(|its| its != own));
    let pid = process.id().to_string();
    let address = Ipv4Addr::new(10, 90, 0, 50);
    let id = network.id.to_string();
    let attach = |number: &str, pid: &str| {
        host.cli().json::<Attached>(&[
            "attach",
            "--network",
            &id,
            "--app",
            &worker.container.app,
            "--number",
            number,
            "--pid",
            pid,
            "--address",
            "10.90.0.50",
        ])
    };
    let attached = attach("7", &pid).expect("attach by process id");
    assert_eq!((attached.member.address, attached.member.number.get()), (address, 7));
    wait_until("worker reaches it", || worker.pings(address));

    process.kill().expect("kill");
    process.wait().expect("the end of the process");
    wait_until("the member is gone", || host.members().expect("members").len() == 1);
    wait_until("and its binding netns", || host.leftovers().iter().filter(|left| left.contains("bind-")).count() == 1);
    let second = lab.container("web-8");
    host.attach(&network, &second, Some(address)).expect("the address is free");
    wait_until("worker reaches the next holder of the address", || worker.pings(address));
    lab.finish();
}

#[test]
fn a_second_agent_on_the_same_state_directory_is_refused() {
    let lab = Lab::new("a_second_agent_on_the_same_state_directory_is_refused");
    let host = lab.host(&Options::ebpf());
    let output = run_agent(&host, &host.paths().state, &lab.directory().join("second.sock"));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("state") && said.contains("another"), "{said}");
    assert!(host.status().is_ok(), "the first goes on");

    say("the twin: the same command once the first has ended");
    host.stop();
    host.start();
    lab.finish();
}

#[test]
fn a_damaged_state_file_is_kept_aside_and_a_newer_one_is_left_as_it_is() {
    let lab = Lab::new("a_damaged_state_file_is_kept_aside_and_a_newer_one_is_left_as_it_is");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let web = lab.member(&host, &network, "web-1");
    let state = host.paths().state.clone();

    say("a member's record of a newer version");
    host.stop();
    let record = only(&state.join("members"), "json");
    let good = fs::read_to_string(&record).expect("the record");
    let newer = good.replacen("\"version\": 2", "\"version\": 99", 1);
    assert_ne!(newer, good, "{good}");
    fs::write(&record, &newer).expect("write");
    let output = run_agent(&host, &state, &host.paths().socket);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("version 99"), "{said}");
    assert_eq!(fs::read_to_string(&record).expect("the record"), newer, "left as it is");
    fs::write(&record, &good).expect("write");
    host.start();
    host.wait_until_settled();
    assert_eq!(host.members().expect("members")[0].member.address, web.address(), "the twin");

    say("a damaged store");
    let _ = host.detach(&network, &web.container).expect("detach");
    host.stop();
    let store = store_file(&state);
    let damaged: Vec<u8> = b"this is no store".repeat(1024);
    fs::write(&store, &damaged).expect("write");
    let output = run_agent(&host, &state, &host.paths().socket);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("corrupt"), "{said}");
    let aside = files(&state).into_iter().find(|path| path.to_string_lossy().contains("corrupt")).expect("kept aside");
    assert_eq!(fs::read(&aside).expect("the damaged file"), damaged, "never overwritten");
    host.start();
    assert_eq!(host.networks().expect("networks"), [], "a new store begins empty");
    assert!(aside.exists());
    lab.finish();
}

#[test]
fn a_command_says_that_no_agent_runs_and_how_to_start_one() {
    let lab = Lab::new("a_command_says_that_no_agent_runs_and_how_to_start_one");
    let host = lab.host(&Options::ebpf());
    let status = || host.cli().output(&["status", "-o", "json"]);
    assert!(status().status.success(), "the twin");
    for crash in [false, true] {
        if crash {
            host.kill();
        } else {
            host.stop();
        }
        let output = status();
        assert_eq!(output.status.code(), Some(1));
        let error = failure(&String::from_utf8_lossy(&output.stderr));
        assert_eq!(error.code, ErrorCode::AgentUnavailable);
        assert!(error.remedy.contains("privnet agent"), "{}", error.remedy);
        // A crash leaves the socket's file behind, which must not keep the next agent from starting.
        host.start();
    }
    lab.finish();
}

fn start_attach(host: &Host, network: &str, netns: &Path) -> Child {
    let netns = netns.display().to_string();
    let app = privnet_tests::lab::container::APP;
    let cli = host.cli();
    let mut command = cli.command(&["attach", "--network", network, "--app", app, "--number", "1", "--netns", &netns]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts")
}

/// Starts an agent that is expected to end by itself, and waits until it has.
fn run_agent(host: &Host, state: &Path, socket: &Path) -> Output {
    let paths = host.paths();
    let line = format!(
        "{} agent --host {} --vtep {} --state-dir {} --socket {} --datapath {} --netns-prefix {} --bpffs {}",
        binary().display(),
        host.name,
        host.vtep,
        state.display(),
        socket.display(),
        host.options.datapath,
        paths.prefix,
        paths.bpffs.display()
    );
    let output = host.space.attempt(&format!("timeout 20 {line}"));
    say(&String::from_utf8_lossy(&output.stderr));
    assert_ne!(output.status.code(), Some(124), "the agent runs");
    output
}

fn files(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).expect("the directory").filter_map(Result::ok).map(|entry| entry.path()).collect()
}

/// The agent's own record of the member with this address.
fn record_of(journal: &Path, address: Ipv4Addr) -> PathBuf {
    let says = |path: &PathBuf| {
        let text = fs::read(path).expect("a file");
        let record = serde_json::from_slice::<serde_json::Value>(&text).ok();
        record.is_some_and(|record| record["address"] == address.to_string())
    };
    files(journal).into_iter().find(says).expect("a record")
}

fn only(directory: &Path, extension: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = files(directory);
    found.retain(|path| path.extension().is_some_and(|its| its == extension));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn store_file(state: &Path) -> PathBuf {
    let found = files(state).into_iter().find(|path| path.extension().is_some_and(|its| its == "redb"));
    found.unwrap_or_else(|| panic!("no store in {:?}", files(state)))
}
