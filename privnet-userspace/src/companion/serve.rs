//! The companion's side: from `main` until there is a reason to end.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use serde::de::IgnoredAny;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::handle::ANSWER_TIMEOUT;
use super::last_agent::LastAgent;
use super::privileges::{give_up_privileges, listen, log_there, log_to};
use super::protocol::{Given, Handshake, Identity, Protocol, Reply, Request, Start, Started, Upgrade, encode};
use super::run_dir::FileId;
use super::{RunDir, channel};

/// How long a request may take to arrive, to be worked on, and its answer to be taken; others go on meanwhile.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long accepting rests when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a process looks whether its control socket is still there: without an agent, or while it is not.
const LOST_INTERVAL: Duration = Duration::from_secs(1);
/// How often it looks while it is there and an agent lives. An agent that does not find the process ends it when it has not
/// answered for [`ANSWER_TIMEOUT`], so the socket has to be there again before.
const FOUND_INTERVAL: Duration = Duration::from_secs(4);
const _: () = assert!(FOUND_INTERVAL.as_secs() < ANSWER_TIMEOUT.as_secs());

/// What a companion does. Every future but [`Service::end`]'s may be dropped at any of its awaits.
#[expect(async_fn_in_trait, reason = "a companion has one thread for its control socket, so no bound is missing")]
pub trait Service<P: Protocol>: Sized {
    /// Begins to serve with what the agent gave; privileges are gone by now.
    ///
    /// # Errors
    /// Told to the agent; the process ends.
    async fn start(identity: Identity, given: Given<P>) -> anyhow::Result<Self>;

    /// Answers one request, in turn.
    ///
    /// # Errors
    /// Told to the agent as a refusal.
    async fn respond(
        &mut self,
        request: P::Request,
        files: Vec<OwnedFd>,
    ) -> anyhow::Result<(P::Response, Vec<OwnedFd>)>;

    /// Looks at what no event reports, as often as the process looks for its control socket: every second without an agent, else
    /// every 4 s. It does not wait for a look at the disk. Returns why the process is to end, when there is a reason.
    fn look(&mut self) -> Option<&'static str> {
        None
    }

    /// Returns why the process is to end, when there is a reason; a signal is one too, and is seen to elsewhere.
    async fn reason_to_end(&mut self) -> &'static str;

    /// Finishes what is under way.
    async fn end(self);
}

/// Runs the companion whose files are in `run_dir`, until it is told to end or has a reason to.
///
/// To be called first thing in `main`, before a runtime or a log exists: standard input is the socket over which
/// `Handle::start` hands over what it is started with.
///
/// # Errors
/// When it could not be started; the agent is told the same.
pub fn serve<P: Protocol, S: Service<P>>(run_dir: &Path) -> anyhow::Result<()> {
    rustix::thread::set_name(P::COMM).context("cannot take a name")?;
    // Fails if it leads a group already, when a person started it from a shell: then it stays in that session.
    let _ = rustix::process::setsid();
    let run_dir = RunDir::new(run_dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let agent = agent().context("standard input is not the agent's socket")?;
        let identity = Identity::own(SystemTime::now());
        let started = start::<P, S>(&run_dir, &agent, &identity).await;
        let answer = match &started {
            Ok(_) => Started::Ready,
            Err(error) => Started::Failed { problem: format!("{error:#}") },
        };
        // It is not read if the agent died meanwhile; the next one finds the process.
        let _ = channel::send(&agent, &encode(&answer)?, &[]).await;
        let last = LastAgent::of(&agent);
        drop(agent);
        let (service, control, lock) = started?;
        let Ended { reason, door } = run(service, Door::new(run_dir, control, Some(lock)), last, &identity).await?;
        tracing::info!(reason, "{} ends", P::NAME);
        door.close();
        Ok(())
    });
    // A look that a disk lets wait does not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// Standard input as the socket that it is. The duplicate is closed when the agent was answered.
fn agent() -> io::Result<UnixStream> {
    let stream = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

async fn start<P: Protocol, S: Service<P>>(
    run_dir: &RunDir,
    agent: &UnixStream,
    identity: &Identity,
) -> anyhow::Result<(S, UnixListener, fs::File)> {
    let given = receive::<P>(agent).await?;
    let lock = run_dir.lock().map_err(|error| {
        let is_taken = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied);
        let what = if is_taken { "another process has the directory" } else { "cannot take the directory" };
        anyhow::Error::from(error).context(what)
    })?;
    log_to(run_dir, P::NAME)?;
    give_up_privileges()?;
    let service = S::start(identity.clone(), given).await?;
    let control = listen(run_dir).context("cannot open the control socket")?;
    Ok((service, control, lock))
}

