//! Whether the agent lives that a companion was last told something by. While it does, it finds the companion and watches the
//! container, so that the companion looks less often; its end is an event.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use super::privileges::watch;

/// The agent that a companion was last told something by.
pub(super) struct LastAgent {
    /// The process, while it lives.
    process: Option<AsyncFd<OwnedFd>>,
}

impl LastAgent {
    /// The other end of `stream`. The process itself is no agent; one that has ended is not known to live.
    pub(super) fn of(stream: &UnixStream) -> Self {
        Self::with(agent_at(stream))
    }

    fn with(pid: Option<Pid>) -> Self {
        let process = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK).ok());
        Self { process: process.and_then(|process| watch(process).ok()) }
    }

    /// Takes note of a connection. While the agent lives that is known, another process is one that only looks.
    pub(super) fn hears(&mut self, stream: &UnixStream) {
        let pid = agent_at(stream);
        if pid.is_some() && !self.is_running() {
            *self = Self::with(pid);
        }
    }

    /// Whether it runs at this moment: that it ended may not have been noticed yet.
    fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(|process| {
            let mut polled = [PollFd::new(process.get_ref(), PollFlags::IN)];
            rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ended| ended == 0)
        })
    }

    /// Whether it lives.
    pub(super) const fn lives(&self) -> bool {
        self.process.is_some()
    }

    /// Returns when it has ended; never, when none is known to live.
    pub(super) async fn ended(&mut self) {
        match &self.process {
            Some(process) => drop(process.readable().await),
            None => std::future::pending().await,
        }
        self.process = None;
    }
}

fn agent_at(stream: &UnixStream) -> Option<Pid> {
    let peer = stream.peer_cred().ok()?;
    let pid = peer.pid().and_then(Pid::from_raw)?;
    (peer.uid() == rustix::process::geteuid().as_raw() && pid != rustix::process::getpid()).then_some(pid)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn another_process_lives_until_it_ends_and_the_process_itself_is_no_agent() {
        let (own, _other) = UnixStream::pair().expect("a pair");
        assert!(!LastAgent::of(&own).lives());
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("started");
        let mut agent = LastAgent::with(Pid::from_raw(child.id().cast_signed()));
        agent.hears(&own);
        let ended = tokio::time::timeout(Duration::from_millis(50), agent.ended()).await;
        assert!(ended.is_err() && agent.lives());
        child.kill().expect("killed");
        tokio::time::timeout(Duration::from_secs(60), agent.ended()).await.expect("it ends");
        assert!(!agent.lives());
        child.wait().expect("ended");
    }
}
