//! The first process of a virtual machine of `cargo xtask vm`: mounts, runs the jobs that it is handed, powers off.
//!
//! Jobs come in on the first serial line, one a line, whenever it says `ready`. What they print, and what it says of them
//! behind a mark, goes out on the same line; its own trouble goes to the console, where a panic of this process becomes one
//! of the kernel. The other half is `xtask/src/vm`.

#![expect(clippy::print_stderr, reason = "stderr is the console of the machine")]

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait};
use rustix::system::{RebootCommand, reboot};
use rustix::termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr};

/// What carries the jobs, and their output.
const LINE: &str = "/dev/ttyS0";
/// What stands before a line of ours.
const MARK: &str = "@@vm ";
/// What comes in instead of a job when there is none.
const NO_MORE: &str = "over";
/// How long what a job started may take to end after it, and a process to notice a signal.
const GRACE: Duration = Duration::from_secs(5);
/// How long the kernel may take for the namespaces that are gone.
const TEARDOWN: Duration = Duration::from_secs(60);
/// How often to look.
const GLANCE: Duration = Duration::from_millis(25);
/// How often to look whether a job has ended: the machines' tests wait for hundreds of short ones.
const SHORT_GLANCE: Duration = Duration::from_millis(4);
/// Folders that a job must leave as it found them.
const WATCHED: [&str; 4] = ["/run", "/run/netns", "/sys/fs/bpf", "/sys/class/net"];

fn main() {
    if let Err(error) = run() {
        eprintln!("init: {error:#}");
        // The last words on the line are missing, and that is how xtask knows.
    }
    rustix::fs::sync();
    let error = reboot(RebootCommand::PowerOff);
    eprintln!("init: cannot power off: {error:?}");
}

fn run() -> Result<()> {
    prepare()?;
    match option("vm.mode=")?.as_deref() {
        Some("trial") => {}
        Some("shell") => shell()?,
        Some("jobs") => jobs(Afterwards::Check)?,
        Some("host") => jobs(Afterwards::GoOn)?,
        other => bail!("no such mode: {other:?}"),
    }
    say("over")
}

/// What the kernel's command line says behind `name`.
fn option(name: &str) -> Result<Option<String>> {
    let line = fs::read_to_string("/proc/cmdline").context("cannot read the kernel's command line")?;
    Ok(line.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned))
}

/// Makes of the first file system what programs expect. It is a tmpfs itself, so that /tmp needs none.
fn prepare() -> Result<()> {
    let none = MountFlags::empty();
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("bpf", "/sys/fs/bpf"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
    ] {
        if at.starts_with("/dev/") {
            fs::create_dir_all(at).with_context(|| format!("cannot make {at}"))?;
        }
        mount(kind, at, kind, none, None).with_context(|| format!("cannot mount {kind} on {at}"))?;
    }
    // mount(8) would make its own when it is first called.
    for folder in ["/run/netns", "/run/mount"] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {folder}"))?;
    }
    // As systemd has it: a mount in one mount namespace is seen in the others.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).context("cannot share /")?;
    for (link, target) in [("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "/proc/self/fd/0")] {
        std::os::unix::fs::symlink(target, link).with_context(|| format!("cannot link {link}"))?;
    }
    rustix::system::sethostname(b"vm").context("cannot name the machine")?;
    // udev would have made /dev/net/tun, which loads the module when it is opened.
    for words in [&["modprobe", "tun"][..], &["ip", "link", "set", "lo", "up"]] {
        let status = Command::new(words[0]).args(&words[1..]).env("PATH", search_path()).status();
        match status {
            Ok(status) if status.success() => {}
            other => eprintln!("init: {}: {other:?}", words.join(" ")),
        }
    }
    Ok(())
}

/// Runs a shell on the first line until it ends.
fn shell() -> Result<()> {
    let mut command = Command::new("setsid");
    command.args(["-c", "bash", "-i"]).current_dir("/root").env("PS1", "vm# ").env("TERM", "vt100");
    variables(&mut command)?;
    on_the_line(&mut command)?;
    let child = command.spawn().context("cannot start a shell")?;
    wait_for(Pid::from_child(&child), None);
    Ok(())
}

/// What becomes of what a job leaves behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Afterwards {
    /// It is a fault: told, and its processes ended.
    Check,
    /// It goes on: the machine is a host, and the job was somebody's command on it.
    GoOn,
}

/// Runs what is handed over until there is nothing more.
fn jobs(afterwards: Afterwards) -> Result<()> {
    let line = OpenOptions::new().read(true).write(true).open(LINE).with_context(|| format!("cannot open {LINE}"))?;
    let mut attributes = tcgetattr(&line).with_context(|| format!("cannot ask {LINE} for its modes"))?;
    // What comes in is not for the other side to read again.
    attributes.make_raw();
    tcsetattr(&line, OptionalActions::Now, &attributes).with_context(|| format!("cannot set the modes of {LINE}"))?;
    let mut lines = BufReader::new(line).lines();
    loop {
        say("ready")?;
        let job = lines.next().with_context(|| format!("{LINE} has ended"))?;
        let job = job.with_context(|| format!("cannot read from {LINE}"))?;
        if job == NO_MORE {
            return if afterwards == Afterwards::Check { settle() } else { Ok(()) };
        }
        let mut fields = job.split('\t');
        let (Some(name), Some(limit), Some(folder), Some(program)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            bail!("no job: {job}");
        };
        let limit = Duration::from_secs(limit.parse().with_context(|| format!("no number of seconds: {limit}"))?);
        let mut command = Command::new(program);
        command.args(fields).current_dir(folder);
        run_job(name, &mut command, limit, afterwards)?;
    }
}

