//! Calls to a cluster: which member is asked, how long an answer may take, and which outcomes a failure leaves unknown.
//!
//! Connections are made when they are needed and again when they broke. A member that does not answer is left for the
//! next one. A call that may change something is repeated only if it certainly was not carried out.

use std::error::Error as _;
use std::future::Future;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use prost::Message;
use rand::Rng as _;
use tokio::time::{Instant, sleep, timeout};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, ConnectError, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::encode;
use super::login::{Login, Token};
use super::options::{EtcdOptions, Timing};
use super::protocol::{AuthenticateResponse, RangeRequest, RangeResponse, ResponseHeader, path};
use crate::store::error::{OpenError, StoreError};

/// The most octets of an HTTP/2 connection that wait unread: a watch whose reader rests must not hold up the others.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// The least time that a member is given for an answer.
const MIN_LIMIT: Duration = Duration::from_millis(100);

/// The members of a cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    members: Vec<Member>,
    /// The member that answered last.
    current: Mutex<usize>,
    login: Option<Login>,
    pub(super) timing: Timing,
}

#[derive(Debug)]
struct Member {
    url: String,
    channel: Channel,
}

/// Whether a call may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing when it is sent twice.
    Freely,
    /// Only when it certainly was not carried out.
    IfUnsent,
}

/// A call without an answer.
#[derive(Debug)]
pub(super) struct Failure {
    /// The answer of the cluster, or the failure of the connection.
    pub(super) status: Status,
    /// Every member that was asked, and its answer or failure.
    detail: String,
}

impl Failure {
    fn new(status: Status, said: &[String]) -> Self {
        let said: Vec<&str> = said.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        Self { status, detail: said.join(", ") }
    }

    pub(super) fn explain(&self, operation: &'static str) -> StoreError {
        StoreError::Cluster { operation, detail: self.detail.clone() }
    }

    /// That a commit may have happened, or may happen yet.
    pub(super) fn explain_unknown(&self) -> StoreError {
        StoreError::Unanswered { detail: self.detail.clone() }
    }

    /// Whether the call may have been carried out, or may be yet.
    pub(super) fn is_unknown(&self) -> bool {
        is_passing(&self.status) && !is_unsent(&self.status)
    }
}

impl Cluster {
    /// A cluster by its members' URLs. Does not connect yet.
    pub(super) fn new(options: &EtcdOptions) -> Result<Self, OpenError> {
        let member = |url: &String| Ok(Member { channel: channel(url, options)?, url: url.clone() });
        let members = options.endpoints.iter().map(member).collect::<Result<Vec<_>, _>>()?;
        let login = options.login.clone().map(Login::new);
        Ok(Self { members, current: Mutex::new(0), login, timing: options.timing })
    }

    /// Asks one member after another until a member answers, the time is up, or asking again could change something twice.
    pub(super) async fn call<Q, A>(&self, path: &'static str, request: Q, repeat: Repeat) -> Result<A, Failure>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.call_until(self.deadline(), path, request, repeat).await
    }

    /// When a call that begins now has taken too long.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timing.patience
    }

    /// As [`Self::call`], until then.
    pub(super) async fn call_until<Q, A>(
        &self,
        deadline: Instant,
        path: &'static str,
        request: Q,
        repeat: Repeat,
    ) -> Result<A, Failure>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let mut said = vec![String::new(); self.members.len()];
        loop {
            let mut last = Status::unavailable("no member was asked");
            for _ in 0..self.members.len() {
                let index = self.current();
                let left = deadline.saturating_duration_since(Instant::now());
                // A member that hangs leaves time for the others.
                let limit = if self.members.len() > 1 { left / 2 } else { left };
                last = match self.ask(index, path, request.clone(), limit.max(MIN_LIMIT)).await {
                    Ok(answer) => return Ok(answer),
                    Err(status) => status,
                };
                said[index] = format!("{}: {}", self.members[index].url, reason(&last));
                if !is_passing(&last) {
                    return Err(Failure::new(last, &said));
                }
                self.leave(index);
                if repeat == Repeat::IfUnsent && !is_unsent(&last) {
                    return Err(Failure::new(last, &said));
                }
            }
            let pause = self.timing.pause();
            if Instant::now() + pause >= deadline {
                return Err(Failure::new(last, &said));
            }
            sleep(pause).await;
        }
    }

    async fn ask<Q, A>(&self, index: usize, path: &'static str, request: Q, limit: Duration) -> Result<A, Status>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let answer = async {
            let first = self.ask_once(index, path, request.clone(), self.token(index).await?).await;
            match first {
                Err(status) if self.login.as_ref().is_some_and(|login| login.is_stale(&status)) => {
                    self.ask_once(index, path, request, self.token(index).await?).await
                }
                answer => answer,
            }
        };
        in_time(limit, answer).await
    }

    async fn ask_once<Q, A>(&self, index: usize, path: &'static str, request: Q, token: Token) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut client = self.client(index);
        client.ready().await.map_err(lost)?;
        let request = demanding_leader(request, token);
        Ok(client.unary(request, PathAndQuery::from_static(path), codec()).await?.into_inner())
    }

    /// What says to a member which user asks.
    async fn token(&self, index: usize) -> Result<Token, Status> {
        let Some(login) = &self.login else { return Ok(Token::None) };
        let _turn = login.turn.lock().await;
        match login.token() {
            Token::Unknown => {
                let answer = self.ask_once(index, path::AUTHENTICATE, login.request()?, Token::None).await;
                login.note(answer.map(|answer: AuthenticateResponse| answer.token))
            }
            token @ (Token::None | Token::Known(_)) => Ok(token),
        }
    }

    /// Opens a stream to the member that answered last.
    pub(super) async fn stream<Q, A>(
        &self,
        path: &'static str,
        requests: impl futures::Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Failure>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let index = self.current();
        let mut client = self.client(index);
        let answer = async {
            let token = self.token(index).await?;
            client.ready().await.map_err(lost)?;
            client.streaming(demanding_leader(requests, token), PathAndQuery::from_static(path), codec()).await
        };
        let answer = in_time(self.timing.call, answer).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.failed(index, status))
    }

    /// The next message of a stream, which must come in time; an end is a failure.
    pub(super) async fn next_of<A>(&self, stream: &mut Streaming<A>) -> Result<A, Failure> {
        let message = in_time(self.timing.call, stream.message()).await;
        let message = message.and_then(|message| message.ok_or_else(|| Status::unavailable("the stream ended")));
        message.map_err(|status| self.failed(self.current(), status))
    }

    /// A failure at the member that answered last, which is left for the next one.
    pub(super) fn failed_stream(&self, status: Status) -> Failure {
        self.failed(self.current(), status)
    }

    fn failed(&self, index: usize, status: Status) -> Failure {
        // What comes next asks for a token again.
        let _ = self.login.as_ref().is_some_and(|login| login.is_stale(&status));
        self.leave(index);
        let said = format!("{}: {}", self.members[index].url, reason(&status));
        Failure::new(status, &[said])
    }

    /// The cluster's identity and revision, by its majority's word.
    pub(super) async fn head(&self) -> Result<ResponseHeader, Failure> {
        // Only the header of the answer counts. etcd refuses a user a key outside of what the user may read.
        let request = RangeRequest { key: encode::root(), keys_only: true, ..RangeRequest::default() };
        let answer: RangeResponse = self.call(path::RANGE, request, Repeat::Freely).await?;
        Ok(answer.header.unwrap_or_default())
    }

    fn client(&self, index: usize) -> Grpc<Channel> {
        Grpc::new(self.members[index].channel.clone()).max_decoding_message_size(usize::MAX)
    }

    fn current(&self) -> usize {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns to the next member, unless another call has done so already.
    fn leave(&self, index: usize) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == index {
            *current = (index + 1) % self.members.len();
        }
    }
}

