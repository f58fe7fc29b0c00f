//! The agent's side of the DNS process: start it, tell it, ask it, replace it.
//!
//! A process that is there goes on answering whatever becomes of the agent, so everything here can be repeated: what a process
//! has is observed, and it is told what differs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::Command;

use super::error::Error;
use super::protocol::{
    Ask, Birth, Born, MAX_MESSAGE_OCTETS, ProcessState, Request, Resolved, Response, ServedContainer, VERSION,
};
use super::sockets::Sockets;
use crate::companion::{self, Anchor, Ending, RunDir};
use crate::names::{Asker, Difference};
use crate::netns::NetnsId;

/// How long a process may take to be born: two orders above what was measured on an idle machine.
const BIRTH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a process may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How a process is started.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// The `privnet` binary; the process is `privnet dns --run-dir DIR`.
    pub binary: PathBuf,
    /// How many threads serve UDP.
    pub threads: usize,
    /// How old the names may be before they are no longer answered from.
    pub max_age: Duration,
    /// The host's `resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// The DNS process of a directory. Whether there is one shows when it is asked.
#[derive(Clone, Debug)]
pub struct DnsProcess {
    run_dir: RunDir,
}

impl DnsProcess {
    /// The one whose files are in `run_dir`.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self { run_dir: RunDir::new(run_dir) }
    }

    /// Where its files are.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        self.run_dir.path()
    }

    /// What tells when the process has ended; nothing when there is none.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn ending(&self) -> Result<Option<Ending>, Error> {
        let failed = Error::io("watch", format!("the DNS process in {}", self.run_dir.path().display()));
        Ending::of(&self.run_dir).map_err(failed)
    }

    /// Starts a process; it serves nobody and knows no names.
    ///
    /// # Errors
    /// When there is one already, or it does not start.
    pub async fn start(&self, spec: &ProcessSpec) -> Result<(), Error> {
        self.run_dir.create().map_err(Error::io("create", self.run_dir.path().display().to_string()))?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(Error::io("create", "a socket pair"))?;
        let mut child = Command::new(&spec.binary)
            .arg0("privnet")
            .arg("dns")
            .arg("--run-dir")
            .arg(self.run_dir.path())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::io("start", spec.binary.display().to_string()))?;
        let birth = Birth {
            version: VERSION,
            threads: spec.threads,
            max_age_seconds: spec.max_age.as_secs(),
            resolv_conf: spec.resolv_conf.clone(),
        };
        match tokio::time::timeout(BIRTH_TIMEOUT, self.await_birth(ours, &birth)).await {
            Ok(Ok(())) => {
                tracing::debug!(pid = child.id(), run_dir = %self.run_dir.path().display(), "started the DNS process");
                // While the agent lives it is the parent, and collects what is left of the process one day.
                tokio::spawn(async move { child.wait().await });
                Ok(())
            }
            failed => {
                // Fails only if it has ended already, which is what is wanted.
                let _ = child.kill().await;
                failed
                    .unwrap_or_else(|_| Err(self.problem(format!("was not ready after {} s", BIRTH_TIMEOUT.as_secs()))))
            }
        }
    }

    async fn await_birth(&self, stream: std::os::unix::net::UnixStream, birth: &Birth) -> Result<(), Error> {
        let answer = async {
            stream.set_nonblocking(true)?;
            let stream = UnixStream::from_std(stream)?;
            companion::send(&stream, &serde_json::to_vec(birth)?, &[]).await?;
            companion::receive(&stream, MAX_MESSAGE_OCTETS).await
        };
        let (answer, _) = answer.await.map_err(Error::io("hear from", "a new DNS process"))?;
        match serde_json::from_slice(&answer) {
            Ok(Born::Ready) => Ok(()),
            Ok(Born::Failed { problem }) => Err(self.problem(format!("did not start: {problem}"))),
            Err(_) => Err(self.problem("ended before it was ready".to_owned())),
        }
    }

    /// Ends the process, and removes its files. Absent is done.
    ///
    /// # Errors
    /// When it cannot be ended. It is running then.
    pub async fn stop(&self) -> Result<(), Error> {
        let failed = Error::io("end", format!("the DNS process in {}", self.run_dir.path().display()));
        companion::end(&self.run_dir).await.map_err(failed)
    }

    /// What it is and has; nothing when there is no process.
    ///
    /// # Errors
    /// When it does not answer, or speaks another version.
    pub async fn observe(&self) -> Result<Option<ProcessState>, Error> {
        match self.ask(Ask::Observe, &[]).await {
            Ok((Response::State(state), _)) => Ok(Some(state)),
            Ok((other, _)) => Err(self.unexpected(None, other)),
            Err(Error::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands a container over. It is forgotten when what `path` names is gone.
    ///
    /// # Errors
    /// It is not served, or served as before.
    pub async fn serve(&self, container: NetnsId, path: &Path, asker: &Asker, sockets: &Sockets) -> Result<(), Error> {
        let (anchor, process) = Anchor::of(path, container)?;
        self.serve_anchored(container, (anchor, process.as_ref()), asker, sockets).await
    }

    async fn serve_anchored(
        &self,
        container: NetnsId,
        (anchor, process): (Anchor, Option<&OwnedFd>),
        asker: &Asker,
        sockets: &Sockets,
    ) -> Result<(), Error> {
        let files: Vec<BorrowedFd<'_>> =
            [sockets.udp.as_fd(), sockets.tcp.as_fd()].into_iter().chain(process.map(AsFd::as_fd)).collect();
        self.done(container, Ask::Serve { container, asker: asker.clone(), anchor }, &files).await
    }

    /// Changes what exists for a container.
    ///
    /// # Errors
    /// [`Error::NotServed`] when it is not served.
    pub async fn change(&self, container: NetnsId, asker: &Asker) -> Result<(), Error> {
        self.done(container, Ask::Change { container, asker: asker.clone() }, &[]).await
    }

    /// Has a container served no longer. Absent is done.
    ///
    /// # Errors
    /// When the process does not answer.
    pub async fn forget(&self, container: NetnsId) -> Result<(), Error> {
        match self.done(container, Ask::Forget { container }, &[]).await {
            Ok(()) | Err(Error::NotServed { .. } | Error::Absent { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Tells it all names, or what changed in them. They are current then.
    ///
    /// # Errors
    /// It may have them or not: tell it all again.
    pub async fn tell(&self, everything: bool, difference: Difference) -> Result<(), Error> {
        self.acknowledged(Ask::Names { everything, difference }).await
    }

    /// Tells it that its names are current.
    ///
    /// # Errors
    /// When the process does not answer.
    pub async fn confirm(&self) -> Result<(), Error> {
        self.acknowledged(Ask::Confirm).await
    }

    /// What a container would be told about a name; `kind` is the number of a type.
    ///
    /// # Errors
    /// [`Error::NotServed`] when it is not served.
    pub async fn resolve(&self, container: NetnsId, name: &str, kind: u16) -> Result<Resolved, Error> {
        match self.ask(Ask::Resolve { container, name: name.to_owned(), kind }, &[]).await? {
            (Response::Resolved(resolved), _) => Ok(resolved),
            (other, _) => Err(self.unexpected(Some(container), other)),
        }
    }

    /// Hands everything that this process serves to `successor`, which then serves it too; names are to be told to it before.
    /// A container that ends meanwhile is left out. No query is lost: both answer from the same sockets.
    ///
    /// # Errors
    /// Some may have been handed over, and all are still served here.
    pub async fn hand_over(
        &self,
        successor: &Self,
        path_of: impl Fn(&ServedContainer) -> Option<PathBuf>,
    ) -> Result<(), Error> {
        let Some(state) = self.observe().await? else { return Ok(()) };
        for served in state.containers {
            let Some(path) = path_of(&served) else { continue };
            let container = served.container;
            let (udp, tcp) = match self.ask(Ask::Sockets { container }, &[]).await? {
                (Response::Sockets, files) => match <[OwnedFd; 2]>::try_from(files) {
                    Ok([udp, tcp]) => (udp, tcp),
                    Err(_) => return Err(self.problem("did not send the sockets".to_owned())),
                },
                (Response::NotServed, _) => continue,
                (other, _) => return Err(self.unexpected(Some(container), other)),
            };
            match successor.serve(container, &path, &served.asker, &Sockets { udp, tcp }).await {
                Ok(()) => {}
                Err(Error::Anchor(_) | Error::Netns(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn done(&self, container: NetnsId, ask: Ask, files: &[BorrowedFd<'_>]) -> Result<(), Error> {
        match self.ask(ask, files).await? {
            (Response::Done, _) => Ok(()),
            (other, _) => Err(self.unexpected(Some(container), other)),
        }
    }

    async fn acknowledged(&self, ask: Ask) -> Result<(), Error> {
        match self.ask(ask, &[]).await? {
            (Response::Done, _) => Ok(()),
            (other, _) => Err(self.unexpected(None, other)),
        }
    }

    /// One request.
    async fn ask(&self, request: Ask, files: &[BorrowedFd<'_>]) -> Result<(Response, Vec<OwnedFd>), Error> {
        let exchange = async {
            let (_directory, socket) = self.run_dir.control_socket()?;
            let stream = UnixStream::connect(&socket).await?;
            let message = serde_json::to_vec(&Request { version: VERSION, request })?;
            companion::send(&stream, &message, files).await?;
            companion::receive(&stream, MAX_MESSAGE_OCTETS).await
        };
        let (answer, files) = match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
            Err(_) => return Err(self.problem(format!("did not answer within {} s", ANSWER_TIMEOUT.as_secs()))),
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) => {
                let nobody = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
                let run_dir = self.run_dir.path();
                return if nobody && self.run_dir.owner().is_ok_and(|owner| owner.is_none()) {
                    Err(Error::Absent { run_dir: run_dir.to_owned() })
                } else {
                    Err(Error::io("ask", format!("the DNS process in {}", run_dir.display()))(error))
                };
            }
        };
        match serde_json::from_slice(&answer) {
            Ok(response) => Ok((response, files)),
            Err(_) => Err(self.problem("gave an answer that is none".to_owned())),
        }
    }

    fn problem(&self, problem: String) -> Error {
        Error::Process { run_dir: self.run_dir.path().to_owned(), problem }
    }

    fn unexpected(&self, container: Option<NetnsId>, response: Response) -> Error {
        match (response, container) {
            (Response::OtherVersion { version }, _) => {
                Error::OtherVersion { run_dir: self.run_dir.path().to_owned(), version }
            }
            (Response::NotServed, Some(container)) => Error::NotServed { container },
            (Response::Refused { problem }, _) => self.problem(format!("refused: {problem}")),
            (
                Response::State(_) | Response::Done | Response::NotServed | Response::Sockets | Response::Resolved(_),
                _,
            ) => self.problem("answered another question".to_owned()),
        }
    }
}
