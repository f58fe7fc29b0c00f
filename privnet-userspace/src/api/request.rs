//! What a request carries: a JSON body of at most 64 KiB that arrives in time, a query, or a part of the path. A field that
//! is not known is refused.

use std::error::Error as _;
use std::time::Duration;

use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;

use super::peer::Peer;
use super::problem::Problem;
use crate::agent::{ControlError, ErrorCode, views};

/// The largest body that is read.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A JSON body. Its content type is not looked at: no browser reaches a unix socket, and `curl -d` says it is a form.
pub(super) struct Body<T>(pub(super) T);

/// A request whose caller may be anybody who may change things; what root alone may ask for is refused here.
pub(super) trait Asked {
    /// What the request asks for that root alone may ask for.
    fn for_root_alone(&self) -> Option<&'static str> {
        None
    }
}

impl Asked for views::CreateNetwork {}
impl Asked for views::SetFleet {}
impl Asked for views::Detach {}
impl Asked for views::Attach {
    fn for_root_alone(&self) -> Option<&'static str> {
        self.resolv_conf.as_ref().is_some_and(|file| !file.by_caller).then_some("have the agent write a resolv.conf")
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Asked> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let is_root = request.extensions().get::<Peer>().is_some_and(|peer| peer.uid == 0);
        let reading = axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES);
        let Ok(read) = tokio::time::timeout(BODY_TIMEOUT, reading).await else {
            let message = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            let error = ControlError::new(ErrorCode::Timeout, message, "send it again");
            return Err(Problem::with_status(StatusCode::REQUEST_TIMEOUT, error));
        };
        let bytes = read.map_err(|error| unreadable(&error))?;
        let value: T = serde_json::from_slice(&bytes)
            .map_err(|error| Problem::malformed(format!("the body is not what is expected: {error}")))?;
        match value.for_root_alone().filter(|_| !is_root) {
            None => Ok(Self(value)),
            Some(what) => {
                let remedy = "set `by_caller`, and write what the answer says; or run it as root";
                let message = format!("only root may {what}");
                Err(Problem::from(ControlError::new(ErrorCode::PermissionDenied, message, remedy)))
            }
        }
    }
}

fn unreadable(error: &axum::Error) -> Problem {
    if !error.source().is_some_and(|source| source.is::<LengthLimitError>()) {
        return Problem::malformed(format!("the body cannot be read: {error}"));
    }
    let message = format!("the body is larger than {MAX_BODY_BYTES} bytes");
    let error = ControlError::new(ErrorCode::InvalidArgument, message, "send only what GET /openapi.json describes");
    Problem::with_status(StatusCode::PAYLOAD_TOO_LARGE, error)
}

/// The query of the target.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = extract::Query::from_request_parts(parts, state).await;
        query.map(|extract::Query(value)| Self(value)).map_err(|error| Problem::malformed(error.body_text()))
    }
}

/// The parts of the path that the route names.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = extract::Path::from_request_parts(parts, state).await;
        path.map(|extract::Path(value)| Self(value)).map_err(|error| Problem::malformed(error.body_text()))
    }
}
