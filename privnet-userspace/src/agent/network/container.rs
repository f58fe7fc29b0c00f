//! What a member needs of its container and privnet does not change, for it is the container's own.

use anyhow::Result;

use super::local::LocalNetwork;
use super::scan::MemberScan;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::host::journal::Record;
use crate::link::{LOOPBACK_INDEX, Link};
use crate::model::MemberId;

/// What of a member's container is in the way of what is promised.
///
/// # Errors
/// When its links cannot be read.
pub async fn fault(scan: &MemberScan<'_>) -> Result<Option<ControlError>> {
    if scan.namespaces.app.is_none() {
        return Ok(None);
    }
    let loopback = scan.app_links().await?.iter().find(|link| link.index == LOOPBACK_INDEX);
    Ok(of_loopback(scan.net(), scan.record, loopback))
}

/// The same of a member that was just made, by one question.
///
/// # Errors
/// When its loopback cannot be read.
pub async fn fault_of_new(net: &LocalNetwork, member: MemberId) -> Result<Option<ControlError>> {
    let (namespaces, record) = (net.namespaces_of(member).await?, net.record(member)?);
    let Some(app) = &namespaces.app else { return Ok(None) };
    Ok(of_loopback(net, record, app.find("lo").await?.as_ref()))
}

fn of_loopback(net: &LocalNetwork, record: &Record, loopback: Option<&Link>) -> Option<ControlError> {
    let is_needed = !record.leaving && net.host.config.names.is_some();
    (is_needed && !loopback.is_some_and(|link| link.up)).then(|| {
        ControlError::new(
            ErrorCode::Internal,
            "the loopback of the container is down, so that it can neither ask for names nor reach its own address",
            "ip link set lo up, in the container",
        )
    })
}
