//! Waiting until nothing of a member remains on this host.

use std::time::Duration;

use super::error::{ControlError, ErrorCode};
use crate::agent::host::journal::Record;
use crate::agent::shared::Shared;

/// How long to wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until nothing of a member that left remains on this host.
///
/// # Errors
/// [`ErrorCode::Timeout`] when patience ended before, with what is in the way. The agent goes on trying.
pub async fn wait_until_gone(shared: &Shared, record: &Record) -> Result<(), ControlError> {
    let handle = shared.workers.of(record.network);
    // One that failed waits longer and longer before it tries again.
    handle.wake();
    let mut reports = handle.reports();
    let gone = async {
        while shared.journal().records().contains_key(&record.id) {
            if reports.changed().await.is_err() {
                break;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, gone).await.is_ok() {
        return Ok(());
    }
    let problems = handle.reports().borrow().problems.join("; ");
    let why = if problems.is_empty() { "no operation failed".to_owned() } else { problems };
    Err(ControlError::new(
        ErrorCode::Timeout,
        format!(
            "{} is detached, but after {} s its objects are not all removed from this host: {why}",
            record.container,
            PATIENCE.as_secs()
        ),
        "the agent tries again by itself, and `privnet status` shows what fails; stopping the container removes it",
    ))
}

/// Waits until nothing of a member that left remains on this host, or the first attempt to remove it has failed.
pub async fn wait_for_one_try(shared: &Shared, record: &Record) {
    let handle = shared.workers.of(record.network);
    let tried = handle.wake_and_observe();
    let mut reports = handle.reports();
    let ended =
        reports.wait_for(|report| report.answered >= tried || !shared.journal().records().contains_key(&record.id));
    // Its end, after the agent's patience, is the next passes'.
    let _ = tokio::time::timeout(PATIENCE, ended).await;
}
