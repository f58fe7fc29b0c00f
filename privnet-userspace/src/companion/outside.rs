//! What the agent does to a companion: end it.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal};

use super::RunDir;
use super::inside::watch;

/// How long a companion may take to end after SIGTERM, and then again after SIGKILL.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Ends the companion whose directory this is, and removes its files. Absent is done.
///
/// # Errors
/// When it cannot be ended. It is running then, and its files are there.
pub async fn end(run_dir: &RunDir) -> io::Result<()> {
    while let Some(pid) = run_dir.owner()? {
        let process = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Err(Errno::SRCH) => continue,
            result => watch(result?)?,
        };
        // If it has the lock still, it lived when the descriptor was opened: the pid was its own.
        if run_dir.owner()? != Some(pid) {
            continue;
        }
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
    }
    run_dir.remove()
}
