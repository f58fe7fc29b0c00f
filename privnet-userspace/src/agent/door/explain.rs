//! Errors of the doors and the store as the one error that surfaces see.

use super::error::{ControlError, ErrorCode};
use crate::model::ids::InvalidName;
use crate::store::claims::{MemberError, NetworkError};
use crate::store::records::RecordError;
use crate::store::{CommitError, StoreError};
use crate::{link, netns, wireguard};

/// Finds the cause that a person can act on in a chain of causes.
#[must_use]
pub fn explain(error: &anyhow::Error) -> ControlError {
    for cause in error.chain() {
        if let Some(known) = cause.downcast_ref::<ControlError>() {
            return known.clone();
        }
        if let Some(told) = explain_store(cause) {
            return told;
        }
        if let Some(link) = cause.downcast_ref::<link::Error>() {
            return explain_link(link, error);
        }
        if let Some(netns) = cause.downcast_ref::<netns::Error>() {
            return explain_netns(netns, error);
        }
        if let Some(wireguard) = cause.downcast_ref::<wireguard::Error>() {
            return explain_wireguard(wireguard, error);
        }
    }
    ControlError::new(ErrorCode::Internal, one_line(error), "see the agent's log and `privnet doctor`")
}

/// Splits "what happened: what to do" where our own errors put both into one sentence.
#[must_use]
pub fn split_remedy(code: ErrorCode, text: &str) -> ControlError {
    match text.rsplit_once(": ") {
        Some((message, remedy)) => ControlError::new(code, message, remedy),
        None => ControlError::new(code, text, "see `privnet doctor`"),
    }
}

impl From<InvalidName> for ControlError {
    fn from(error: InvalidName) -> Self {
        let message = format!("{} {:?} is invalid", error.what, error.value);
        Self::new(ErrorCode::InvalidArgument, message, error.expected)
    }
}

impl From<NetworkError> for ControlError {
    fn from(error: NetworkError) -> Self {
        let code = match &error {
            NetworkError::NameTaken { .. } => ErrorCode::NetworkExists,
            NetworkError::InvalidSubnet(_) => ErrorCode::InvalidSubnet,
            NetworkError::NotFound { .. } => ErrorCode::NetworkNotFound,
            NetworkError::HasMembers { .. } => ErrorCode::NetworkNotEmpty,
            NetworkError::VnisExhausted => ErrorCode::PoolExhausted,
            NetworkError::Contended | NetworkError::Record(_) | NetworkError::Commit(_) => ErrorCode::StoreUnavailable,
        };
        split_remedy(code, &error.to_string())
    }
}

/// An error of the store, however many of its rooms it came through.
fn explain_store(cause: &(dyn std::error::Error + 'static)) -> Option<ControlError> {
    if let Some(error) = cause.downcast_ref::<StoreError>() {
        return Some(split_remedy(ErrorCode::StoreUnavailable, &error.to_string()));
    }
    if let Some(error) = cause.downcast_ref::<RecordError>() {
        return Some(split_remedy(ErrorCode::StoreUnavailable, &error.to_string()));
    }
    if let Some(error) = cause.downcast_ref::<CommitError>() {
        return Some(split_remedy(ErrorCode::StoreUnavailable, &error.to_string()));
    }
    if let Some(error) = cause.downcast_ref::<MemberError>() {
        return Some(error.clone().into());
    }
    cause.downcast_ref::<NetworkError>().map(|error| error.clone().into())
}

fn explain_link(error: &link::Error, whole: &anyhow::Error) -> ControlError {
    let (code, remedy) = match error {
        link::Error::PortInUse(_) => (
            ErrorCode::VtepConflict,
            "another program has UDP port 4789 on this host: `ss -lunp sport = :4789` shows it; stop it or give it another port",
        ),
        link::Error::AlreadyExists(refusal) if refusal.object.contains("vxlan") => (
            ErrorCode::VtepConflict,
            "another VXLAN device on this host has this VNI: `ip -d link show type vxlan` shows it; delete it, or the network",
        ),
        link::Error::Unsupported(refusal) if refusal.object.contains("wireguard") => (
            ErrorCode::Unsupported,
            "the kernel's WireGuard is gone: load it with `modprobe wireguard`, or run the agent with --wireguard userspace",
        ),
        link::Error::Unsupported(_) => (ErrorCode::Unsupported, "`privnet doctor` says what the kernel lacks"),
        link::Error::NotPermitted(_) => (ErrorCode::PermissionDenied, "run the agent as root"),
        link::Error::NotFound(_)
        | link::Error::AlreadyExists(_)
        | link::Error::Busy(_)
        | link::Error::Kernel(_)
        | link::Error::Incomplete { .. }
        | link::Error::NoAnswer { .. }
        | link::Error::Socket { .. }
        | link::Error::Netns(_) => (ErrorCode::Internal, "the next pass tries again; see `privnet status`"),
    };
    ControlError::new(code, one_line(whole), remedy)
}

fn explain_netns(error: &netns::Error, whole: &anyhow::Error) -> ControlError {
    let (code, remedy) = match error {
        netns::Error::NotPermitted { .. } => (ErrorCode::PermissionDenied, "run the agent as root"),
        netns::Error::NotFound { .. } => (ErrorCode::NetnsNotFound, "the container may have ended; start it again"),
        netns::Error::NotANamespace { .. } => (ErrorCode::NetnsInvalid, "give the path of a network namespace"),
        netns::Error::AlreadyExists { .. }
        | netns::Error::Busy { .. }
        | netns::Error::Invalid { .. }
        | netns::Error::Panicked { .. }
        | netns::Error::ThreadEnded { .. }
        | netns::Error::NotSingleThreaded { .. }
        | netns::Error::Kernel { .. } => (ErrorCode::Internal, "see the agent's log"),
    };
    ControlError::new(code, one_line(whole), remedy)
}

fn explain_wireguard(error: &wireguard::Error, whole: &anyhow::Error) -> ControlError {
    let lacking = matches!(error, wireguard::Error::Unsupported { .. });
    let code = if lacking { ErrorCode::Unsupported } else { ErrorCode::Internal };
    ControlError::new(code, one_line(whole), "`privnet doctor` says which WireGuard this host has")
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}")
}
