//! The agent's side of a companion: start it, find it, ask it, end it.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use tokio::net::UnixStream;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::protocol::{Given, Handshake, Identity, Program, Protocol, Reply, Request, Start, Started, Upgrade, encode};
use super::{Cause, Ending, Error, RunDir, channel, ending};
use crate::failpoint::{self, Step};

/// How long a process may take to become ready: two orders above what was measured on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a process may take to answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The companion of a run dir. Holds no state: whether a process runs there shows when it is asked.
pub struct Handle<P> {
    run_dir: RunDir,
    protocol: PhantomData<fn() -> P>,
}

impl<P> Clone for Handle<P> {
    fn clone(&self) -> Self {
        Self { run_dir: self.run_dir.clone(), protocol: PhantomData }
    }
}

impl<P> fmt::Debug for Handle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.run_dir).finish()
    }
}

/// What the handshake found in a run dir.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No process.
    Absent,
    /// A process that is worked with: of this build, or of one whose processes are kept ([`Upgrade::KeepRunning`]).
    Current,
    /// A process of another build that speaks this version: it is replaced, and hands over.
    OtherBuild,
    /// A process that speaks another version: it is replaced, and cannot hand over.
    OtherVersion,
}

impl<P: Protocol> Handle<P> {
    /// The companion whose files are in `run_dir`.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self { run_dir: RunDir::new(run_dir), protocol: PhantomData }
    }

    /// Where its files are.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        self.run_dir.path()
    }

    /// The error that `cause` is for this companion.
    #[must_use]
    pub fn error(&self, cause: Cause) -> Error {
        Error { process: P::NAME, run_dir: self.run_dir().to_owned(), cause }
    }

    fn kernel(&self, done: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| self.error(Cause::Kernel { done, source })
    }

    /// Starts `binary` as this companion, and returns when it is ready. `given` runs while the process loads.
    ///
    /// # Errors
    /// [`Cause::AlreadyRunning`], an error of `given`, or what kept the process from becoming ready. Nothing of the attempt
    /// is left then.
    pub async fn start<E: From<Error>>(
        &self,
        binary: &Path,
        given: impl Future<Output = Result<Given<P>, E>>,
    ) -> Result<(), E> {
        if let Some(pid) = self.run_dir.owner().map_err(self.kernel("found"))? {
            return Err(self.error(Cause::AlreadyRunning { pid: pid.as_raw_pid() }).into());
        }
        self.run_dir.create().map_err(self.kernel("given a directory"))?;
        failpoint::passed(Step::RunDirectory);
        let started = self.start_in_dir(binary, given).await;
        if started.is_err() && matches!(self.run_dir.owner(), Ok(None)) {
            // What is left are empty files; the failure that is told is the first one.
            let _ = self.run_dir.remove();
        }
        started
    }

    async fn start_in_dir<E: From<Error>>(
        &self,
        binary: &Path,
        given: impl Future<Output = Result<Given<P>, E>>,
    ) -> Result<(), E> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(self.kernel("given a socket"))?;
        let mut child = Command::new(binary)
            .arg0("privnet")
            .arg(P::COMMAND)
            .arg("--run-dir")
            .arg(self.run_dir())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(self.kernel("started"))?;
        failpoint::passed(Step::Spawn);
        let ready = async { Ok::<(), E>(self.hand_over(ours, given.await?).await?) };
        let result = tokio::time::timeout(START_TIMEOUT, ready).await;
        match result.unwrap_or_else(|_| Err(self.error(Cause::NotReady { patience: START_TIMEOUT }).into())) {
            Ok(()) => {
                failpoint::passed(Step::Ready);
                tracing::debug!(pid = child.id(), run_dir = %self.run_dir().display(), "started {}", P::NAME);
                // While the agent lives it is the parent, and reaps the process when it ends.
                tokio::spawn(async move { child.wait().await });
                Ok(())
            }
            Err(error) => {
                // Fails only if it has ended already, which is what is wanted.
                let _ = child.kill().await;
                Err(error)
            }
        }
    }

    /// Sends what the process is started with, and waits until it says that it is ready.
    async fn hand_over(&self, stream: std::os::unix::net::UnixStream, given: Given<P>) -> Result<(), Error> {
        let Given { start, secret, files } = given;
        let answer = async {
            stream.set_nonblocking(true)?;
            let stream = UnixStream::from_std(stream)?;
            let message = encode(&Start { version: P::VERSION, start })?;
            // Of the final length from the first, so that no copy of the secret is left behind when it grows.
            let mut bytes = Zeroizing::new(Vec::with_capacity(secret.len() + message.len()));
            bytes.extend_from_slice(&secret);
            bytes.extend_from_slice(&message);
            let files: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
            channel::send(&stream, &bytes, &files).await?;
            channel::receive(&stream, P::MAX_MESSAGE_OCTETS, 0).await
        };
        let (answer, _) = answer.await.map_err(self.kernel("started"))?;
        match serde_json::from_slice(&answer) {
            Ok(Started::Ready) => Ok(()),
            Ok(Started::Failed { problem }) => Err(self.error(Cause::NotStarted { problem })),
            Err(_) => Err(self.error(Cause::EndedEarly)),
        }
    }

    /// The handshake: whether a process runs, speaks this version, and is of the build that `program` is.
    ///
    /// # Errors
    /// When the process does not answer in time.
    pub async fn find(&self, program: &Program) -> Result<Found, Error> {
        let identity = match self.hello().await {
            Ok(identity) => identity,
            Err(Error { cause: Cause::Absent, .. }) => return Ok(Found::Absent),
            Err(Error { cause: Cause::OtherVersion { .. }, .. }) => return Ok(Found::OtherVersion),
            Err(error) => return Err(error),
        };
        Ok(match P::UPGRADE {
            Upgrade::HandOver if !program.is_of(identity.as_ref()) => Found::OtherBuild,
            Upgrade::HandOver | Upgrade::KeepRunning => Found::Current,
        })
    }

    /// Which process and build it is; `None` when it is of a build that does not know the question.
    ///
    /// # Errors
    /// [`Cause::Absent`], [`Cause::OtherVersion`], or when the process does not answer in time.
    pub async fn hello(&self) -> Result<Option<Identity>, Error> {
        let (answer, _) = self.exchange(Handshake::Hello, &[]).await?;
        match serde_json::from_slice(&answer) {
            Ok(Reply::Hello(identity)) => Ok(Some(identity)),
            Ok(Reply::Refused { .. }) => Ok(None),
            Ok(Reply::OtherVersion { version }) => Err(self.other_version(version)),
            Err(_) => Err(self.error(Cause::Unreadable)),
        }
    }

    /// Asks one thing, with descriptors; the answer may come with some.
    ///
    /// # Errors
    /// [`Cause::Absent`], [`Cause::OtherVersion`], [`Cause::Refused`], or when no answer comes in time.
    pub async fn ask(
        &self,
        request: P::Request,
        files: &[BorrowedFd<'_>],
    ) -> Result<(P::Response, Vec<OwnedFd>), Error> {
        let (answer, files) = self.exchange(request, files).await?;
        match serde_json::from_slice(&answer) {
            Ok(Reply::Refused { problem }) => return Err(self.error(Cause::Refused { problem })),
            Ok(Reply::OtherVersion { version }) => return Err(self.other_version(version)),
            Ok(Reply::Hello(_)) => return Err(self.error(Cause::OtherAnswer)),
            Err(_) => {}
        }
        match serde_json::from_slice(&answer) {
            Ok(response) => {
                failpoint::passed(Step::Request);
                Ok((response, files))
            }
            Err(_) => Err(self.error(Cause::Unreadable)),
        }
    }

    /// Sends one request and returns the answer as it came.
    async fn exchange(
        &self,
        request: impl Serialize,
        files: &[BorrowedFd<'_>],
    ) -> Result<(Zeroizing<Vec<u8>>, Vec<OwnedFd>), Error> {
        let exchange = async {
            let (_directory, socket) = self.run_dir.control_socket()?;
            let stream = UnixStream::connect(&socket).await?;
            let message = encode(&Request { version: P::VERSION, request })?;
            channel::send(&stream, &message, files).await?;
            let answered = channel::receive(&stream, P::MAX_MESSAGE_OCTETS, 0).await?;
            if answered.0.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answered) }
        };
        let exchange = async {
            match exchange.await {
                Ok(answered) => Ok(answered),
                Err(error) if closed_by_peer(&error) => {
                    // It has ended, or is about to: it closes its connections before it gives its run dir up.
                    if let Some(ending) = self.ending()? {
                        ending.ended().await;
                    }
                    Err(self.error(Cause::Absent))
                }
                Err(source) => Err(self.error(Cause::Kernel { done: "asked", source })),
            }
        };
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await;
        answered.unwrap_or_else(|_| Err(self.error(Cause::Silent { patience: ANSWER_TIMEOUT })))
    }

    fn other_version(&self, spoken: u32) -> Error {
        self.error(Cause::OtherVersion { spoken, expected: P::VERSION })
    }

    /// Tells when the process has ended; `None` when none runs.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn ending(&self) -> Result<Option<Ending>, Error> {
        Ending::of(&self.run_dir).map_err(self.kernel("watched"))
    }

    /// Ends the process, and removes its files. Absent is done.
    ///
    /// # Errors
    /// When it cannot be ended. It is running then, and its files are there.
    pub async fn end(&self) -> Result<(), Error> {
        ending::end(&self.run_dir).await.map_err(self.kernel("ended"))
    }
}

/// Whether an exchange failed as it does with a process that is not there, or that ends in the middle of it.
fn closed_by_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}
