//! Errors as a runtime reads them: a code of the specification, what is wrong, and what to do.

use serde_json::{Value, json};

use super::version::Version;
use crate::api::{ControlError, ErrorCode};

/// What a runtime is told by a number (the CNI specification, "Error"); from 100 on the numbers are the plugin's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The version of the configuration is none that is spoken here, or knows no such command.
    Version = 1,
    /// A key of the configuration is none that is known here.
    UnsupportedField = 2,
    /// There is no such container: the runtime has nothing to clean up.
    NoContainer = 3,
    /// A variable of the environment is missing, or not what it should be.
    Environment = 4,
    /// Something could not be read.
    Io = 5,
    /// The configuration is no JSON.
    Decoding = 6,
    /// The configuration says what cannot be.
    Configuration = 7,
    /// The same call may succeed later.
    TryAgain = 11,
    /// Nothing can be attached now; what is attached goes on.
    Unavailable = 50,
    /// Nothing can be attached now, and some that are attached do not work.
    Limited = 51,
    /// The agent refuses.
    Refused = 100,
    /// An attachment is not as it was made.
    NotAsMade = 101,
}

/// Why a call is not answered with success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For the runtime.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Failure {
    /// Makes one of its parts.
    pub fn new(code: Code, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: remedy.into() }
    }

    /// The error object, in the version of the configuration; in the newest where that is unknown.
    pub fn as_json(&self, version: Option<Version>) -> Value {
        let version = version.unwrap_or(Version::NEWEST);
        json!({
            "cniVersion": version.as_str(),
            "code": self.code as u32,
            "msg": self.message,
            "details": self.remedy,
        })
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let code = match error.code {
            ErrorCode::NetnsNotFound => Code::NoContainer,
            ErrorCode::NetnsInvalid => Code::Environment,
            ErrorCode::InvalidArgument
            | ErrorCode::NetworkNotFound
            | ErrorCode::InvalidSubnet
            | ErrorCode::SubnetOverlap
            | ErrorCode::AddressInvalid
            | ErrorCode::MtuTooSmall => Code::Configuration,
            ErrorCode::StoreUnavailable
            | ErrorCode::OutcomeUnknown
            | ErrorCode::Timeout
            | ErrorCode::AgentUnavailable => Code::TryAgain,
            ErrorCode::NetworkExists
            | ErrorCode::NetworkNotEmpty
            | ErrorCode::MemberNotFound
            | ErrorCode::MemberExists
            | ErrorCode::AddressTaken
            | ErrorCode::PoolExhausted
            | ErrorCode::HostNotAdopted
            | ErrorCode::HostDraining
            | ErrorCode::VtepConflict
            | ErrorCode::ConnectionFailed
            | ErrorCode::Unsupported
            | ErrorCode::PermissionDenied
            | ErrorCode::Internal => Code::Refused,
        };
        Self::new(code, error.message, error.remedy)
    }
}
