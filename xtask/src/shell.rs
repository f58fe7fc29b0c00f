//! Starting other programs, and becoming root for those that need it.
//!
//! What a program prints goes to stderr: stdout belongs to the result of a task.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use crate::environment;

/// Says what is being done.
pub fn say(what: &str) {
    if io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none() {
        eprintln!("\x1b[1m==> {what}\x1b[0m");
    } else {
        eprintln!("==> {what}");
    }
}

/// Runs `command` to its end with its output on stderr.
///
/// # Errors
/// It could not be started, or did not succeed.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdout(Stdio::from(io::stderr()))
        .status()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs `command` and returns what it printed on stdout.
///
/// # Errors
/// It could not be started, or did not succeed; then the error carries its stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed: {}: {}", shown(command), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Whether this process is root.
pub fn is_root() -> bool {
    // The fields of "Uid:" are the real, effective, saved and file system ids: proc_pid_status(5).
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        line.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
    })
}

/// Whether root can be reached: by being it, or by a sudo that asks nothing or can ask somebody.
pub fn can_be_root() -> bool {
    is_root() || environment::which("sudo").is_some_and(|sudo| io::stdin().is_terminal() || asks_nothing(&sudo))
}

fn asks_nothing(sudo: &Path) -> bool {
    let mut command = Command::new(sudo);
    command.args(["-n", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A command that runs `program` as root, in the present directory, with the variables `set` besides the kept ones.
///
/// # Errors
/// This process is not root and there is no sudo.
pub fn as_root(program: &Path, set: &[(&str, OsString)]) -> Result<Command> {
    let here = env::current_dir().context("cannot find the present directory")?;
    if is_root() {
        let mut command = environment::foreign(program);
        command.current_dir(here).envs(set.iter().map(|(name, value)| (name, value)));
        return Ok(command);
    }
    let Some(sudo) = environment::which("sudo") else {
        bail!("{} needs root and there is no sudo: run this as root", program.display());
    };
    let mut command = environment::foreign(&sudo);
    command.current_dir(here).arg("env");
    // sudo's rules about variables differ from machine to machine, so `env` sets them on its other side.
    let kept = env::vars_os().filter(|(name, _)| is_kept(name));
    for (name, value) in kept.chain(set.iter().map(|(name, value)| (name.into(), value.clone()))) {
        let mut pair = name;
        pair.push("=");
        pair.push(value);
        command.arg(pair);
    }
    command.arg(program);
    Ok(command)
}

/// The variables of the project and of its libraries, and what a terminal needs.
fn is_kept(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    ["PRIVNET_", "PROPTEST_", "RUST_"].iter().any(|prefix| name.starts_with(prefix))
        || ["CI", "NO_COLOR", "TERM", "PATH", "COLUMNS"].contains(&name.as_ref())
}

/// Becomes `command`: signals and the exit code are its own.
///
/// # Errors
/// Only if it could not be started; else this does not return.
pub fn exec(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", shown(command)))
}
