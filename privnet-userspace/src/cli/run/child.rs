//! The child of `run`: makes its namespaces, waits until it is a member, and becomes the command.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use super::rendezvous::{Go, Report};
use super::signals;
use crate::api::{ControlError, ErrorCode};
use crate::cli::args::{Format, RunChildArgs};
use crate::cli::output::print_error;
use crate::cli::runtime::wait;
use crate::link::{self, Links};
use crate::netns::{self, Netns};

/// What a shell answers when a command cannot be executed (POSIX, Shell Command Language 2.8.2).
const NOT_EXECUTABLE: u8 = 126;
/// What libc reads. Where it is a link, the file that it leads to is covered.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What a shell answers when a command cannot be found.
const NOT_FOUND: u8 = 127;

/// Becomes the command, or says why not. Must be called while the process has one thread.
///
/// # Errors
/// When the parent cannot be reached; what else goes wrong is the parent's to print.
pub fn run(arguments: &RunChildArgs, format: Format) -> Result<ExitCode, ControlError> {
    let mut parent =
        UnixStream::connect(&arguments.rendezvous).map_err(|error| orphaned(&arguments.rendezvous, &error))?;
    let prepared = prepare();
    let report = match prepared {
        Ok(()) => Report::Ready,
        Err(error) => Report::Failed(error),
    };
    let ready = matches!(report, Report::Ready);
    say(&mut parent, &report).map_err(|error| orphaned(&arguments.rendezvous, &error))?;
    match hear(&parent) {
        Some(go) if ready => Ok(become_command(arguments, &go, format)),
        // The parent has given up, and says why.
        Some(_) | None => Ok(ExitCode::FAILURE),
    }
}

fn prepare() -> Result<(), ControlError> {
    // A command that outlives its parent would never be detached.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .map_err(|error| cannot("end together with the parent", &error))?;
    // The parent holds them back to hand them on, and holding back is inherited, also by the command.
    signals::let_go().map_err(|error| cannot("unblock signals", &error))?;
    enter_namespaces()
}

/// Leaves the host's network, mounts and name behind, and brings the new loopback up.
fn enter_namespaces() -> Result<(), ControlError> {
    netns::enter_new_for_exec().map_err(|error| {
        let message = format!("cannot make namespaces for the command: {}", chain(&error));
        ControlError::new(ErrorCode::PermissionDenied, message, "run it as root, outside of restricted containers")
    })?;
    wait(async {
        let up = async {
            let links = Links::open(&Netns::current()?).await?;
            link::ensure_loopback_up(&links).await
        };
        up.await.map_err(|error: link::Error| cannot("bring the command's loopback up", &chain(&error)))
    })
}

/// An error with what it came from.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn say(parent: &mut UnixStream, report: &Report) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    parent.write_all(&line)?;
    parent.shutdown(Shutdown::Write)
}

fn hear(parent: &UnixStream) -> Option<Go> {
    let mut line = String::new();
    BufReader::new(parent).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

fn become_command(arguments: &RunChildArgs, go: &Go, format: Format) -> ExitCode {
    let Some((program, rest)) = arguments.command.split_first() else { return ExitCode::from(NOT_FOUND) };
    if let Err(error) = rustix::system::sethostname(go.hostname.as_bytes()) {
        tracing::warn!(%error, hostname = go.hostname, "cannot set the hostname");
    }
    if let Some(text) = &go.resolv_conf
        && let Err(error) = mount_resolv_conf(text, go.resolv_conf_file.as_deref())
    {
        tracing::warn!(%error, "cannot mount a resolv.conf: the command cannot resolve the names of its network");
    }
    let error = Command::new(program).args(rest).envs(&go.environment).exec();
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    let remedy = if missing { "see whether it is installed and on PATH" } else { "see its permissions and its format" };
    let message = format!("cannot execute {}: {error}", program.display());
    print_error(format, &ControlError::new(ErrorCode::InvalidArgument, message, remedy));
    ExitCode::from(if missing { NOT_FOUND } else { NOT_EXECUTABLE })
}

/// Puts the agent's file over `/etc/resolv.conf`, in this process's own mounts; or one of its own, which has no name and goes
/// with the mount, where the agent's is not there: then it says for ever what it says now.
fn mount_resolv_conf(text: &str, of_agent: Option<&Path>) -> std::io::Result<()> {
    let is_there = |path: &&Path| std::fs::read_to_string(path).is_ok_and(|said| said == text);
    if let Some(path) = of_agent.filter(is_there) {
        return Ok(rustix::mount::mount_bind(path, RESOLV_CONF)?);
    }
    let mut file = tempfile::NamedTempFile::new()?;
    // The user that the command becomes must be able to read it, whatever the umask.
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    rustix::mount::mount_bind(file.path(), RESOLV_CONF)?;
    Ok(())
}

fn cannot(what: &str, error: &dyn std::fmt::Display) -> ControlError {
    ControlError::new(ErrorCode::Internal, format!("cannot {what}: {error}"), "report it as a fault")
}

fn orphaned(rendezvous: &Path, error: &std::io::Error) -> ControlError {
    let message = format!("the parent at {} is gone: {error}", rendezvous.display());
    ControlError::new(ErrorCode::InvalidArgument, message, "use `privnet run`: only that starts this verb")
}
