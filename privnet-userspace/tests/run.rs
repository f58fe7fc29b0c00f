//! `privnet run`: a command in namespaces of its own, attached while it runs. Needs root.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::{APP, FakeAgent, Memory, RESOLV_CONF, outcome, privnet};

/// How long anything here may take; the machine may be busy.
const BOUND: Duration = Duration::from_secs(20);

#[test]
fn a_command_has_its_own_namespaces_its_environment_and_its_exit_code() {
    if !is_root("a_command_has_its_own_namespaces_its_environment_and_its_exit_code") {
        return;
    }
    let agent = FakeAgent::start(Memory::default());
    let script = "readlink /proc/self/ns/net /proc/self/ns/mnt /proc/self/ns/uts; cat /sys/class/net/lo/flags; uname -n; \
                  echo $PRIVNET_ADDRESS; cat; exit 42";
    let mut child = spawn(&mut run(&agent, &["sh", "-c", script]));
    child.stdin.take().expect("piped").write_all(b"from stdin\n").expect("written");
    let output = child.wait_with_output().expect("ended");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(output.status.code(), Some(42), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    for (line, kind) in lines.iter().zip(["net", "mnt", "uts"]) {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("readable");
        assert!(line.starts_with(&format!("{kind}:[")) && *line != own.to_string_lossy(), "{line} is the test's own");
    }
    assert_eq!(lines[4..], ["web-3", "10.240.0.2", "from stdin"], "{stdout}");
    let asked = agent.asked();
    assert!(asked.len() == 2 && asked[0].starts_with("attach Pid("), "{asked:?}");
    assert_eq!(asked[1], format!("detach shop {APP} None Some(3)"));
}

#[test]
fn the_commands_loopback_is_up() {
    if !is_root("the_commands_loopback_is_up") {
        return;
    }
    let agent = FakeAgent::start(Memory::default());
    let (code, stdout, stderr) = outcome(run(&agent, &["ip", "-o", "link", "show", "up"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!((stdout.lines().count(), stdout.contains(": lo: ")), (1, true), "{stdout}");
}

#[test]
fn the_command_has_the_resolv_conf_of_its_network_and_the_host_keeps_its_own() {
    if !is_root("the_command_has_the_resolv_conf_of_its_network_and_the_host_keeps_its_own") {
        return;
    }
    let agent = FakeAgent::start(Memory::default());
    let before = std::fs::read("/etc/resolv.conf").ok();
    let (code, stdout, stderr) =
        outcome(run(&agent, &["sh", "-c", "stat -c %a /etc/resolv.conf; cat /etc/resolv.conf"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, format!("644\n{RESOLV_CONF}"));
    assert_eq!(std::fs::read("/etc/resolv.conf").ok(), before);
}

#[test]
fn no_signal_is_held_back_from_the_command() {
    if !is_root("no_signal_is_held_back_from_the_command") {
        return;
    }
    let agent = FakeAgent::start(Memory::default());
    let (code, stdout, _) = outcome(run(&agent, &["grep", "SigBlk", "/proc/self/status"]));
    assert_eq!((code, stdout.as_str()), (0, "SigBlk:\t0000000000000000\n"));
}

#[test]
fn a_command_that_cannot_be_executed_ends_as_in_a_shell_and_is_detached() {
    if !is_root("a_command_that_cannot_be_executed_ends_as_in_a_shell_and_is_detached") {
        return;
    }
    for (command, expected, message) in [
        ("/nonexistent/command", 127, "No such file or directory"),
        ("no-such-command-on-path", 127, "No such file or directory"),
        ("/etc/passwd", 126, "Permission denied"),
    ] {
        let agent = FakeAgent::start(Memory::default());
        let (code, stdout, stderr) = outcome(run(&agent, &[command]));
        assert_eq!((code, stdout.as_str()), (expected, ""), "{command}: {stderr}");
        assert!(stderr.contains(&format!("error: cannot execute {command}: {message}")), "{stderr}");
        assert!(agent.asked()[1].starts_with("detach"), "{command}");
    }
}

#[test]
fn a_command_that_was_killed_is_detached_and_its_signal_is_the_exit_code() {
    if !is_root("a_command_that_was_killed_is_detached_and_its_signal_is_the_exit_code") {
        return;
    }
    let agent = FakeAgent::start(Memory::default());
    assert_eq!(outcome(run(&agent, &["sh", "-c", "kill -KILL $$"])).0, 128 + 9);
    assert!(agent.asked()[1].starts_with("detach"));
}

#[test]
fn signals_that_a_process_sends_are_handed_on() {
    if !is_root("signals_that_a_process_sends_are_handed_on") {
        return;
    }
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
    ] {
        let agent = FakeAgent::start(Memory::default());
        // A shell looks at its traps between commands.
        let script = format!("trap 'echo heard {name}; exit 7' {name}; echo ready; while :; do sleep 0.05; done");
        // What was ignored when a shell started, as INT is in a background job, it cannot trap.
        let mut child = spawn(&mut run(&agent, &["env", "--default-signal", "sh", "-c", &script]));
        let mut stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert_eq!(stdout.next().expect("a line").expect("UTF-8"), "ready");
        kill_process(Pid::from_child(&child), signal).expect("sent");
        assert_eq!(stdout.next().expect("a line").expect("UTF-8"), format!("heard {name}"));
        assert_eq!(child.wait().expect("ended").code(), Some(7), "{name}");
        assert!(agent.asked()[1].starts_with("detach"), "{name}");
    }
}

#[test]
fn a_command_whose_attach_fails_never_runs() {
    if !is_root("a_command_whose_attach_fails_never_runs") {
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let marker = directory.path().join("it-ran");
    let touch = ["touch", &marker.to_string_lossy()];
    let agent = FakeAgent::start(Memory { refuse_attach: true, ..Memory::default() });
    let (code, stdout, stderr) = outcome(run(&agent, &touch));
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert_eq!(stderr, "error: no address of shop is free\n  remedy: detach somebody\n");
    assert!(!marker.exists());
    let (target, asked) = (agent.asked()[0].clone(), agent.asked().len());
    let pid = target.strip_prefix("attach Pid(").and_then(|rest| rest.split_once(')')?.0.parse().ok());
    let pid = pid.and_then(Pid::from_raw);
    assert!(test_kill_process(pid.expect("a process")).is_err(), "the child is still there");
    assert_eq!(asked, 1, "what was never attached was detached");

    let agent = FakeAgent::start(Memory::default());
    assert_eq!(outcome(run(&agent, &touch)).0, 0);
    assert!(marker.exists());
}

#[test]
fn without_an_agent_the_command_never_runs() {
    if !is_root("without_an_agent_the_command_never_runs") {
        return;
    }
    let arguments = ["run", "--network", "shop", "--app", APP, "--socket", "/nonexistent", "--", "echo", "ran"];
    let (code, stdout, stderr) = outcome(privnet(&arguments));
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("error: the agent is not running"), "{stderr}");
}

#[test]
fn a_command_does_not_outlive_its_parent() {
    if !is_root("a_command_does_not_outlive_its_parent") {
        return;
    }
    let agent = FakeAgent::start(Memory::default());
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut child = spawn(run(&agent, &["sh", "-c", "echo $$; exec sleep 1000"]).env("TMPDIR", directory.path()));
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    let command = line.trim().parse().ok().and_then(Pid::from_raw).expect("a process");
    test_kill_process(command).expect("it runs");
    assert_eq!(rendezvous_left(&directory), 0, "what is not needed any more is there");
    child.kill().expect("killed");
    child.wait().expect("ended");
    let start = Instant::now();
    while test_kill_process(command).is_ok() && !is_zombie(command) {
        assert!(start.elapsed() < BOUND, "the command outlives its parent");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run(agent: &FakeAgent, command: &[&str]) -> Command {
    agent.privnet(&[&["run", "--network", "shop", "--app", APP, "--"], command].concat())
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started")
}

fn rendezvous_left(directory: &tempfile::TempDir) -> usize {
    std::fs::read_dir(directory.path()).expect("readable").count()
}

/// Nobody may be there to reap it.
fn is_zombie(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// Whether `test` can run here; says so when it cannot.
#[expect(clippy::print_stdout, reason = "the harness counts these lines")]
fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: {test}: root");
    }
    root
}
