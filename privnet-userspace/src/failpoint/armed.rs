//! What a test has armed: one step, in a file of one line, `<action> <count> <step>`.
//!
//! The file goes when the step is reached, before the agent is killed: so a test sees that it was, and the next agent lives.
//! A task that is held before a step, or behind it, goes on when `<file>.held`, which it makes, is removed.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Step, VARIABLE};

/// The file of this agent; it does not listen without one.
static FILE: OnceLock<PathBuf> = OnceLock::new();
/// How long a task is held at most.
const LONGEST: Duration = Duration::from_secs(300);
/// Held while the file is looked at, as one step counts it down after the other.
static TURN: Mutex<()> = Mutex::new(());

pub(super) fn listen() {
    if let Some(path) = std::env::var_os(VARIABLE) {
        // A second call names the same file.
        let _ = FILE.set(path.into());
    }
}

pub(super) fn refused(step: Step) -> io::Result<()> {
    if is_due("halt", step) {
        hold();
    }
    if is_due("refuse", step) { Err(io::Error::other(format!("a test refuses the step `{step}`"))) } else { Ok(()) }
}

pub(super) fn passed(step: Step) {
    note(step);
    if is_due("kill", step) {
        tracing::warn!("a test kills the agent behind the step `{step}`");
        // Like a crash, it gives no task the time to do anything more.
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            thread::park();
        }
    }
    if is_due("hold", step) {
        hold();
    }
}

/// Holds the calling task, with what it holds, until a test lets it go, or forgets it.
fn hold() {
    let Some(held) = beside("held") else { return };
    if fs::write(&held, "").is_err() {
        return;
    }
    let wait = || {
        let since = Instant::now();
        while held.exists() && since.elapsed() < LONGEST {
            thread::sleep(Duration::from_millis(5));
        }
    };
    // The other tasks of the thread go on.
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        _ => wait(),
    }
}

/// A file beside that of this agent.
fn beside(extension: &str) -> Option<PathBuf> {
    let mut name = FILE.get()?.clone().into_os_string();
    name.push(".");
    name.push(extension);
    Some(name.into())
}

/// Whether this is the time that was armed for this action at this step.
fn is_due(action: &str, step: Step) -> bool {
    let Some(file) = FILE.get() else { return false };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(line) = fs::read_to_string(file) else { return false };
    let mut words = line.trim_end().splitn(3, ' ');
    let (armed, count, name) = (words.next(), words.next().and_then(|count| count.parse::<u32>().ok()), words.next());
    if armed != Some(action) || name != Some(&step.to_string()) {
        return false;
    }
    match count {
        Some(count) if count > 1 => {
            // Not armed any more where it cannot be counted down: the test finds that it was not reached.
            let _ = fs::write(file, format!("{action} {} {step}\n", count - 1));
            false
        }
        Some(_) | None => fs::remove_file(file).is_ok(),
    }
}

/// Adds a step to those that were passed, where a test wants to know them.
fn note(step: Step) {
    let Some(name) = beside("passed") else { return };
    if let Ok(mut passed) = fs::OpenOptions::new().append(true).open(name) {
        let _ = passed.write_all(format!("{step}\n").as_bytes());
    }
}
