//! `POST /v1/streams`: a connection of the control socket becomes a stream into a network.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::tcp::{OwnedReadHalf as FromContainer, OwnedWriteHalf as ToContainer};
use tokio::net::unix::{OwnedReadHalf as FromCaller, OwnedWriteHalf as ToCaller};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{oneshot, watch};

use super::frames::{self, FrameBuffer, HEAD_BYTES, Head, MAX_FRAME_BYTES, PROTOCOL};
use super::peer::Peer;
use super::problem::Problem;
use super::request::Body;
use super::surface::Surface;
use crate::agent::streams::{Caller, OpenedStream};
use crate::agent::{ControlError, ErrorCode, views};

/// How long a connection may take to send what it was given, once its stream has ended: its member ends after that.
const LAST_BYTES: Duration = Duration::from_secs(10);

/// Opens a stream, and answers 101: frames follow.
pub(super) async fn open(
    State(surface): State<Surface>,
    peer: Option<Extension<Peer>>,
    upgrade: Option<Extension<OnUpgrade>>,
    headers: HeaderMap,
    Body(request): Body<views::OpenStream>,
) -> Response {
    let is_asked_for = headers.get(header::UPGRADE).is_some_and(|protocol| protocol == PROTOCOL);
    let (Some(Extension(upgrade)), true) = (upgrade, is_asked_for) else {
        let message = "a stream needs a connection that is switched to it";
        let remedy = format!("send the headers `Connection: Upgrade` and `Upgrade: {PROTOCOL}`");
        let error = ControlError::new(ErrorCode::InvalidArgument, message, remedy);
        return Problem::with_status(StatusCode::UPGRADE_REQUIRED, error).into_response();
    };
    let to = format!("{}:{}", request.host, request.port);
    let caller = peer.map_or(Caller { uid: u32::MAX, pid: None }, |Extension(peer)| Caller::from(peer));
    // To its end, also when the caller hangs up meanwhile: the stream is dropped then, which ends it.
    let opened = tokio::spawn(async move { surface.agent.open_stream(request, caller).await }).await;
    match opened {
        Ok(Ok(opened)) => {
            tokio::spawn(switch(upgrade, opened, to));
            let switched = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
            (StatusCode::SWITCHING_PROTOCOLS, switched).into_response()
        }
        Ok(Err(error)) => Problem::from(error).into_response(),
        Err(error) => {
            let message = format!("the request ended abnormally: {error}");
            let remedy = "look into the agent's log, and report it as a fault";
            Problem::from(ControlError::new(ErrorCode::Internal, message, remedy)).into_response()
        }
    }
}

impl From<Peer> for Caller {
    fn from(peer: Peer) -> Self {
        Self { uid: peer.uid, pid: peer.pid }
    }
}

/// Carries the stream as soon as the answer is sent.
async fn switch(upgrade: OnUpgrade, opened: OpenedStream, to: String) {
    match upgrade.await.map(|upgraded| upgraded.downcast::<TokioIo<UnixStream>>()) {
        Ok(Ok(Parts { io, read_buf, .. })) => carry(io.into_inner(), &read_buf, opened, &to).await,
        Ok(Err(_)) => tracing::error!("a stream came by another socket than the control socket"),
        Err(error) => tracing::debug!(%error, "a caller hung up before its stream began"),
    }
}

/// How far the caller's bytes are.
#[derive(Clone)]
enum Sending {
    /// More may come.
    More,
    /// The caller has sent all.
    All,
    /// The container does not take them, in the kernel's words.
    Refused(String),
}

impl Sending {
    /// Whether nothing is sent to the container any more.
    const fn is_over(&self) -> bool {
        match self {
            Self::More => false,
            Self::All | Self::Refused(_) => true,
        }
    }
}

/// Why a stream ends before both sides have sent all.
enum Broken {
    /// The caller has closed its connection, or is no more.
    Caller,
    /// The container's end of the connection, in the kernel's words.
    Container(String),
    /// The member that the connection is made by.
    Member,
}

