//! One HTTP request over a unix socket.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderName;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::STORE_AGE_HEADER;

/// How long a request may take. An attach waits for the kernel and for WireGuard, a stream for its container too, and
/// both have their own, shorter bounds.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How long a connection waits for a place in the queue of a server that takes no more at once than it can serve.
const QUEUE: Duration = Duration::from_secs(30);
/// How often it looks for one.
const GLANCE: Duration = Duration::from_millis(20);
/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No server took the connection.
    #[error("{0}")]
    Connect(io::Error),
    /// The server is there, and too many connections wait for it.
    #[error("its queue is full after {} s", QUEUE.as_secs())]
    Busy,
    /// The other side hung up, or speaks something else.
    #[error("the connection broke: {0}")]
    Exchange(String),
    /// It took too long.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// How old what it says is, in seconds; nothing when it is current.
    pub age_seconds: Option<u64>,
    /// Its body.
    pub body: Bytes,
}

/// An answer that comes line by line.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    read: Vec<u8>,
}

/// The answer to a request for another protocol.
#[derive(Debug)]
pub enum Switched {
    /// The connection, and what was read of it already.
    To {
        /// The connection.
        stream: UnixStream,
        /// Its first bytes.
        early: Bytes,
    },
    /// It stays HTTP.
    Not(Answer),
}

/// Sends one request, and reads the whole answer. `target` is a path with its query, percent-encoded.
///
/// # Errors
/// There is no answer; the other side may have acted all the same unless it is [`HttpError::Connect`] or
/// [`HttpError::Busy`].
pub async fn request(socket: &Path, method: Method, target: &str, body: Option<Vec<u8>>) -> Result<Answer, HttpError> {
    let stream = connect(socket).await?;
    tokio::time::timeout(TIMEOUT, exchange(stream, method, target, body)).await.map_err(|_| HttpError::Timeout)?
}

/// Asks for a connection that is switched to another protocol. `target` and `body` are as in [`request`].
///
/// # Errors
/// There is no answer.
pub async fn switch(socket: &Path, target: &str, protocol: &str, body: Vec<u8>) -> Result<Switched, HttpError> {
    let stream = connect(socket).await?;
    let switching = async {
        let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, protocol)];
        let mut response = send(stream, Method::POST, target, &headers, body).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return whole(response).await.map(Switched::Not);
        }
        let upgraded = hyper::upgrade::on(&mut response).await.map_err(|error| broken(&error))?;
        let parts = upgraded.downcast::<TokioIo<UnixStream>>().map_err(|_| broken(&"it is none of this client's"))?;
        Ok(Switched::To { stream: parts.io.into_inner(), early: parts.read_buf })
    };
    tokio::time::timeout(TIMEOUT, switching).await.map_err(|_| HttpError::Timeout)?
}

/// Asks for an answer that comes line by line; the whole answer where it says that there is none.
///
/// # Errors
/// There is no answer.
pub async fn open(socket: &Path, target: &str) -> Result<Result<Lines, Answer>, HttpError> {
    let stream = connect(socket).await?;
    let opening = async {
        let response = send(stream, Method::GET, target, &[], Vec::new()).await?;
        if response.status().is_success() {
            return Ok(Ok(Lines { body: response.into_body(), read: Vec::new() }));
        }
        whole(response).await.map(Err)
    };
    tokio::time::timeout(TIMEOUT, opening).await.map_err(|_| HttpError::Timeout)?
}

impl Lines {
    /// The next line, however long it takes; nothing at the end.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, HttpError> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.read.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| broken(&error))?;
            self.read.extend(frame.data_ref().into_iter().flatten());
        }
    }
}

/// Connects. A socket that does not block is refused by the kernel while the server's queue is full: `EAGAIN`.
async fn connect(socket: &Path) -> Result<UnixStream, HttpError> {
    let begun = Instant::now();
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < QUEUE => {
                tokio::time::sleep(GLANCE).await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(HttpError::Busy),
            connected => return connected.map_err(HttpError::Connect),
        }
    }
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    target: &str,
    body: Option<Vec<u8>>,
) -> Result<Answer, HttpError> {
    whole(send(stream, method, target, &[], body.unwrap_or_default()).await?).await
}

/// Sends a request; the connection lasts as long as what comes of the answer.
async fn send(
    stream: UnixStream,
    method: Method,
    target: &str,
    headers: &[(HeaderName, &str)],
    body: Vec<u8>,
) -> Result<Response<Incoming>, HttpError> {
    // HTTP/1.1 demands a host (RFC 9112 section 3.2); on a unix socket it means nothing.
    let plain = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json");
    let request = headers.iter().fold(plain, |request, (name, value)| request.header(name, *value));
    let request = request.body(Full::new(Bytes::from(body))).map_err(|error| broken(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(|error| broken(&error))
}

/// Reads an answer.
async fn whole(response: Response<Incoming>) -> Result<Answer, HttpError> {
    let status = response.status();
    let age = response.headers().get(STORE_AGE_HEADER).and_then(|age| age.to_str().ok()?.parse().ok());
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|error| broken(&error))?;
    Ok(Answer { status, age_seconds: age, body: body.to_bytes() })
}

fn broken(error: &dyn std::fmt::Display) -> HttpError {
    HttpError::Exchange(error.to_string())
}

/// Encodes one path segment or query value (RFC 3986 section 2): everything but unreserved characters.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_request_waits_while_the_queue_of_its_server_is_full() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("server.sock");
        let listener = UnixListener::bind(&path).expect("bound");
        rustix::net::listen(&listener, 1).expect("a short queue");
        let mut waiting = Vec::new();
        let full = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let asked = tokio::spawn(async move { request(&path, Method::GET, "/", None).await });
        tokio::task::yield_now().await;
        assert!(!asked.is_finished(), "it is refused at once");
        drop(waiting);
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                // Those that waited are gone.
                if stream.read_u8().await.is_ok() {
                    let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
                    stream.write_all(answer).await.expect("written");
                    stream.shutdown().await.expect("closed");
                }
            }
        });
        assert_eq!(asked.await.expect("ran").expect("answered").status, StatusCode::NO_CONTENT);
        server.abort();
    }

    #[test]
    fn what_could_change_a_target_is_encoded() {
        assert_eq!(encode("pn-a.b_c~1"), "pn-a.b_c~1");
        assert_eq!(encode("../a b?c#d&e=é"), "..%2Fa%20b%3Fc%23d%26e%3D%C3%A9");
    }
}
