//! The agent's side of the DNS process: starts it, sends it names, asks it, replaces it.
//!
//! The process goes on answering when the agent ends, so every call here can be repeated: the agent observes the state of
//! the process, and sends the difference.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::error::Error;
use super::protocol::{Dns, ProcessState, Request, Resolved, Response, ServedContainer, Start};
use super::sockets::{Sockets, open_own};
use crate::companion::{Cause, Ending, Given, Handle, Liveness};
use crate::names::{Difference, DnsClient};
use crate::netns::{Netns, NetnsId};

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

/// The DNS process of a run dir. Each call finds out whether a process runs there.
#[derive(Clone, Debug)]
pub struct DnsProcess(Handle<Dns>);

impl From<Handle<Dns>> for DnsProcess {
    fn from(handle: Handle<Dns>) -> Self {
        Self(handle)
    }
}

impl DnsProcess {
    /// The process whose files are in `run_dir`.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self(Handle::new(run_dir))
    }

    /// The error that no process runs.
    #[must_use]
    pub fn absent(&self) -> Error {
        self.0.error(Cause::Absent).into()
    }

    /// Resolves when the process has ended; `None` when none runs.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn ending(&self) -> Result<Option<Ending>, Error> {
        Ok(self.0.ending()?)
    }

    /// Starts a process; it serves no container and knows no names.
    ///
    /// # Errors
    /// When one runs already, or it does not start.
    pub async fn start(&self, spec: &ProcessSpec) -> Result<(), Error> {
        let start = Start {
            threads: spec.threads,
            max_age_seconds: spec.max_age.as_secs(),
            resolv_conf: spec.resolv_conf.clone(),
        };
        let given = async { Ok(Given { start, secret: Zeroizing::default(), files: Vec::new() }) };
        self.0.start(&spec.binary, given).await
    }

    /// Ends the process, and removes its files. Absent is done.
    ///
    /// # Errors
    /// When it cannot be ended. It is running then.
    pub async fn stop(&self) -> Result<(), Error> {
        Ok(self.0.end().await?)
    }

    /// The process's state; `None` when none runs.
    ///
    /// # Errors
    /// When it does not answer, or speaks another version.
    pub async fn observe(&self) -> Result<Option<ProcessState>, Error> {
        match self.ask(Request::Observe, &[]).await {
            Ok((Response::State(state), _)) => Ok(Some(state)),
            Ok((other, _)) => Err(self.unexpected(None, &other)),
            Err(Error::Companion(error)) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has a container served, until the process or the pin that `path` names is gone.
    ///
    /// # Errors
    /// It is not served, or served as before.
    pub async fn serve(
        &self,
        container: NetnsId,
        path: &Path,
        client: &DnsClient,
        sockets: &Sockets,
    ) -> Result<(), Error> {
        let (liveness, process) = Liveness::of(path, container)?;
        let files: Vec<BorrowedFd<'_>> = [sockets.udp.as_fd(), sockets.tcp.as_fd()]
            .into_iter()
            .chain(process.as_ref().map(AsFd::as_fd))
            .chain(sockets.own.iter().map(AsFd::as_fd))
            .collect();
        self.done(Some(container), Request::Serve { container, client: client.clone(), liveness }, &files).await
    }

    /// Changes the networks of a container, and its own servers, which are asked by the sockets `own` in its namespace.
    ///
    /// # Errors
    /// [`Error::NotServed`] when it is not served.
    pub async fn change(&self, container: NetnsId, client: &DnsClient, own: &[OwnedFd]) -> Result<(), Error> {
        let files: Vec<BorrowedFd<'_>> = own.iter().map(AsFd::as_fd).collect();
        self.done(Some(container), Request::Change { container, client: client.clone() }, &files).await
    }

    /// Stops serving a container. That no process runs, or that it does not serve the container, is no error.
    ///
    /// # Errors
    /// When the process does not answer.
    pub async fn forget(&self, container: NetnsId) -> Result<(), Error> {
        match self.done(Some(container), Request::Forget { container }, &[]).await {
            Ok(()) | Err(Error::NotServed { .. }) => Ok(()),
            Err(Error::Companion(error)) if error.is_absent() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends all names, or their changes. They are current then.
    ///
    /// # Errors
    /// The process may or may not have taken them over: send all names again.
    pub async fn tell(&self, everything: bool, difference: Difference) -> Result<(), Error> {
        self.done(None, Request::Names { everything, difference }, &[]).await
    }

    /// Confirms that its names are current.
    ///
    /// # Errors
    /// When the process does not answer.
    pub async fn confirm(&self) -> Result<(), Error> {
        self.done(None, Request::Confirm, &[]).await
    }

    /// The answer that a container would get for a name; `kind` is the number of a type (IANA).
    ///
    /// # Errors
    /// [`Error::NotServed`] when it is not served.
    pub async fn resolve(&self, container: NetnsId, name: &str, kind: u16) -> Result<Resolved, Error> {
        match self.ask(Request::Resolve { container, name: name.to_owned(), kind }, &[]).await? {
            (Response::Resolved(resolved), _) => Ok(resolved),
            (other, _) => Err(self.unexpected(Some(container), &other)),
        }
    }

    /// Hands the containers of this process to `successor`, which then serves them too; it must have the names before. A
    /// container that ends meanwhile is left out. No query is lost: both processes answer from the same sockets.
    ///
    /// # Errors
    /// Some containers may have been handed over; this process still serves all of them.
    pub async fn hand_over(
        &self,
        successor: &Self,
        path_of: impl Fn(&ServedContainer) -> Option<PathBuf>,
    ) -> Result<(), Error> {
        let Some(state) = self.observe().await? else { return Ok(()) };
        for served in state.containers {
            let Some(path) = path_of(&served) else { continue };
            let container = served.container;
            let (udp, tcp) = match self.ask(Request::Sockets { container }, &[]).await? {
                (Response::Sockets, files) => match <[OwnedFd; 2]>::try_from(files) {
                    Ok([udp, tcp]) => (udp, tcp),
                    Err(_) => return Err(self.0.error(Cause::Unreadable).into()),
                },
                (Response::NotServed, _) => continue,
                (other, _) => return Err(self.unexpected(Some(container), &other)),
            };
            let Some(netns) = Netns::find(&path)? else { continue };
            let own = open_own(&netns, &served.client.upstreams).await?;
            match successor.serve(container, &path, &served.client, &Sockets { udp, tcp, own }).await {
                Ok(()) => {}
                Err(Error::Liveness(_) | Error::Netns(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn done(&self, container: Option<NetnsId>, request: Request, files: &[BorrowedFd<'_>]) -> Result<(), Error> {
        match self.ask(request, files).await? {
            (Response::Done, _) => Ok(()),
            (other, _) => Err(self.unexpected(container, &other)),
        }
    }

    async fn ask(&self, request: Request, files: &[BorrowedFd<'_>]) -> Result<(Response, Vec<OwnedFd>), Error> {
        Ok(self.0.ask(request, files).await?)
    }

    fn unexpected(&self, container: Option<NetnsId>, response: &Response) -> Error {
        match (response, container) {
            (Response::NotServed, Some(container)) => Error::NotServed { container },
            (
                Response::State(_) | Response::Done | Response::NotServed | Response::Sockets | Response::Resolved(_),
                _,
            ) => self.0.error(Cause::OtherAnswer).into(),
        }
    }
}
