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

/// The largest body that is read of most requests.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A JSON body. Its content type is not looked at: no browser reaches a unix socket, and `curl -d` says it is a form.
pub(super) struct Body<T>(pub(super) T);

/// A request whose caller may be anybody who may change things; what root alone may ask for is refused here.
pub(super) trait Asked {
    /// The largest body of it that is read.
    const MAX_BYTES: usize = MAX_BODY_BYTES;

    /// What the request asks for that root alone may ask for.
    fn for_root_alone(&self) -> Option<&'static str> {
        None
    }
}

impl Asked for views::CreateNetwork {}
impl Asked for views::EndNetwork {}
impl Asked for views::SetFleet {}
impl Asked for views::AdoptHost {}
impl Asked for views::ForgetHost {}
impl Asked for views::DrainHost {}
impl Asked for views::RebuildState {}
impl Asked for views::ExportedState {
    /// Some thousand members.
    const MAX_BYTES: usize = 64 * 1024 * 1024;
}
impl Asked for views::Detach {}
impl Asked for views::EndAttachment {}
impl Asked for views::OpenStream {}
impl Asked for views::Attach {
    fn for_root_alone(&self) -> Option<&'static str> {
        self.resolv_conf.as_ref().is_some_and(|file| !file.by_caller).then_some("have the agent write a resolv.conf")
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Asked> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let is_root = request.extensions().get::<Peer>().is_some_and(|peer| peer.uid == 0);
        let reading = axum::body::to_bytes(request.into_body(), T::MAX_BYTES);
        let Ok(read) = tokio::time::timeout(BODY_TIMEOUT, reading).await else {
            let message = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            let error = ControlError::new(ErrorCode::Timeout, message, "send it again");
            return Err(Problem::with_status(StatusCode::REQUEST_TIMEOUT, error));
        };
        let bytes = read.map_err(|error| unreadable(&error, T::MAX_BYTES))?;
        let value: T = value_of(&bytes).map_err(Problem::malformed)?;
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

/// A value from JSON, or what is wrong with it, and with which field.
fn value_of<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    let reader = &mut serde_json::Deserializer::from_slice(json);
    let read = serde_path_to_error::deserialize(&mut *reader).map_err(|error| {
        // What is no JSON has no fields.
        let field = Some(error.path().to_string()).filter(|field| field != "." && error.inner().is_data());
        let place = field.map_or_else(|| "the body".to_owned(), |field| format!("field {field} of the body"));
        format!("{place} is not what is expected: {}", error.inner())
    })?;
    reader.end().map_err(|error| format!("the body is not what is expected: {error}"))?;
    Ok(read)
}

fn unreadable(error: &axum::Error, max_bytes: usize) -> Problem {
    if !error.source().is_some_and(|source| source.is::<LengthLimitError>()) {
        return Problem::malformed(format!("the body cannot be read: {error}"));
    }
    let message = format!("the body is larger than {max_bytes} bytes");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_not_what_it_should_be_is_named() {
        let attach = |more: &str| {
            value_of::<views::Attach>(
                format!(r#"{{"network":"shop","app":"demo","target":{{"pid":7}}{more}}}"#).as_bytes(),
            )
        };
        assert!(attach("").is_ok());
        assert_eq!(attach(r#","number":67"#).map(|attach| attach.number), Ok(Some(67)));
        assert_eq!(attach(r#","number":null"#).map(|attach| attach.number), Ok(None));
        assert_eq!(attach(r#","number":99999"#).map(|attach| attach.number), Ok(Some(99_999)));
        for number in ["67.0", "1e2", "\"67\"", "0", "-1", "100000", "4294967296", "18446744073709551616", "true"] {
            let refused = attach(&format!(r#","number":{number}"#)).map(drop).expect_err(number);
            assert!(refused.starts_with("field number of the body is not what is expected: invalid "), "{refused}");
            assert!(refused.contains("expected a whole number from 1 to 99999"), "{number}: {refused}");
        }
        for (more, said) in [
            (r#","address":"10.240.0.2/22""#, "field address of the body is not what is expected"),
            (r#","ports":["http=80",7]"#, "field ports[1] of the body is not what is expected"),
            (r#","resolv_conf":{"path":7}"#, "field resolv_conf.path of the body is not what is expected"),
            (r#","nummer":1"#, "field nummer of the body is not what is expected: unknown field"),
            (",", "the body is not what is expected"),
        ] {
            let found = attach(more).map(drop).expect_err(more);
            assert!(found.starts_with(said), "{more}: {found}");
        }
        let target = value_of::<views::Attach>(br#"{"network":"shop","app":"demo","target":{"pid":1.5}}"#).map(drop);
        assert!(target.is_err_and(|said| said.contains("target")), "a field within a field");
        let trailing = value_of::<views::NetworkPath>(br#"{"network":"shop"} 1"#).expect_err("a second value");
        assert!(trailing.starts_with("the body is not what is expected: trailing"), "{trailing}");
    }
}