impl Timing {
    /// A pause before something is tried again; of random length, so that many hosts do not come at once.
    pub(super) fn pause(&self) -> Duration {
        self.retry.mul_f32(rand::rng().random_range(0.5..1.5))
    }
}

/// A connection to a member, made when it is needed. One whose octets are not acknowledged is given up: TCP alone would send
/// them again at pauses that double, so a member that is back would be reached as long after as it was away.
fn channel(url: &str, options: &EtcdOptions) -> Result<Channel, OpenError> {
    let timing = &options.timing;
    let mut connector = HttpConnector::new();
    // An address of TLS is one too.
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(timing.probe));
    connector.set_connect_timeout(Some(timing.call));
    connector.set_tcp_user_timeout(Some(timing.call));
    Ok(endpoint(url, options)?.connect_with_connector_lazy(connector))
}

fn endpoint(url: &str, options: &EtcdOptions) -> Result<Endpoint, OpenError> {
    let invalid = |reason: String| OpenError::Endpoint { url: url.to_owned(), reason };
    let is_encrypted = url.starts_with("https://");
    if !is_encrypted && !url.starts_with("http://") {
        return Err(invalid("it begins with neither http:// nor https://".to_owned()));
    }
    let timing = &options.timing;
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|error| invalid(cause(&error)))?
        .connect_timeout(timing.call)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        // Also while its streams, the watches, are silent. A connection without streams is not asked: etcd ends
        // those that ask then.
        .http2_keep_alive_interval(timing.probe)
        .keep_alive_timeout(timing.call);
    let Some(tls) = options.tls.as_ref().filter(|_| is_encrypted) else {
        if is_encrypted {
            return Err(invalid("whose certificates to trust is not said".to_owned()));
        }
        return Ok(endpoint);
    };
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
    if let Some((certificate, key)) = &tls.identity_pem {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    endpoint.tls_config(config).map_err(|error| invalid(cause(&error)))
}

async fn in_time<T>(limit: Duration, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {:.1} s", limit.as_secs_f32()))),
    }
}

fn codec<Q: Message + 'static, A: Message + Default + 'static>() -> ProstCodec<Q, A> {
    ProstCodec::default()
}

/// A member that has lost the others returns an error instead of answering from its memory.
fn demanding_leader<T>(message: T, token: Token) -> Request<T> {
    let mut request = Request::new(message);
    if let Token::Known(token) = token {
        request.metadata_mut().insert("token", token);
    }
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}

fn lost(error: tonic::transport::Error) -> Status {
    Status::from_error(error.into())
}

/// Whether another member, or the same one later, may answer.
fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Internal | Code::Unknown
    )
}

/// Whether the request certainly was not carried out: no member was reached, or a member without a leader refused it.
fn is_unsent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    status.message() == "etcdserver: no leader"
}

/// A failure, for a person.
fn reason(status: &Status) -> String {
    match status.source() {
        Some(source) => cause(source),
        None => status.message().to_owned(),
    }
}

/// The last error of a chain: the ones above it say only that something failed.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
