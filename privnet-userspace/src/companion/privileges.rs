//! A companion's log, the privileges that it gives up, and its control socket.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;

use super::RunDir;

/// Logs to the run dir's file, since the agent's standard error may be closed one day. A panic of any task ends the process,
/// which the log calls `what`: the agent sees that it ended and starts it again. Otherwise a companion would go on without
/// that task.
///
/// # Errors
/// When the file cannot be written, or there is a log already.
pub fn log_to(run_dir: &RunDir, what: &'static str) -> anyhow::Result<()> {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    log_there(run_dir)?;
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Log);
    // Libraries are left out: they may log per packet.
    let own = tracing_subscriber::filter::Targets::new().with_target("privnet", tracing::Level::INFO);
    tracing_subscriber::registry().with(layer).with(own).try_init().context("a log exists already")?;
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(%panic, "{what} ends because of a bug");
        std::process::exit(101);
    }));
    Ok(())
}

/// Logs to the run dir's file from now on: it was made anew, and the file of before is gone with the one of before.
///
/// # Errors
/// When the file cannot be written; the log goes where it went.
pub fn log_there(run_dir: &RunDir) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(run_dir.log_file())?;
    let before = LOG.lock().unwrap_or_else(PoisonError::into_inner).replace(file);
    // Not while the lock is held: the last close of a file that is deleted may wait for the disk.
    drop(before);
    Ok(())
}

/// The file that the log goes to.
static LOG: Mutex<Option<fs::File>> = Mutex::new(None);

/// Writes to the file that the log goes to at the time.
struct Log;

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match &mut *LOG.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(file) => file.write(text),
            None => Ok(text.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives up all capabilities: the agent opened what needs them.
///
/// # Errors
/// When the kernel refuses; the process should end.
pub fn give_up_privileges() -> anyhow::Result<()> {
    let none = CapabilitySet::empty();
    rustix::thread::set_no_new_privs(true).context("cannot renounce new privileges")?;
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .context("cannot give up capabilities")?;
    // No core dump ever holds what a companion knows.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context("cannot turn core dumps off")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    Ok(())
}

/// Opens the control socket, for its owner alone; one that an earlier process left there is replaced. Needs a runtime.
///
/// # Errors
/// When it cannot be bound.
pub fn listen(run_dir: &RunDir) -> io::Result<UnixListener> {
    let (_directory, socket) = run_dir.control_socket()?;
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => UnixListener::bind(&socket),
    }
}

/// Lets a task wait until `file` can be read; needs a runtime.
///
/// # Errors
/// When the runtime cannot watch it.
#[expect(deprecated, reason = "the successor is unsafe for types whose AsFd may lie; an OwnedFd's does not")]
pub fn watch(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(file, Interest::READABLE)
}

/// Gives this process as many file descriptors as it may have: the usual limit of 1024 is too low for what holds some for each
/// member.
pub fn raise_descriptor_limit() {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    // Where that fails, the limit stays as it is.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
