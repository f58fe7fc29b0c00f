//! When systemd is told that the agent is ready: what is ordered after it, such as Docker, waits until then.
//!
//! The sockets are served from the first moment on. An agent that starts at once says that it is ready when it is: one that
//! refuses to start then fails its unit. One that waits for its store says so as soon as it waits, and answers each request
//! with the reason; members are not affected, and nothing of the host's start waits for a store.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;

use super::notify::notify;
use crate::agent::ControlError;

/// How long a start may take before it counts as a wait.
const PATIENCE: Duration = Duration::from_secs(3);

/// Says so once the agent waits for its store, or its start takes long. Never ends: its caller drops it.
pub async fn tell_once_served(mut waiting: watch::Receiver<Option<ControlError>>) -> Infallible {
    let _ = tokio::time::timeout(PATIENCE, waiting.wait_for(Option::is_some)).await;
    notify("READY=1");
    std::future::pending().await
}
