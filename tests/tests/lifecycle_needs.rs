//! What the agent needs of its process and of the host's directories: an agent that lacks it refuses at its start, and one
//! that loses it later refuses each change at once and touches no member.
//!
//! ```text
//!  setpriv --bounding-set=… privnet agent ─▶ refused: which capability, its purpose, the line of the unit
//!  mount tmpfs /sys/fs/bpf/…, /…/state    ─▶ web ⇄ worker go on; attach: an error within a second, or mended by the agent
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use privnet::agent::views::{Attached, Check, CheckStatus, Detached, NetworkView};
use privnet::agent::{ControlError, ErrorCode};
use privnet::datapath::is_bpffs;
use privnet_tests::lab::container::APP;
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::space::{ProcessSpace, run_in};
use privnet_tests::lab::{Container, Host, Lab, Options, figure, say, wait_until};
use rustix::process::{Resource, Rlimit};

const SUBNET: &str = "10.90.0.0/24";
const PORT: u16 = 7000;
/// All that the agent needs.
const NEEDED: [&str; 4] = ["net_admin", "sys_admin", "sys_ptrace", "net_bind_service"];
/// A refusal that waited for something takes longer: an attach waits for 30 s.
const AT_ONCE: Duration = Duration::from_secs(10);

#[test]
fn an_agent_without_a_capability_that_it_needs_refuses_and_one_with_exactly_these_serves() {
    let lab = Lab::new("an_agent_without_a_capability_that_it_needs_refuses_and_one_with_exactly_these_serves");
    let options =
        Options { capabilities: Some("-all,+net_admin,+sys_admin,+sys_ptrace,+net_bind_service"), ..Options::ebpf() };
    let host = lab.host(&options);
    host.stop();
    for missing in NEEDED {
        let line = format!("timeout 20 setpriv --bounding-set=-{missing} {}", host.agent_line());
        let output = host.space.attempt(&line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{missing}: {said}");
        let name = format!("CAP_{}", missing.to_uppercase());
        assert!(said.contains(&format!("the agent lacks {name}, which ")), "{said}");
        assert!(said.contains("CapabilityBoundingSet=") && !host.paths().socket.exists(), "{said}");
    }

    say("the twin: exactly these, a container of a process that has more, and names");
    host.start();
    let network = host.network("shop", SUBNET);
    let worker = lab.member(&host, &network, "worker-1");
    let process = ProcessSpace::start();
    run_in(&process.netns(), "ip link set lo up");
    let path = process.path().display().to_string();
    let line = ["attach", "--network", "shop", "--app", APP, "--netns", &path];
    let attached: Attached = host.cli().json(&line).expect("attached");
    assert_eq!(attached.problems, []);
    let reaches = || {
        let mut ping = Command::new("nsenter");
        ping.arg(format!("--net={path}")).args(["ping", "-c", "1", "-W", "1"]).arg(worker.address().to_string());
        ping.output().is_ok_and(|output| output.status.success())
    };
    wait_until("it reaches the worker", reaches);
    assert_eq!(host.status().expect("status").names.map(|names| names.containers), Some(2));
    let checks: Vec<Check> = host.cli().json(&["doctor"]).expect("no check fails");
    let of_capabilities = checks.iter().find(|check| check.check == "capabilities").expect("the check");
    assert!(of_capabilities.detail.contains("CAP_DAC_OVERRIDE"), "{of_capabilities:?}");

    say("a container that keeps what it asks from its server is named");
    let of_names = checks.iter().find(|check| check.check == "names").expect("the check");
    assert!(of_names.detail.contains("is answered by 127.0.0.82"), "{of_names:?}");
    let route = |verb: &str| run_in(&process.netns(), &format!("ip route {verb} prohibit 127.0.0.82 table local"));
    route("add");
    let failed = doctor_fails(&host, "names");
    let (which, where_to) = (format!("in 1 of 2 containers: 1.web.{APP} ("), format!("nsenter --net={path} "));
    assert!(failed.detail.contains(&which) && failed.remedy.contains(&where_to), "{failed:?}");
    route("delete");
    let _: Vec<Check> = host.cli().json(&["doctor"]).expect("no check fails");

    say("and an agent after it adopts them, and detaches");
    host.stop();
    host.start();
    host.wait_until_settled();
    assert!(host.detach(&network, &worker.container).expect("detach").detached);
    let detached: Detached = host.cli().json(&["detach", "--network", "shop", "--app", APP]).expect("detached");
    assert_eq!(detached, Detached { detached: true, problems: Vec::new() });
    process.end();
    lab.finish_detached();
}

#[test]
fn a_bpffs_that_goes_is_made_again_and_one_that_cannot_be_is_named_at_once() {
    let lab = Lab::new("a_bpffs_that_goes_is_made_again_and_one_that_cannot_be_is_named_at_once");
    let host = lab.host(&Options::ebpf());
    let network = host.network("shop", SUBNET);
    let web = host.join(&network, &lab.container("web-1").with_eth0(&host.space, 2));
    let worker = lab.member(&host, &network, "worker-1");
    wait_until("web reaches worker", || web.pings(worker.address()));
    let pins = host.paths().bpffs.clone();

    say("an empty directory: the agent mounts a bpffs, in the middle of an attach");
    let hidden = Mount::over(&pins);
    assert!(!is_bpffs(&pins));
    let third = host.join(&network, &lab.container("worker-2"));
    assert!(is_bpffs(&pins));
    wait_until("the third member reaches both", || third.pings(web.address()) && third.pings(worker.address()));
    wait_until("and they each other", || web.pings(worker.address()));
    host.wait_until_settled();

    say("a directory with files of others: nothing is hidden, and each change names it at once");
    Mount::remove(&pins);
    fs::write(pins.join("theirs"), "precious").expect("a file");
    let late = lab.container("worker-3");
    let error = refused_at_once(&host, &network, &late);
    assert!(error.message.contains(&format!("{} is not on a BPF file system, and holds theirs", pins.display())));
    assert!(error.remedy.contains("umount"), "{error:?}");
    let failed = doctor_fails(&host, "bpffs");
    assert!(failed.detail.contains("holds theirs"), "{failed:?}");
    assert!(host.status().expect("status").problems.iter().any(|problem| problem.contains("holds theirs")));
    assert_eq!(late.space.links(), Vec::<String>::new(), "nothing of it is left in the container");
    assert!(web.pings(worker.address()), "traffic goes on");

    say("the twin: the file system of before is back, with its pins");
    drop(hidden);
    let late = host.join(&network, &late);
    wait_until("the late member reaches all", || late.pings(web.address()) && late.pings(third.address()));
    host.wait_until_settled();
    lab.finish();
}

#[test]
fn a_state_directory_that_is_hidden_stops_every_change_and_no_member() {
    let lab = Lab::new("a_state_directory_that_is_hidden_stops_every_change_and_no_member");
    let host = lab.host(&Options { observe_interval: Some(Duration::from_secs(1)), ..Options::ebpf() });
    let network = host.network("shop", SUBNET);
    let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));
    wait_until("web reaches worker", || web.pings(worker.address()));
    let state = host.paths().state.clone();
    let said = format!("the state directory {} was removed or is hidden", state.display());

    let hidden = Mount::over(&state);
    let late = lab.container("worker-2");
    let error = refused_at_once(&host, &network, &late);
    assert!(error.message.starts_with(&said) && error.remedy.contains("umount"), "{error:?}");
    for error in [
        host.create_network("other", None).map(drop).expect_err("it would not last"),
        host.delete_network("shop").expect_err("it would not last"),
        host.detach(&network, &web.container).map(drop).expect_err("its record is not there"),
    ] {
        assert!(error.message.starts_with(&said), "{error:?}");
    }
    assert!(doctor_fails(&host, "state_dir").detail.starts_with(&said));
    assert!(host.status().expect("status").problems.iter().any(|problem| problem.starts_with(&said)));
    // Observed by doctor, and each second: a process that is not found there is not started once more.
    assert!(web.pings(worker.address()), "traffic goes on");
    assert_eq!(fs::read_dir(&state).expect("a directory").count(), 0, "nothing is begun in its place");

    say("the twin: it is back");
    drop(hidden);
    let late = host.join(&network, &late);
    wait_until("the late member reaches both", || late.pings(web.address()) && late.pings(worker.address()));
    host.wait_until_settled();
    lab.finish();
}

