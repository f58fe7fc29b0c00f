//! Processes of the binary under test: which run, and that no two labs run at once.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};

use super::cli::binary;
use super::wait::{SOON, holds_within};

/// A lock that labs of one built binary share, also across processes: their leak checks would see each other.
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
    let command = fs::read(directory.join("cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned();
    Some(Process { pid, command })
}

/// The processes of the binary that were not there `before`, but for the agents.
#[must_use]
pub fn workers(before: &BTreeSet<Process>) -> Vec<Process> {
    let is_agent = |process: &Process| process.command.split(' ').nth(1) == Some("agent");
    of_binary().into_iter().filter(|process| !before.contains(process) && !is_agent(process)).collect()
}

/// Kills what runs the binary and was not there before, and says what it was.
pub(crate) fn kill_strays(before: &BTreeSet<Process>) -> Vec<String> {
    let strays: Vec<Process> = of_binary().into_iter().filter(|process| !before.contains(process)).collect();
    for stray in &strays {
        kill(stray.pid, Signal::KILL);
    }
    holds_within(SOON, || of_binary().is_subset(before));
    strays.into_iter().map(|stray| format!("process {}: {}", stray.pid, stray.command)).collect()
}

/// Sends a signal; a process that is gone has had it.
pub fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}
