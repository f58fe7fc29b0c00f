//! Processes of a test, and of the binary under test: which run, and that no two labs with agents run at once.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use privnet::netns::{DEFAULT_DIR, Netns, NetnsId};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};

use super::cli::binary;
use super::container::Joined;
use super::host::Host;
use super::wait::{SOON, holds_within};

/// A lock that labs with agents of one built binary share, also across processes: the machine is too small for two.
#[derive(Debug)]
pub(crate) struct Alone {
    _file: File,
}

impl Alone {
    pub(crate) fn wait() -> Self {
        let path = binary().with_file_name(".privnet-lab.lock");
        let file = File::create(&path).expect("the lab's lock file");
        rustix::fs::flock(&file, FlockOperation::LockExclusive).expect("the lab's lock");
        Self { _file: file }
    }
}

/// A process: its id and its command line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command line, arguments parted by blanks.
    pub command: String,
}

/// The processes that run the binary under test.
#[must_use]
pub fn of_binary() -> BTreeSet<Process> {
    let binary = binary();
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    entries.filter_map(|entry| process(&entry.path(), &binary)).collect()
}

fn process(directory: &Path, binary: &Path) -> Option<Process> {
    let pid = directory.file_name()?.to_str()?.parse().ok()?;
    let exe = fs::read_link(directory.join("exe")).ok()?;
    // A binary that was built anew since is the same binary to us.
    let exe = PathBuf::from(exe.to_str()?.trim_end_matches(" (deleted)"));
    if exe != binary {
        return None;
    }
    Some(Process { pid, command: command(directory)? })
}

/// The processes of the binary, but for the agents.
#[must_use]
pub fn workers() -> Vec<Process> {
    let is_agent = |process: &Process| process.command.split(' ').nth(1) == Some("agent");
    of_binary().into_iter().filter(|process| !is_agent(process)).collect()
}

/// The process that does the WireGuard of a member of `host`, while there is one.
#[must_use]
pub fn wireguard_of(host: &Host, member: &Joined) -> Option<Process> {
    let state = host.paths().state.to_string_lossy().into_owned();
    let address = format!("{:08x}", u32::from(member.address()));
    let is_meant = |process: &Process| {
        let command = &process.command;
        command.contains(&state) && command.contains("wireguard-process") && command.ends_with(&address)
    };
    workers().into_iter().find(is_meant)
}

/// The processes of the ground of this name: it is on their command line, they run in one of its namespaces, or this
/// process started them.
#[must_use]
pub(crate) fn of_ground(name: &str) -> BTreeSet<Process> {
    let pins = Netns::list(Path::new(DEFAULT_DIR)).unwrap_or_default().into_iter();
    let namespaces: Vec<NetnsId> = pins.filter(|pin| pin.name.starts_with(name)).filter_map(|pin| pin.id).collect();
    let own = std::process::id().to_string();
    let is_ours = |directory: &Path, command: &str, parent: &str| {
        let is_inside = || Netns::identify(&directory.join("ns/net")).is_ok_and(|id| namespaces.contains(&id));
        command.contains(name) || parent == own || is_inside()
    };
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok).map(|entry| entry.path());
    let processes = entries.filter(|directory| directory.file_name().is_some_and(|pid| *pid != *own));
    let ours = processes.filter_map(|directory| {
        let (command, (state, parent)) = (command(&directory)?, state_and_parent(&directory)?);
        let pid = directory.file_name()?.to_str()?.parse().ok()?;
        // A zombie has ended, and waits for its parent only.
        (state != "Z" && is_ours(&directory, &command, &parent)).then_some(Process { pid, command })
    });
    ours.collect()
}

/// Waits until the processes of a ground have ended that were not there before; kills those that have not, and says what
/// they were.
pub(crate) fn end_strays(name: &str, before: &BTreeSet<Process>, patience: Duration) -> Vec<String> {
    let strays = || of_ground(name).difference(before).cloned().collect::<Vec<_>>();
    if holds_within(patience, || strays().is_empty()) {
        return Vec::new();
    }
    let left = strays();
    for stray in &left {
        kill(stray.pid, Signal::KILL);
    }
    holds_within(SOON, || strays().is_empty());
    left.into_iter().map(|stray| format!("process {}: {}", stray.pid, stray.command)).collect()
}

/// State and parent's id, from `/proc/<pid>/stat`: the two fields behind the name, which may hold anything but ends the last
/// parenthesis.
fn state_and_parent(directory: &Path) -> Option<(String, String)> {
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned);
    Some((fields.next()?, fields.next()?))
}

fn command(directory: &Path) -> Option<String> {
    let command = fs::read(directory.join("cmdline")).ok()?;
    Some(String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned())
}

/// Sends a signal; a process that is gone has had it.
pub fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}