#[test]
fn an_agent_without_descriptors_or_on_a_read_only_disk_refuses_each_change_and_touches_no_member() {
    let lab = Lab::new("an_agent_without_descriptors_or_on_a_read_only_disk_refuses_each_change_and_touches_no_member");
    let host = lab.host(&Options { observe_interval: Some(Duration::from_secs(1)), ..Options::ebpf() });
    let network = host.network("shop", SUBNET);
    let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));
    let server = Server::echo(&worker.app, PORT);
    wait_until("web reaches worker", || web.pings(worker.address()));
    let stream = Stream::start(&web.app, (worker.address(), PORT), Duration::from_millis(1));
    let late = lab.container("worker-2");

    say("descriptors: none but the one in reserve, then some more with each attach");
    let agent = rustix::process::Pid::from_raw(host.pid());
    // The agent has as many as it may have, which is what this process may have.
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit_to = |current: Option<u64>| {
        let set = rustix::process::prlimit(agent, Resource::Nofile, Rlimit { current, maximum });
        assert_eq!(set.expect("the limit of the agent's process").maximum, maximum);
    };
    let open = fs::read_dir(format!("/proc/{}/fd", host.pid())).expect("the agent's descriptors").flatten();
    let number = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse::<u64>().ok();
    let is_spare = |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to == Path::new("/dev/null"));
    let in_reserve = open.filter(is_spare).filter_map(|entry| number(&entry)).filter(|number| *number > 2);
    // Those that are open stay; a new one has the lowest number that is free.
    let mut limit = in_reserve.max().expect("a descriptor in reserve") + 1;
    let (begun, mut refusals) = (Instant::now(), 0);
    for _ in 0..5 {
        limit_to(Some(limit));
        match host.attach(&network, &late, None) {
            // What an attempt before left half made goes first.
            Ok(_) | Err(ControlError { code: ErrorCode::AddressTaken | ErrorCode::Timeout, .. }) => break,
            Err(error) => {
                assert!(error.message.contains("Too many open files"), "{error:?}\n{}", host.log_tail());
                assert!(error.remedy.contains("LimitNOFILE="), "{error:?}");
                refusals += 1;
            }
        }
        stream.flows();
        limit += 4;
    }
    assert!(refusals > 0, "the twin alone");
    limit_to(maximum);
    figure(&format!("without descriptors: {refusals} attaches were refused in {:.1?}", begun.elapsed()));
    host.wait_until_settled();
    let joined = host.join(&network, &late);
    wait_until("the late member reaches both", || joined.pings(web.address()) && joined.pings(worker.address()));
    assert!(host.detach(&network, &late).expect("detach").detached);

    say("a read-only file system under the state directory");
    let state = host.paths().state.clone();
    let read_only = Mount::read_only(&state);
    let begun = Instant::now();
    let error = refused_at_once(&host, &network, &late);
    assert!(error.message.contains("Read-only file system") && error.remedy.contains("is read-only"), "{error:?}");
    assert_eq!(late.space.links(), Vec::<String>::new(), "nothing of it is left in the container");
    let error = host.detach(&network, &web.container).map(drop).expect_err("its record would stay");
    assert!(error.message.contains("Read-only file system"), "{error:?}");
    assert!(doctor_fails(&host, "state_dir").detail.contains("Read-only file system"));
    let problems = host.status().expect("reads go on").problems;
    assert!(problems.iter().any(|problem| problem.contains("Read-only file system")), "{problems:?}");
    figure(&format!("a read-only state directory: an attach and a detach were refused in {:.1?}", begun.elapsed()));
    stream.flows();
    drop(read_only);
    let joined = host.join(&network, &late);
    wait_until("the late member reaches worker", || joined.pings(worker.address()));
    let (sent, lost) = stream.finish();
    figure(&format!("{} of {sent} datagrams were lost meanwhile", lost.len()));
    assert!(lost.is_empty(), "{} of {sent} were lost: {lost:?}", lost.len());
    drop(server);
    host.wait_until_settled();
    lab.finish();
}

