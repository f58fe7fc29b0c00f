//! The privileges that the demo needs.

use privnet::agent::{ControlError, ErrorCode};
use rustix::thread::{CapabilitySet, capabilities};

/// Checks that this process may make namespaces, links and packet sockets, and load programs.
///
/// # Errors
/// It may not.
pub fn require_privileges() -> Result<(), ControlError> {
    let refuse = |message: String| Err(ControlError::new(ErrorCode::PermissionDenied, message, "run it as root"));
    if !rustix::process::geteuid().is_root() {
        return refuse("an ordinary user cannot make the demo's namespaces".to_owned());
    }
    let needed = [
        ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
        ("CAP_NET_RAW", CapabilitySet::NET_RAW),
    ];
    let Ok(held) = capabilities(None) else { return Ok(()) };
    let lacking: Vec<&str> =
        needed.iter().filter(|(_, set)| !held.effective.contains(*set)).map(|(name, _)| *name).collect();
    if lacking.is_empty() { Ok(()) } else { refuse(format!("this root lacks {}", lacking.join(", "))) }
}
