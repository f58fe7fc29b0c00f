//! Errors as HTTP: a status, and the JSON object of the contract.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::agent::{ControlError, ErrorCode};

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Error"))]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ControlError,
}

/// An error on its way out.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    error: ControlError,
}

impl Problem {
    /// An error whose status is not the usual one of its code.
    pub(super) fn with_status(status: StatusCode, error: ControlError) -> Self {
        Self { status, error }
    }

    /// A request that cannot be understood.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        ControlError::new(ErrorCode::InvalidArgument, message, "see GET /openapi.json for what is accepted").into()
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        Self { status: status_of(error.code), error }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.error })).into_response()
    }
}

/// The HTTP status (RFC 9110 section 15) that fits an error.
fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidArgument
        | ErrorCode::InvalidSubnet
        | ErrorCode::AddressInvalid
        | ErrorCode::NetnsNotFound
        | ErrorCode::NetnsInvalid => StatusCode::BAD_REQUEST,
        ErrorCode::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorCode::NetworkNotFound | ErrorCode::MemberNotFound => StatusCode::NOT_FOUND,
        ErrorCode::NetworkExists
        | ErrorCode::NetworkNotEmpty
        | ErrorCode::SubnetOverlap
        | ErrorCode::MemberExists
        | ErrorCode::AddressTaken
        | ErrorCode::PoolExhausted
        | ErrorCode::MtuTooSmall
        | ErrorCode::HostNotAdopted
        | ErrorCode::HostDraining
        | ErrorCode::VtepConflict => StatusCode::CONFLICT,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::StoreUnavailable | ErrorCode::AgentUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::ConnectionFailed => StatusCode::BAD_GATEWAY,
        ErrorCode::OutcomeUnknown | ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
    }
}
