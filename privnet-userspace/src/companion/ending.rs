//! Waiting for a companion to end, and ending it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;

use super::RunDir;
use super::privileges::watch;
use crate::failpoint::{self, Step};

/// How long a companion may take to end after SIGTERM, and then again after SIGKILL.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Resolves when a companion has ended, whatever the reason.
#[derive(Debug)]
pub struct Ending(AsyncFd<OwnedFd>);

impl Ending {
    /// Of the companion of this run dir; `None` when no process runs. Needs a runtime.
    ///
    /// # Errors
    /// When the process cannot be watched.
    pub fn of(run_dir: &RunDir) -> io::Result<Option<Self>> {
        let Some(pid) = run_dir.owner()? else { return Ok(None) };
        let process = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Err(Errno::SRCH) => return Ok(None),
            result => watch(result?)?,
        };
        // If it has the lock still, it lived when the descriptor was opened: the pid was its own.
        Ok((run_dir.owner()? == Some(pid)).then_some(Self(process)))
    }

    /// Returns when it has ended.
    pub async fn ended(&self) {
        // An error of the descriptor says nothing about the process, and there is no other way to ask.
        drop(self.0.readable().await);
    }
}

/// Ends the companion of this run dir, and removes its files. Absent is done.
///
/// # Errors
/// When it cannot be ended. It is running then, and its files are there.
pub async fn end(run_dir: &RunDir) -> io::Result<()> {
    while run_dir.owner()?.is_some() {
        let Some(Ending(process)) = Ending::of(run_dir)? else { continue };
        let mut ended = false;
        for signal in [Signal::TERM, Signal::KILL] {
            match rustix::process::pidfd_send_signal(process.get_ref(), signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
            if let Ok(readable) = tokio::time::timeout(END_TIMEOUT, process.readable()).await {
                drop(readable?);
                ended = true;
                break;
            }
        }
        if !ended {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end, even after SIGKILL"));
        }
        failpoint::passed(Step::EndProcess);
    }
    run_dir.remove()
}
