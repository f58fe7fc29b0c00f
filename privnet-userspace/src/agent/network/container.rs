//! What a member needs of its container and privnet does not change, for it is the container's own.

use anyhow::Result;

use super::scan::MemberScan;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::link::LinkKind;

/// What of a member's container is in the way of what is promised.
///
/// # Errors
/// When its links cannot be read.
pub async fn fault(scan: &MemberScan<'_>) -> Result<Option<ControlError>> {
    if scan.record.leaving || scan.namespaces.app.is_none() || scan.net().host.config.names.is_none() {
        return Ok(None);
    }
    let is_up = scan.app_links().await?.iter().any(|link| link.kind == LinkKind::Loopback && link.up);
    Ok((!is_up).then(|| {
        ControlError::new(
            ErrorCode::Internal,
            "the loopback of the container is down, so that it can neither ask for names nor reach its own address",
            "ip link set lo up, in the container",
        )
    }))
}
