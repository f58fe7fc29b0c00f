//! `privnet run`: a command in namespaces of its own, attached while it runs.
//!
//! The child is of the same process group, so a terminal's keys reach it as they reach any command; signals that
//! processes send are handed on.

pub mod child;
mod rendezvous;
mod signals;

use std::convert::Infallible;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};

use crate::api::views::{Attach, Attached, Detach, ResolvConfFile, Target};
use crate::api::{ControlError, ErrorCode};
use crate::cli::args::{Format, RunArgs};
use crate::cli::client::Client;
use crate::cli::output::print_error;
use crate::cli::runtime::wait;
use crate::cli::verbs::{attach_request, detach_request};
use rendezvous::{Go, Report};
use signals::Signals;

/// What a shell adds to the number of the signal that ended a command (POSIX, Shell Command Language 2.8.2).
const SIGNAL_BASE: i32 = 128;
/// How long to wait for an agent that is restarting when the member is to be detached.
const DETACH_PATIENCE: Duration = Duration::from_secs(10);
/// How often to ask it.
const DETACH_PAUSE: Duration = Duration::from_millis(250);

/// Runs the command as a member; answers with its exit code, or 128 and the number of the signal that ended it.
///
/// # Errors
/// When the command was not started as a member; nothing of it is left then.
pub fn run(arguments: &RunArgs, format: Format) -> Result<ExitCode, ControlError> {
    if !rustix::process::geteuid().is_root() {
        let message = "cannot make namespaces without root";
        return Err(ControlError::new(ErrorCode::PermissionDenied, message, "run it as root"));
    }
    let signals = Signals::hold().map_err(|error| cannot("block signals", &error))?;
    wait(supervise(arguments, format, signals))
}

async fn supervise(arguments: &RunArgs, format: Format, signals: Signals) -> Result<ExitCode, ControlError> {
    let rendezvous = Rendezvous::open()?;
    let mut child = spawn(arguments, format, &rendezvous.path)?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| cannot("start the command", &"its process is gone"))?;
    // A descriptor stays this process's when its number has another owner.
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| cannot("watch the command", &error))?;
    let mut signals = signals.of_processes();
    let forwarding = async {
        while let Some(number) = signals.recv().await {
            if let Some(signal) = Signal::from_named_raw(number) {
                // It may have ended a moment ago; its status says how.
                let _ = pidfd_send_signal(&process, signal);
            }
        }
        // Without signals there is nothing to hand on, and the command goes on.
        std::future::pending::<Infallible>().await
    };
    let result = tokio::select! {
        result = live(arguments, format, rendezvous, &mut child, pid) => result,
        never = forwarding => match never {},
    };
    if result.is_err() {
        // It may have ended by itself.
        let _ = child.kill().await;
    }
    result
}

async fn live(
    arguments: &RunArgs,
    format: Format,
    rendezvous: Rendezvous,
    child: &mut Child,
    pid: Pid,
) -> Result<ExitCode, ControlError> {
    let client = Client::new(&arguments.agent.socket);
    let mut stream = meet(rendezvous, child).await?;
    let target = Target::Pid(pid.as_raw_nonzero().get().unsigned_abs());
    let request = attach_request(arguments.member.clone(), None, &arguments.ports, target);
    let request = Attach { resolv_conf: resolv_conf_file(&arguments.agent.socket, pid), ..request };
    let attached = client.attach(&request).await?;
    let file = request.resolv_conf.map(|file| file.path);
    let status = release(&mut stream, &attached, file, child).await;
    detach(&client, arguments, &attached, format).await;
    Ok(exit_code(status?))
}

/// The file that the agent writes for the command, from all its networks: beside the agent's socket, by a path without links.
/// The agent makes it and removes it with the membership, so that nothing of it is left when this process is killed.
fn resolv_conf_file(socket: &Path, pid: Pid) -> Option<ResolvConfFile> {
    let directory = socket.parent()?.canonicalize().ok()?;
    let path = directory.join(format!("run-{pid}.resolv.conf", pid = pid.as_raw_nonzero()));
    Some(ResolvConfFile { path, by_caller: false, before: None })
}

/// Starts this binary again as the child. The link `/proc/self/exe` is right also when the file was replaced.
fn spawn(arguments: &RunArgs, format: Format, rendezvous: &Path) -> Result<Child, ControlError> {
    let format = format.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    Command::new("/proc/self/exe")
        .arg0("privnet")
        .args(["run-child", "--output", &format, "--rendezvous"])
        .arg(rendezvous)
        .arg("--")
        .args(&arguments.command)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| cannot("start the child", &error))
}

