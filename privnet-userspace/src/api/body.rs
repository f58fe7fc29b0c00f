//! Request bodies: JSON of at most 64 KiB that arrives in time, with no field that is not known.

use std::error::Error as _;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use crate::agent::{ControlError, ErrorCode};

/// The largest body that is read.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What `DELETE /v1/networks/{network}` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Always true; a network that was not there is an error.
    pub deleted: bool,
}

/// A JSON body. Its content type is not looked at: no browser reaches a unix socket, and `curl -d` says it is a form.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let reading = axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES);
        let Ok(read) = tokio::time::timeout(BODY_TIMEOUT, reading).await else {
            let message = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            let error = ControlError::new(ErrorCode::Timeout, message, "send it again");
            return Err(Problem::with_status(StatusCode::REQUEST_TIMEOUT, error));
        };
        let bytes = read.map_err(|error| unreadable(&error))?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| Problem::malformed(format!("the body is not what is expected: {error}")))?;
        Ok(Self(value))
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
