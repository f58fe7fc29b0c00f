//! The runtime on which a verb runs.

use std::future::Future;

use crate::api::{ControlError, ErrorCode};

/// Runs a client's request on a runtime of one thread.
///
/// # Errors
/// The request's, or why there is no runtime.
pub fn wait<T>(request: impl Future<Output = Result<T, ControlError>>) -> Result<T, ControlError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| no_runtime(&error))?.block_on(request)
}

/// The error when the runtime does not start.
#[must_use]
pub fn no_runtime(error: &std::io::Error) -> ControlError {
    let message = format!("cannot start the runtime: {error}");
    ControlError::new(ErrorCode::Internal, message, "see how many files and threads this user may have")
}