/// Where the parent waits for the child. Its file is gone when this is dropped.
struct Rendezvous {
    listener: UnixListener,
    path: PathBuf,
    _directory: TempDir,
}

impl Rendezvous {
    /// Opens one in a directory that no other user can enter.
    fn open() -> Result<Self, ControlError> {
        let private = Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new().prefix("privnet-run-").permissions(private).tempdir();
        let directory = directory.map_err(|error| cannot("make a directory for the rendezvous", &error))?;
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).map_err(|error| cannot("bind the rendezvous", &error))?;
        Ok(Self { listener, path, _directory: directory })
    }
}

/// Waits until the child is in its namespaces. The rendezvous is not needed afterwards: a parent that is killed later
/// leaves nothing of it behind.
async fn meet(rendezvous: Rendezvous, child: &mut Child) -> Result<BufReader<UnixStream>, ControlError> {
    let report = async {
        let (stream, _) = rendezvous.listener.accept().await.map_err(|error| cannot("meet the child", &error))?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.map_err(|error| cannot("hear the child", &error))?;
        match serde_json::from_str(&line) {
            Ok(Report::Ready) => Ok(stream),
            Ok(Report::Failed(error)) => Err(error),
            Err(error) => Err(cannot("understand the child", &error)),
        }
    };
    tokio::select! {
        result = report => result,
        status = child.wait() => Err(cannot("start the command", &ended(status))),
    }
}

fn ended(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| format!("its process ended early: {status}"))
}

/// Lets the child become the command, and waits for its end.
async fn release(
    stream: &mut BufReader<UnixStream>,
    attached: &Attached,
    resolv_conf_file: Option<PathBuf>,
    child: &mut Child,
) -> Result<ExitStatus, ControlError> {
    let go = Go {
        environment: attached.env.clone(),
        hostname: short_name(attached),
        resolv_conf: attached.resolv_conf.clone(),
        resolv_conf_file,
    };
    let mut line = serde_json::to_vec(&go).map_err(|error| cannot("start the command", &error))?;
    line.push(b'\n');
    // A child that was killed meanwhile does not hear it; its status says what happened.
    let _ = stream.get_mut().write_all(&line).await;
    child.wait().await.map_err(|error| cannot("wait for the command", &error))
}

/// `web-1`: a member's full name can be longer than the 64 bytes that a host's name may have.
fn short_name(attached: &Attached) -> String {
    let mut name = format!("{}-{}", attached.member.kind, attached.member.number);
    name.truncate(63);
    name
}

/// Ends the membership, with patience: the agent may be restarting. A failure is told and changes no exit code.
async fn detach(client: &Client, arguments: &RunArgs, attached: &Attached, format: Format) {
    let request = Detach { number: Some(attached.member.number.get()), ..detach_request(arguments.member.clone()) };
    let patient = tokio::time::Instant::now() + DETACH_PATIENCE;
    loop {
        match client.detach(&request).await {
            Ok(_) => return,
            Err(error) if error.code == ErrorCode::AgentUnavailable && tokio::time::Instant::now() < patient => {
                tokio::time::sleep(DETACH_PAUSE).await;
            }
            Err(error) => return print_error(format, &error),
        }
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| SIGNAL_BASE + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn cannot(what: &str, error: &dyn std::fmt::Display) -> ControlError {
    ControlError::new(
        ErrorCode::Internal,
        format!("cannot {what}: {error}"),
        "report it as a fault if it happens again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_rendezvous_is_its_owners_alone_and_leaves_nothing() {
        let rendezvous = Rendezvous::open().expect("opened");
        let directory = rendezvous.path.parent().expect("has one").to_owned();
        assert_eq!(std::fs::metadata(&directory).expect("exists").permissions().mode() & 0o777, 0o700);
        drop(rendezvous);
        assert!(!directory.exists());
    }

    #[test]
    fn a_signal_is_128_and_its_number() {
        for (raw, expected) in [(0, 0), (42 << 8, 42), (9, 137), (15, 143)] {
            assert_eq!(exit_code(ExitStatus::from_raw(raw)), ExitCode::from(expected), "{raw:#x}");
        }
    }
}
