//! Runs an executable of tests and reads what it prints, as it comes.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::report::Reader;
use crate::shell;

/// How long what was printed last may take to arrive after the end of a test executable.
const GRACE: Duration = Duration::from_secs(2);

/// Runs tests, shows what a person wants to see of them, and counts. Returns whether they ended well.
///
/// # Errors
/// They could not be started.
pub fn read(command: &mut Command, reader: &mut Reader) -> Result<bool> {
    read_with("", command, reader)
}

/// The same, with a prefix before each line that is shown: others talk at the same time.
///
/// # Errors
/// They could not be started.
pub fn read_with(prefix: &str, command: &mut Command, reader: &mut Reader) -> Result<bool> {
    let shown = shell::shown(command);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {shown}"))?;
    let stdout = child.stdout.take().context("the tests have no stdout")?;
    let (sender, lines) = mpsc::channel();
    // Not joined: a process that outlives the tests may hold their stdout for ever.
    thread::spawn(move || {
        BufReader::new(stdout).split(b'\n').map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    loop {
        match lines.recv_timeout(GRACE) {
            // A program that a test runs may print what is not UTF-8.
            Ok(line) => {
                let line = String::from_utf8_lossy(&line);
                if reader.line(&line) {
                    println!("{prefix}{line}");
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if child.try_wait().with_context(|| format!("cannot wait for {shown}"))?.is_some() {
                    println!("{prefix}something that {shown} started still runs, and holds its output");
                    reader.broken();
                    break;
                }
            }
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for {shown}"))?;
    if !status.success() && !reader.has_failures() {
        // 124: timeout(1) ended it.
        println!("{prefix}{shown} ended with {status} without naming a failed test");
        reader.broken();
    }
    Ok(status.success())
}