#[track_caller]
fn refused_at_once(host: &Host, network: &NetworkView, container: &Container) -> ControlError {
    let begun = Instant::now();
    let error = host.attach(network, container, None).expect_err("a refusal");
    assert!(begun.elapsed() < AT_ONCE, "it took {:?}: {error:?}", begun.elapsed());
    assert_eq!(error.code, ErrorCode::Internal, "{error:?}");
    error
}

/// The check of this name, which fails.
#[track_caller]
fn doctor_fails(host: &Host, name: &str) -> Check {
    let output = host.cli().output(&["doctor", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let checks: Vec<Check> = serde_json::from_slice(&output.stdout).expect("checks");
    let check = checks.into_iter().find(|check| check.check == name).expect("the check");
    assert_eq!(check.status, CheckStatus::Fail, "{check:?}");
    check
}

/// An empty file system over a directory, as long as it lives.
struct Mount(PathBuf);

impl Mount {
    fn over(directory: &Path) -> Self {
        let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(directory).status();
        assert!(status.expect("mount").success(), "{}", directory.display());
        Self(directory.to_owned())
    }

    /// The directory itself, and nothing in it can be changed by its name.
    fn read_only(directory: &Path) -> Self {
        for further in [&["--bind"][..], &["-o", "remount,bind,ro"]] {
            let status = Command::new("mount").args(further).arg(directory).arg(directory).status();
            assert!(status.expect("mount").success(), "{}", directory.display());
        }
        Self(directory.to_owned())
    }

    /// Takes what is on top of a directory away.
    fn remove(directory: &Path) {
        let status = Command::new("umount").arg("-l").arg(directory).status();
        assert!(status.expect("umount").success(), "{}", directory.display());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A test that fails may leave the agent's mount on top of this one.
        while fs::read_to_string("/proc/self/mounts")
            .is_ok_and(|mounts| mounts.split_whitespace().any(|word| Path::new(word) == self.0))
        {
            Self::remove(&self.0);
        }
    }
}