/// Reads what the agent hands over.
async fn receive<P: Protocol>(agent: &UnixStream) -> anyhow::Result<Given<P>> {
    let received = channel::receive(agent, P::MAX_MESSAGE_OCTETS, P::SECRET_OCTETS).await;
    let (bytes, files) = received.context("standard input is not the agent's socket")?;
    ensure!(bytes.len() > P::SECRET_OCTETS, "the agent ended before it said what to do");
    let (secret, message) = bytes.split_at(P::SECRET_OCTETS);
    let version = serde_json::from_slice::<Start<IgnoredAny>>(message).context("the message is unreadable")?.version;
    ensure!(version == P::VERSION, "the agent speaks version {version}, this binary {}", P::VERSION);
    let Start { start, .. } = serde_json::from_slice(message).context("the message is unreadable")?;
    Ok(Given { start, secret: Zeroizing::new(secret.to_vec()), files })
}

/// By what an agent finds the process: its control socket, and the lock on its pid file.
pub(super) struct Door {
    run_dir: RunDir,
    control: UnixListener,
    /// The file that the control socket was bound at.
    socket: Option<FileId>,
    /// The lock; none in tests.
    lock: Option<Arc<fs::File>>,
}

/// Why a process ends, and what it is to close.
pub(super) struct Ended {
    pub(super) reason: &'static str,
    door: Door,
}

/// What a look for the control socket came to.
enum Look {
    /// It is there.
    There,
    /// It is not, and is to be looked for again.
    Lost,
    /// It was not, and the run dir was taken again.
    Taken(Taken),
}

/// A run dir that was taken again.
struct Taken {
    /// The lock on its pid file; nothing where that is the one that the process has locked.
    lock: Option<fs::File>,
    control: UnixListener,
    socket: Option<FileId>,
}

impl Door {
    pub(super) fn new(run_dir: RunDir, control: UnixListener, lock: Option<fs::File>) -> Self {
        let socket = run_dir.socket_id();
        Self { run_dir, control, socket, lock: lock.map(Arc::new) }
    }

    /// Serves the control socket of a run dir that was taken again.
    fn move_to(&mut self, taken: Taken) {
        let control = mem::replace(&mut self.control, taken.control);
        self.socket = taken.socket;
        let lock = taken.lock.and_then(|lock| self.lock.replace(Arc::new(lock)));
        // Their files are deleted, and the last close of such a file waits for the disk.
        tokio::task::spawn_blocking(move || drop((control, lock)));
    }

    /// After the socket and before the lock: the next process must not find it.
    fn close(self) {
        if is_there(&self.run_dir, self.socket)
            && let Ok((_directory, socket)) = self.run_dir.control_socket()
        {
            let _ = fs::remove_file(socket);
        }
        drop(self.lock);
    }
}

fn is_there(run_dir: &RunDir, socket: Option<FileId>) -> bool {
    socket.is_some() && socket == run_dir.socket_id()
}

/// Takes the run dir again where its control socket was removed or replaced: a state directory that is lost takes the run dirs
/// in it along, and the next agent looks for the process at the same place. A process of a kind that is replaced does so only
/// in a directory that is there: the agent starts another one. Fails with why the process is to end. Waits for the disk.
fn stay_found(
    run_dir: &RunDir,
    socket: Option<FileId>,
    held: Option<&fs::File>,
    upgrade: Upgrade,
) -> Result<Look, &'static str> {
    let place = match upgrade {
        // Without the directory above it there is no agent's state directory to be found in.
        Upgrade::KeepRunning => run_dir.path().parent(),
        Upgrade::HandOver => Some(run_dir.path()),
    };
    if is_there(run_dir, socket) {
        return Ok(Look::There);
    }
    if !place.is_some_and(Path::is_dir) {
        return Ok(Look::Lost);
    }
    let is_held = held.is_some_and(|lock| run_dir.has_lock(lock));
    let taken = run_dir.create().and_then(|()| if is_held { Ok(None) } else { run_dir.lock().map(Some) });
    let lock = match taken {
        Ok(lock) => lock,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied) => {
            return Err("another process has its directory");
        }
        // The next look tries again.
        Err(_) => return Ok(Look::Lost),
    };
    // As above; a lock that is new is given back.
    let Ok(control) = listen(run_dir) else { return Ok(Look::Lost) };
    if !run_dir.log_file().exists() {
        // Where that fails, the log goes into the file of before.
        let _ = log_there(run_dir);
    }
    tracing::info!("the control socket was gone, and is there again");
    Ok(Look::Taken(Taken { lock, control, socket: run_dir.socket_id() }))
}

