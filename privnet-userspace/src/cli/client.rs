//! The command line's side of the API: one method per verb of the agent's table, no decisions.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::http::{self, Answer, HttpError, Lines, Switched, encode};
use crate::api::{ControlError, ErrorBody, ErrorCode, frames, verbs, views};

/// The age of an answer that is current. One that is not may be younger than a second.
const CURRENT: u64 = u64::MAX;

/// Talks to the agent behind a control socket. Every error is the agent's own, or says why it cannot be asked.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// How old the last answer was, in seconds; [`CURRENT`] when it was current.
    age: Arc<AtomicU64>,
}

/// The frames that are dropped, one after the other.
#[derive(Debug)]
pub struct DropLines {
    socket: PathBuf,
    lines: Lines,
}

/// Where HTTP carries a request.
enum Place {
    Path,
    Query,
    Body,
}

macro_rules! client {
    ($($(#[doc = $doc:literal])+ $id:ident $method:ident $path:literal $status:literal
        $verb:ident($($place:ident $argument:ident: $request:ty)?) -> $answer:ty;)+) => {
        #[expect(clippy::missing_errors_doc, reason = "the errors are the agent's")]
        impl Client {$(
            $(#[doc = $doc])+
            pub async fn $verb(&self $(, $argument: &$request)?) -> Result<$answer, ControlError> {
                let request: Option<(Place, Value)> = None;
                $(let request = request.or(Some((Place::$place, json($argument)?)));)?
                self.ask(Method::$method, $path, request).await
            }
        )+}
    };
}
verbs!(client);

impl DropLines {
    /// The next line; nothing once the agent has ended them.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is no line of an agent of this version.
    pub async fn next(&mut self) -> Result<Option<views::DropLine>, ControlError> {
        let line = self.lines.next().await.map_err(|error| unreachable(&self.socket, &error))?;
        line.map(|line| serde_json::from_slice(&line).map_err(|error| not_an_agent(&self.socket, &error))).transpose()
    }
}

impl Client {
    /// An agent's.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), age: Arc::new(CURRENT.into()) }
    }

    /// How old the last answer was, in seconds; nothing when it was current.
    #[must_use]
    pub fn age(&self) -> Option<u64> {
        Some(self.age.load(Ordering::Relaxed)).filter(|age| *age != CURRENT)
    }

    /// The agent's state, as the type that the caller reads it as.
    ///
    /// # Errors
    /// The agent's.
    pub async fn status_as<T: DeserializeOwned>(&self) -> Result<T, ControlError> {
        self.ask(Method::GET, "/v1/status", None).await
    }

    /// The agent's metrics, as Prometheus text.
    ///
    /// # Errors
    /// The agent's.
    pub async fn metrics(&self) -> Result<String, ControlError> {
        let bytes = self.exchange(Method::GET, "/metrics", None).await?;
        String::from_utf8(bytes.to_vec()).map_err(|error| not_an_agent(&self.socket, &error))
    }

    /// Opens a stream: the connection that carries its frames, and what was read of it already.
    ///
    /// # Errors
    /// The agent's.
    pub async fn open_stream(&self, request: &views::OpenStream) -> Result<(UnixStream, Vec<u8>), ControlError> {
        let body = json(request)?.to_string().into_bytes();
        let answer = http::switch(&self.socket, "/v1/streams", frames::PROTOCOL, body).await;
        match answer.map_err(|error| unreachable(&self.socket, &error))? {
            Switched::To { stream, early } => {
                let blocking = stream.into_std().and_then(|stream| stream.set_nonblocking(false).map(|()| stream));
                let stream = blocking.map_err(|error| not_an_agent(&self.socket, &error))?;
                Ok((stream, early.to_vec()))
            }
            Switched::Not(Answer { body, .. }) => Err(self.error_in(&body)),
        }
    }

    /// Watches the frames that are dropped.
    ///
    /// # Errors
    /// The agent's.
    pub async fn watch_drops(&self, query: &views::DropsQuery) -> Result<DropLines, ControlError> {
        let target = in_query("/v1/drops", &json(query)?);
        let answer = http::open(&self.socket, &target).await.map_err(|error| unreachable(&self.socket, &error))?;
        match answer {
            Ok(lines) => Ok(DropLines { socket: self.socket.clone(), lines }),
            Err(Answer { body, .. }) => Err(self.error_in(&body)),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        request: Option<(Place, Value)>,
    ) -> Result<T, ControlError> {
        let (target, body) = match request {
            None => (path.to_owned(), None),
            Some((Place::Body, value)) => (path.to_owned(), Some(value.to_string().into_bytes())),
            Some((Place::Path, value)) => (in_path(path, &value), None),
            Some((Place::Query, value)) => (in_query(path, &value), None),
        };
        let bytes = self.exchange(method, &target, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| not_an_agent(&self.socket, &error))
    }

    async fn exchange(
        &self,
        method: Method,
        target: &str,
        body: Option<Vec<u8>>,
    ) -> Result<hyper::body::Bytes, ControlError> {
        let answer = http::request(&self.socket, method, target, body).await;
        let Answer { status, age_seconds, body } = answer.map_err(|error| unreachable(&self.socket, &error))?;
        self.age.store(age_seconds.unwrap_or(CURRENT), Ordering::Relaxed);
        if status.is_success() {
            return Ok(body);
        }
        Err(self.error_in(&body))
    }

    fn error_in(&self, body: &[u8]) -> ControlError {
        let read = serde_json::from_slice(body);
        read.map_or_else(|error| not_an_agent(&self.socket, &error), |ErrorBody { error }| error)
    }
}

fn json(request: &impl Serialize) -> Result<Value, ControlError> {
    serde_json::to_value(request).map_err(|error| {
        let message = format!("the request cannot be written as JSON: {error}");
        ControlError::new(ErrorCode::InvalidArgument, message, "give names and paths in UTF-8")
    })
}

/// The fields of a request, as a target carries them.
fn encoded(request: &Value) -> impl Iterator<Item = (&String, String)> {
    let fields = request.as_object().into_iter().flatten();
    fields.map(|(name, value)| (name, encode(&value.as_str().map_or_else(|| value.to_string(), str::to_owned))))
}

/// `/v1/networks/{network}` with the field `network` in its place.
fn in_path(path: &str, request: &Value) -> String {
    encoded(request).fold(path.to_owned(), |path, (name, value)| path.replace(&format!("{{{name}}}"), &value))
}

fn in_query(path: &str, request: &Value) -> String {
    let pairs: Vec<String> = encoded(request).map(|(name, value)| format!("{name}={value}")).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

fn unreachable(socket: &Path, error: &HttpError) -> ControlError {
    let path = socket.display();
    match error {
        HttpError::Connect(io) if io.kind() == io::ErrorKind::PermissionDenied => ControlError::new(
            ErrorCode::PermissionDenied,
            format!("cannot talk to the agent at {path}: {error}"),
            "run it as root, or as a user of the group privnet",
        ),
        HttpError::Connect(_) => ControlError::new(
            ErrorCode::AgentUnavailable,
            format!("the agent is not running: cannot connect to {path}: {error}"),
            "start it as root with `privnet agent` (from a checkout: `cargo xtask run`), or give its --socket",
        ),
        HttpError::Busy => ControlError::new(
            ErrorCode::AgentUnavailable,
            format!("the agent at {path} has more requests than it can take: {error}"),
            "try again; its log says what it does",
        ),
        HttpError::Exchange(_) => ControlError::new(
            ErrorCode::AgentUnavailable,
            format!("the agent at {path} did not answer: {error}"),
            "look into its log, and try again",
        ),
        HttpError::Timeout => ControlError::new(
            ErrorCode::Timeout,
            format!("the agent at {path} did not answer in time: {error}"),
            "the agent may still finish: see `privnet status` and its log",
        ),
    }
}

fn not_an_agent(socket: &Path, error: &dyn std::fmt::Display) -> ControlError {
    ControlError::new(
        ErrorCode::Internal,
        format!(
            "the program that listens at {} does not answer as an agent of this version does: {error}",
            socket.display()
        ),
        "compare `privnet version` with the version in `privnet status`",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_is_carried_where_the_table_says() {
        let network = views::NetworkPath { network: "a/b c".to_owned() };
        assert_eq!(in_path("/v1/networks/{network}", &json(&network).expect("JSON")), "/v1/networks/a%2Fb%20c");
        let all = json(&views::MembersQuery::default()).expect("JSON");
        assert_eq!(in_query("/v1/members", &all), "/v1/members");
        let asked = json!({"name": "a&b", "type": "SRV", "as": 7});
        assert_eq!(in_query("/v1/resolve", &asked), "/v1/resolve?as=7&name=a%26b&type=SRV");
    }
}
