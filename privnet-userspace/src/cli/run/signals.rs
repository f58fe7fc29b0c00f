//! The signals that `run` hands on to its command.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// What is handed on.
const FORWARDED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// `si_code` of a signal that the kernel itself sent (include/uapi/asm-generic/siginfo.h). A terminal sends its signals
/// to the whole foreground process group, so the command has had this one already.
const SI_KERNEL: i32 = 0x80;

/// The forwarded signals, held back from their default action.
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Holds the signals back. Must be called before any other thread exists: each thread, and each child, inherits
    /// what its parent holds back. A child calls [`let_go`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hold() -> io::Result<Self> {
        let set = forwarded();
        set.thread_block()?;
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { descriptor })
    }

    /// The numbers of the signals that processes send from now on. A thread waits for them until this process ends.
    pub fn of_processes(self) -> UnboundedReceiver<i32> {
        let (sender, receiver) = unbounded_channel();
        std::thread::spawn(move || {
            loop {
                let signal = match self.descriptor.read_signal() {
                    Ok(Some(signal)) => signal,
                    Ok(None) | Err(Errno::EINTR) => continue,
                    Err(error) => return tracing::error!(%error, "cannot read signals"),
                };
                if signal.ssi_code != SI_KERNEL
                    && let Ok(number) = i32::try_from(signal.ssi_signo)
                    && sender.send(number).is_err()
                {
                    return;
                }
            }
        });
        receiver
    }
}

/// Lets the calling thread have its signals again. One that came meanwhile acts at once.
///
/// # Errors
/// When the kernel refuses.
pub fn let_go() -> io::Result<()> {
    Ok(forwarded().thread_unblock()?)
}

fn forwarded() -> SigSet {
    FORWARDED.into_iter().collect()
}