/// A request that arrived whole, and where its answer goes.
type Arrived = (Zeroizing<Vec<u8>>, Vec<OwnedFd>, UnixStream);

/// Serves and answers until there is a reason to end, which is returned.
pub(super) async fn run<P: Protocol, S: Service<P>>(
    mut service: S,
    mut door: Door,
    mut agent: LastAgent,
    identity: &Identity,
) -> anyhow::Result<Ended> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (arrived, mut requests) = mpsc::channel::<Arrived>(1);
    let mut next_look = Instant::now();
    // A disk may let a look wait for long. Nothing else waits for it: this thread may carry a container's packets.
    let (looked, mut looks) = mpsc::channel(1);
    let (mut is_looking, mut is_found) = (false, true);
    let reason = loop {
        tokio::select! {
            () = tokio::time::sleep_until(next_look) => {
                if let Some(reason) = service.look() {
                    break reason;
                }
                if !mem::replace(&mut is_looking, true) {
                    let (run_dir, socket, lock) = (door.run_dir.clone(), door.socket, door.lock.clone());
                    let looked = looked.clone();
                    tokio::task::spawn_blocking(move || {
                        looked.blocking_send(stay_found(&run_dir, socket, lock.as_deref(), P::UPGRADE))
                    });
                }
                next_look = Instant::now() + if is_found && agent.lives() { FOUND_INTERVAL } else { LOST_INTERVAL };
            }
            Some(found) = looks.recv() => {
                is_looking = false;
                is_found = match found {
                    Ok(Look::There) => true,
                    Ok(Look::Lost) => false,
                    Ok(Look::Taken(taken)) => {
                        door.move_to(taken);
                        true
                    }
                    Err(reason) => break reason,
                };
                if !is_found {
                    next_look = next_look.min(Instant::now() + LOST_INTERVAL);
                }
            }
            () = agent.ended() => next_look = Instant::now(),
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            reason = service.reason_to_end() => break reason,
            Some((message, files, stream)) = requests.recv() => {
                let (answer, files) = answer(&mut service, identity, &message, files).await;
                in_the_background(async move {
                    let files: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
                    channel::send(&stream, &answer, &files).await
                });
            }
            connection = door.control.accept() => match connection {
                Ok((stream, _)) => {
                    agent.hears(&stream);
                    let arrived = arrived.clone();
                    in_the_background(async move {
                        if stream.peer_cred()?.uid() == rustix::process::geteuid().as_raw() {
                            let (message, files) = channel::receive(&stream, P::MAX_MESSAGE_OCTETS, 0).await?;
                            // The receiver is gone when the process ends.
                            let _ = arrived.send((message, files, stream)).await;
                        }
                        Ok(())
                    });
                }
                // No descriptors are left, say.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    };
    service.end().await;
    Ok(Ended { reason, door })
}

/// Talks to one peer for a bounded time, while others are served. What goes wrong with a connection is the peer's to notice.
fn in_the_background(talk: impl Future<Output = io::Result<()>> + Send + 'static) {
    tokio::spawn(tokio::time::timeout(REQUEST_TIMEOUT, talk));
}

async fn answer<P: Protocol, S: Service<P>>(
    service: &mut S,
    identity: &Identity,
    message: &[u8],
    files: Vec<OwnedFd>,
) -> (Vec<u8>, Vec<OwnedFd>) {
    let version = serde_json::from_slice::<Request<IgnoredAny>>(message).map(|request| request.version);
    if version.is_ok_and(|version| version != P::VERSION) {
        return reply(&Reply::OtherVersion { version: P::VERSION });
    }
    if serde_json::from_slice::<Request<Handshake>>(message).is_ok() {
        return reply(&Reply::Hello(identity.clone()));
    }
    let request = match serde_json::from_slice::<Request<P::Request>>(message) {
        Ok(Request { request, .. }) => request,
        Err(error) => return refuse(format!("the request is invalid: {error}")),
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, service.respond(request, files)).await {
        Ok(Ok((response, files))) => match encode(&response) {
            Ok(answer) => (answer, files),
            Err(error) => refuse(format!("the answer cannot be written: {error}")),
        },
        Ok(Err(error)) => refuse(format!("{error:#}")),
        Err(_) => refuse(format!("it took longer than {} s", REQUEST_TIMEOUT.as_secs())),
    }
}

fn refuse(problem: String) -> (Vec<u8>, Vec<OwnedFd>) {
    reply(&Reply::Refused { problem })
}

/// An answer of the envelope. It consists of numbers and text, which JSON can always express; an empty answer is unreadable.
fn reply(reply: &Reply) -> (Vec<u8>, Vec<OwnedFd>) {
    (encode(reply).unwrap_or_default(), Vec::new())
}
