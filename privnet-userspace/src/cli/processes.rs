//! The processes that the agent starts from this binary: the userspace WireGuard of a member, and the DNS process.

use super::args::{DnsArgs, WireguardProcessArgs};
use crate::api::{ControlError, ErrorCode};

/// Becomes the userspace WireGuard of one member.
///
/// # Errors
/// When the agent did not start it, or it cannot serve.
pub fn wireguard(arguments: &WireguardProcessArgs) -> Result<(), ControlError> {
    crate::wireguard::serve_userspace(&arguments.run_dir).map_err(|error| failed("WireGuard", &error))
}

/// Becomes the DNS process of this host.
///
/// # Errors
/// When the agent did not start it, or it cannot serve.
pub fn dns(arguments: &DnsArgs) -> Result<(), ControlError> {
    crate::dns::serve_process(&arguments.run_dir).map_err(|error| failed("DNS", &error))
}

fn failed(process: &str, error: &anyhow::Error) -> ControlError {
    let message = format!("the {process} process failed: {error:#}");
    ControlError::new(ErrorCode::Internal, message, "only the agent starts it")
}
