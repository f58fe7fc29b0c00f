//! Processes of a test, and of the binary under test: which run, and how many labs with agents run at once.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use privnet::netns::{DEFAULT_DIR, Netns, NetnsId};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};

use super::cli::binary;
use super::wait::{SOON, holds_within};

/// How often a lab looks for a place.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// What stands before the run directory on the command line of a WireGuard or DNS process.
const RUN_DIR: &str = "--run-dir";

/// The variable that says how many labs with agents of one built binary may be there at once; one without it.
const LABS: &str = "PRIVNET_LABS";

/// A lock of one of the places for labs with agents of one built binary, also across processes: a machine has room for few.
#[derive(Debug)]
pub(crate) struct Place {
    _file: File,
}

impl Place {
    pub(crate) fn wait() -> Self {
        let count = std::env::var(LABS).ok().and_then(|count| count.parse().ok()).unwrap_or(1).max(1);
        let file = |number| {
            let path = binary().with_file_name(format!(".privnet-lab-{number}.lock"));
            File::create(&path).expect("the lab's lock file")
        };
        let files: Vec<File> = (1..=count).map(file).collect();
        loop {
            let is_taken = |file: &File| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok();
            if let Some(taken) = files.iter().position(is_taken) {
                let file = files.into_iter().nth(taken).expect("it is one of them");
                return Self { _file: file };
            }
            std::thread::sleep(TRY_AGAIN);
        }
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

/// The WireGuard and DNS processes whose run directory is `directory` or below it, whichever binary they run.
#[must_use]
pub fn companions_below(directory: &Path) -> BTreeSet<Process> {
    let is_meant = |process: &Process| {
        let words: Vec<&str> = process.command.split(' ').collect();
        words.windows(2).any(|words| words[0] == RUN_DIR && Path::new(words[1]).starts_with(directory))
    };
    all().map(|(process, _)| process).filter(is_meant).collect()
}

/// The threads of a process, while it runs.
#[must_use]
pub fn threads(process: i32) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| Pid::from_raw(task.file_name().to_str()?.parse().ok()?)).collect()
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
    let others = all().filter(|(process, _)| process.pid.to_string() != own);
    let ours = others.filter_map(|(process, directory)| {
        let (state, parent) = state_and_parent(&directory)?;
        // A zombie has ended, and waits for its parent only.
        (state != "Z" && is_ours(&directory, &process.command, &parent)).then_some(process)
    });
    ours.collect()
}

/// Every process, with its directory in `/proc`.
fn all() -> impl Iterator<Item = (Process, PathBuf)> {
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok).map(|entry| entry.path());
    entries.filter_map(|directory| {
        let pid = directory.file_name()?.to_str()?.parse().ok()?;
        Some((Process { pid, command: command(&directory)? }, directory))
    })
}

/// Waits until the processes of a ground have ended that were not there before; kills those that have not, and says what
/// they were.
pub(crate) fn end_strays(name: &str, before: &BTreeSet<Process>, patience: Duration) -> Vec<String> {
    let strays = || of_ground(name).difference(before).cloned().collect::<Vec<_>>();
    if holds_within(patience, || strays().is_empty()) {
        return Vec::new();
    }
    let left = strays();
    end(Signal::KILL, strays);
    left.into_iter().map(|stray| format!("process {}: {}", stray.pid, stray.command)).collect()
}

/// Sends a signal to processes, and waits until there are none.
pub(crate) fn end(signal: Signal, processes: impl Fn() -> Vec<Process>) {
    for process in processes() {
        kill(process.pid, signal);
    }
    holds_within(SOON, || processes().is_empty());
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
