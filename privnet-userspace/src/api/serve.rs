//! Accepts connections and hands them to a router: bounded in number, in idle time, and at the end.

use std::fs::File;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::peer::Peer;
use super::problem::Problem;
use super::socket::ControlSocket;
use crate::agent::{ControlError, ErrorCode, MORE_DESCRIPTORS};

/// How many connections one listener serves at a time; more wait in its backlog.
const MAX_CONNECTIONS: usize = 128;
/// How long a connection may be silent before, and while, it sends a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The same on the plugin's socket, where dockerd alone connects.
const PLUGIN_HEAD_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// How long connections may go on as they are once the agent is told to end: hyper closes one whose request has not come yet,
/// and a client that has connected is about to send it.
const LAST_REQUESTS: Duration = Duration::from_secs(1);
/// How long requests under way may take after that.
const GRACE: Duration = Duration::from_secs(10);
/// How long a client may take to read the last of an answer that goes on by itself, once the agent ends.
const LAST_LINES: Duration = Duration::from_millis(200);
/// How long to wait after a failed accept: most are a lack of file descriptors, which only time mends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long a client may take to hear that there are none.
const REFUSAL: Duration = Duration::from_secs(2);

/// Whether a connection has an answer that goes on until the agent ends, for its handler to say.
#[derive(Clone, Default)]
pub(super) struct GoesOn(Arc<AtomicBool>);

impl GoesOn {
    /// Says so: the end of the agent does not wait for a client that does not read.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Serves the control socket until `end`; the socket is gone when this returns.
pub async fn serve_control(socket: ControlSocket, router: Router, end: impl Future<Output = ()> + Send) {
    serve(socket, router, end).await;
}

/// Answers every request with what the agent waits for, as soon as it waits for something. Never ends: its caller drops it.
///
/// Until then requests wait: an agent that simply starts answers them itself a moment later.
pub async fn serve_waiting(socket: &ControlSocket, mut waiting: watch::Receiver<Option<ControlError>>) {
    // An agent that has ended waits for nothing.
    if waiting.wait_for(Option::is_some).await.is_err() {
        return std::future::pending().await;
    }
    let answer = move || {
        let reason = waiting.borrow().clone();
        let nothing = || StatusCode::SERVICE_UNAVAILABLE.into_response();
        std::future::ready(reason.map_or_else(nothing, |reason| Problem::from(reason).into_response()))
    };
    serve(socket, Router::new().fallback(answer), std::future::pending()).await;
}

/// Serves Docker's calls until `end`. Between two of them hours may pass, and a connection that closes as one comes would lose
/// its body.
pub async fn serve_plugin(socket: ControlSocket, router: Router, end: impl Future<Output = ()> + Send) {
    serve_with(socket, router, PLUGIN_HEAD_TIMEOUT, end).await;
}

/// Serves the metrics listener until `end`.
pub async fn serve_metrics(listener: TcpListener, router: Router, end: impl Future<Output = ()> + Send) {
    serve(listener, router, end).await;
}

/// Where connections come from.
trait Listener: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and the user that made it where the kernel says so.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<Peer>)>> + Send;
}

impl Listener for ControlSocket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Option<Peer>)> {
        Listener::accept(&self).await
    }
}

impl Listener for &ControlSocket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Option<Peer>)> {
        let (stream, _) = self.listener.accept().await?;
        let credentials = stream.peer_cred()?;
        Ok((stream, Some(Peer { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() })))
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<Peer>)> {
        let (stream, _) = TcpListener::accept(self).await?;
        Ok((stream, None))
    }
}

async fn serve<L: Listener>(listener: L, router: Router, end: impl Future<Output = ()> + Send) {
    serve_with(listener, router, HEAD_TIMEOUT, end).await;
}

async fn serve_with<L: Listener>(
    listener: L,
    router: Router,
    head_timeout: Duration,
    end: impl Future<Output = ()> + Send,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (closing, _) = watch::channel(false);
    let mut spare = Spare::open();
    let mut end = std::pin::pin!(end);
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, peer)| (stream, peer, slot))
        };
        tokio::select! {
            () = &mut end => break,
            accepted = accepted => match accepted {
                Ok((stream, peer, slot)) => {
                    spare.is_refusing = false;
                    spawn(stream, peer, slot, &router, head_timeout, closing.subscribe());
                }
                Err(error) => spare.refuse(&listener, error).await,
            },
        }
    }
    drop(listener);
    let all_have_ended = || slots.acquire_many(u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX));
    if tokio::time::timeout(LAST_REQUESTS, all_have_ended()).await.is_ok() {
        return;
    }
    closing.send_replace(true);
    if tokio::time::timeout(GRACE, all_have_ended()).await.is_err() {
        tracing::warn!("the agent ended before it had answered every request");
    }
}

/// A descriptor that is given up for a moment where there is no other: a client is told so, and not left without an answer.
struct Spare {
    file: Option<File>,
    is_refusing: bool,
}

impl Spare {
    fn open() -> Self {
        Self { file: Self::open_one(), is_refusing: false }
    }

    /// Answers the connection that could not be accepted, where a descriptor is all that it lacks; then waits.
    async fn refuse<L: Listener>(&mut self, listener: &L, error: io::Error) {
        if !std::mem::replace(&mut self.is_refusing, true) {
            tracing::warn!(%error, "cannot accept a connection");
        }
        if self.file.take().is_some() || Self::open_one().is_some() {
            let told =
                ControlError::new(ErrorCode::Internal, format!("the agent cannot answer: {error}"), MORE_DESCRIPTORS);
            let answer = async {
                let (stream, _) = listener.accept().await?;
                let answer = move || std::future::ready(Problem::from(told.clone()).into_response());
                let router = Router::new().fallback(answer);
                let mut http = http1::Builder::new();
                http.keep_alive(false);
                let answered = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
                answered.map_err(io::Error::other)
            };
            // A client that sends no request is none that waits for an answer.
            let _ = tokio::time::timeout(REFUSAL, answer).await;
            // At once: whatever else lacks one takes it.
            self.file = Self::open_one();
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
        self.file = self.file.take().or_else(Self::open_one);
    }

    fn open_one() -> Option<File> {
        File::open("/dev/null").ok()
    }
}

fn spawn<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: Option<Peer>,
    slot: OwnedSemaphorePermit,
    router: &Router,
    head_timeout: Duration,
    mut closing: watch::Receiver<bool>,
) {
    let router = match peer {
        Some(peer) => router.clone().layer(Extension(peer)),
        None => router.clone(),
    };
    let goes_on = GoesOn::default();
    let router = router.layer(Extension(goes_on.clone()));
    tokio::spawn(async move {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
            // A stream leaves the server: its connection counts as ended, and its task has the socket.
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        // A server that is dropped leaves its connections as they are.
        let is_closing = async { closing.wait_for(|closing| *closing).await.is_ok() };
        let ended = tokio::select! {
            ended = &mut connection => ended,
            // What is under way is answered.
            true = is_closing => {
                connection.as_mut().graceful_shutdown();
                if goes_on.0.load(Ordering::Relaxed) {
                    tokio::time::timeout(LAST_LINES, connection).await.unwrap_or(Ok(()))
                } else {
                    connection.await
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended abnormally");
        }
        drop(slot);
    });
}