/// Carries bytes until both sides have sent all, or one of them is gone.
async fn carry(caller: UnixStream, early: &[u8], opened: OpenedStream, to: &str) {
    let OpenedStream { socket, carried, mut ended } = opened;
    let (mut from_container, to_container) = socket.into_split();
    let (from_caller, mut to_caller) = caller.into_split();
    let (sending, state) = watch::channel(Sending::More);
    let outcome = tokio::select! {
        () = send(from_caller, early, to_container, &carried.sent, &sending) => Err(Broken::Caller),
        outcome = receive(&mut from_container, &mut to_caller, &carried.received, state, &mut ended) => outcome,
    };
    let (why, failure) = match outcome {
        Ok(()) => ("both sides have sent all".to_owned(), None),
        Err(Broken::Caller) => ("its caller hung up".to_owned(), None),
        Err(Broken::Container(error)) => {
            let message = format!("the connection to {to} broke: {error}");
            let remedy = "see whether its container ended, and connect again";
            (message.clone(), Some(ControlError::new(ErrorCode::ConnectionFailed, message, remedy)))
        }
        Err(Broken::Member) => {
            let message = format!("the connection to {to} broke: its member was ended by another request");
            (message.clone(), Some(ControlError::new(ErrorCode::MemberNotFound, message, "connect again")))
        }
    };
    let to_caller = match failure {
        Some(error) => {
            // A caller that does not read it sees the end of the connection.
            let _ = tokio::time::timeout(LAST_BYTES, to_caller.write_all(&frames::failure(error))).await;
            None
        }
        None => Some(to_caller),
    };
    close(from_container).await;
    // The agent ends the member; it has already when it takes no reason.
    let _ = ended.send(why);
    // A caller whose connection ends without a failure takes what it has sent for delivered.
    drop(to_caller);
}

/// Sends the caller's frames to the container. Returns when the caller hangs up, also while the container takes no bytes.
async fn send(
    from_caller: FromCaller,
    early: &[u8],
    mut to_container: ToContainer,
    sent: &AtomicU64,
    state: &watch::Sender<Sending>,
) {
    let mut frames = early.chain(from_caller);
    let mut buffer = vec![0; MAX_FRAME_BYTES];
    loop {
        let bytes = match next_frame(&mut frames, &mut buffer).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                let refused = to_container.shutdown().await.err().map(|error| Sending::Refused(error.to_string()));
                state.send_replace(refused.unwrap_or(Sending::All));
                break;
            }
            Err(_) => return,
        };
        let (_, caller) = frames.get_ref();
        let written = tokio::select! {
            biased;
            written = to_container.write_all(bytes) => written,
            // It closes its connection as a whole.
            _ = caller.as_ref().ready(Interest::PRIORITY) => return,
        };
        if let Err(error) = written {
            state.send_replace(Sending::Refused(error.to_string()));
            break;
        }
        sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
    // What still comes has no receiver.
    while frames.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
}

/// The bytes of the caller's next frame; nothing when no more come.
///
/// # Errors
/// The caller is gone, or has sent what is no frame.
async fn next_frame<'b>(frames: &mut (impl AsyncRead + Unpin), buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
    let mut head = [0; HEAD_BYTES];
    frames.read_exact(&mut head).await?;
    match Head::read(head) {
        Some(Head::Bytes(length)) => {
            let bytes = &mut buffer[..length];
            frames.read_exact(bytes).await?;
            Ok(Some(bytes))
        }
        Some(Head::End) => Ok(None),
        Some(Head::Failed) | None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Hands what the container sends to the caller, in frames, until both sides have sent all. It alone writes to the caller, so
/// a failure never stands within a frame.
async fn receive(
    from_container: &mut FromContainer,
    to_caller: &mut ToCaller,
    received: &AtomicU64,
    mut sending: watch::Receiver<Sending>,
    ended: &mut oneshot::Sender<String>,
) -> Result<(), Broken> {
    let mut buffer = FrameBuffer::new();
    let mut has_all = false;
    loop {
        let is_over = async { sending.wait_for(Sending::is_over).await.ok().map(|state| state.clone()) };
        tokio::select! {
            biased;
            () = ended.closed() => return Err(Broken::Member),
            // A container that refuses more may have sent an answer before: it is read until the kernel says that no more comes.
            read = from_container.read(buffer.bytes()), if !has_all => {
                let length = read.map_err(|error| Broken::Container(error.to_string()))?;
                received.fetch_add(length as u64, Ordering::Relaxed);
                to_caller.write_all(buffer.frame(length)).await.map_err(|_| Broken::Caller)?;
                has_all = length == 0;
            }
            // The sender outlives this.
            Some(state) = is_over, if has_all => return match state {
                Sending::Refused(error) => Err(Broken::Container(error)),
                Sending::More | Sending::All => Ok(()),
            },
        }
    }
}

/// Closes the connection, and waits until its last bytes have arrived, with bounds.
async fn close(from_container: FromContainer) {
    let socket: &TcpStream = from_container.as_ref();
    if let Err(error) = rustix::net::sockopt::set_socket_linger(socket, Some(LAST_BYTES)) {
        tracing::debug!(%error, "a connection is closed without a wait for its last bytes");
    }
    // The kernel waits in close(2), and a task must not.
    let _ = tokio::task::spawn_blocking(move || drop(from_container)).await;
}