/// Waits until the kernel has taken apart every namespace that the jobs left: one by one, so that the last one is ours. A
/// device that cannot go holds them up, and the kernel says which one after ten seconds.
fn settle() -> Result<()> {
    for words in ["netns add last", "link add last0 type veth peer name last1 netns last", "netns delete last"] {
        let status = Command::new("ip").args(words.split(' ')).env("PATH", search_path()).status();
        ensure!(status.with_context(|| format!("cannot run ip {words}"))?.success(), "ip {words} failed");
    }
    let start = Instant::now();
    while Path::new("/sys/class/net/last0").exists() {
        ensure!(start.elapsed() < TEARDOWN, "the kernel does not come to an end with its namespaces");
        thread::sleep(GLANCE);
    }
    Ok(())
}

fn run_job(name: &str, command: &mut Command, limit: Duration, afterwards: Afterwards) -> Result<()> {
    say(&format!("begin {name}"))?;
    let before = if afterwards == Afterwards::Check { remains() } else { BTreeSet::new() };
    let start = Instant::now();
    variables(command)?;
    on_the_line(command)?;
    // The next job is not for this one to read.
    command.stdin(Stdio::null());
    let how = match command.process_group(0).spawn() {
        Ok(child) => told(wait_for(Pid::from_child(&child), Some(limit))),
        Err(error) => format!("not started: {error}"),
    };
    let took = start.elapsed().as_millis();
    if afterwards == Afterwards::Check {
        for left in left_behind(&before) {
            say(&format!("left {left}"))?;
        }
    }
    say(&format!("end {name}: {how}, {took} ms"))
}

/// Collects every process that ends, for init inherits them, until this one does; past the limit it is ended.
fn wait_for(wanted: Pid, limit: Option<Duration>) -> Option<ExitStatus> {
    let start = Instant::now();
    let mut is_over = false;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == wanted => {
                return (!is_over).then(|| ExitStatus::from_raw(status.as_raw()));
            }
            Ok(Some(_)) => {}
            Ok(None) => thread::sleep(if start.elapsed() < GRACE { SHORT_GLANCE } else { GLANCE }),
            Err(_) => return None,
        }
        if !is_over && limit.is_some_and(|limit| start.elapsed() > limit) {
            is_over = true;
            let _ = kill_process_group(wanted, Signal::KILL);
        }
    }
}

fn told(status: Option<ExitStatus>) -> String {
    match status {
        None => "took too long".to_owned(),
        Some(status) if status.success() => "ok".to_owned(),
        Some(status) => status.to_string(),
    }
}

/// What is there that was not there before, once it had time to go; processes are ended.
fn left_behind(before: &BTreeSet<String>) -> Vec<String> {
    let start = Instant::now();
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let left: Vec<String> = remains().difference(before).cloned().collect();
        if left.is_empty() || start.elapsed() > GRACE {
            for process in processes() {
                let _ = kill_process(process.0, Signal::KILL);
            }
            return left;
        }
        thread::sleep(GLANCE);
    }
}

/// Processes, and the entries of the watched folders, each as one line.
fn remains() -> BTreeSet<String> {
    let names = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let found = WATCHED.iter().flat_map(|folder| names(folder));
    found.chain(processes().into_iter().map(|(pid, name)| format!("process {} {name}", pid.as_raw_nonzero()))).collect()
}

/// Every process but this one and the kernel's own, with its command line.
fn processes() -> Vec<(Pid, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let process = |name: String| {
        let pid = Pid::from_raw(name.parse().ok()?)?;
        let line = fs::read(Path::new("/proc").join(name).join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned();
        // The kernel's own have none.
        (pid != Pid::INIT && !line.is_empty()).then_some((pid, line))
    };
    entries.filter_map(|entry| process(entry.file_name().into_string().ok()?)).collect()
}

/// Gives a program the variables of the jobs, and no others.
fn variables(command: &mut Command) -> Result<()> {
    let text = fs::read_to_string("/vm/variables").context("cannot read the variables")?;
    command.env("HOME", "/root").env("LANG", "C.UTF-8");
    command.envs(text.lines().filter_map(|line| line.split_once('=')));
    if option("vm.emulated=")?.as_deref() == Some("1") {
        command.env("PRIVNET_EMULATED", "1");
    }
    Ok(())
}

fn search_path() -> String {
    let text = fs::read_to_string("/vm/variables").unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("PATH="));
    path.unwrap_or("/usr/sbin:/usr/bin:/sbin:/bin").to_owned()
}

fn on_the_line(command: &mut Command) -> Result<()> {
    let open = || OpenOptions::new().read(true).write(true).open(LINE).with_context(|| format!("cannot open {LINE}"));
    command.stdin(Stdio::from(open()?)).stdout(Stdio::from(open()?)).stderr(Stdio::from(open()?));
    Ok(())
}

/// Says something behind the mark, and waits until all of it has left.
fn say(what: &str) -> Result<()> {
    let mut line = OpenOptions::new().write(true).open(LINE).with_context(|| format!("cannot open {LINE}"))?;
    // A job may have ended in the middle of a line.
    write!(line, "\n{MARK}{what}\n").with_context(|| format!("cannot write to {LINE}"))?;
    tcdrain(&line).with_context(|| format!("cannot wait for {LINE}"))
}
