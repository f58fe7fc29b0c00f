//! The signals that end the demo in order.

use std::io;

use privnet::agent::{ControlError, ErrorCode};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the demo. Once listened to, none of them ends the process by itself any more.
pub struct Signals([(&'static str, Signal); 3]);

impl Signals {
    /// Listens to all of them.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn listen() -> Result<Self, ControlError> {
        let listen = |name, kind| signal(kind).map(|signal| (name, signal));
        let all = || {
            Ok([
                listen("SIGINT", SignalKind::interrupt())?,
                listen("SIGTERM", SignalKind::terminate())?,
                listen("SIGHUP", SignalKind::hangup())?,
            ])
        };
        all().map(Self).map_err(|error: io::Error| {
            let message = format!("cannot listen to signals: {error}");
            ControlError::new(ErrorCode::Internal, message, "see how many files this user may have")
        })
    }

    /// Waits for the next one; returns its name.
    pub async fn next(&mut self) -> &'static str {
        let [(a, int), (b, term), (c, hup)] = &mut self.0;
        tokio::select! {
            _ = int.recv() => a,
            _ = term.recv() => b,
            _ = hup.recv() => c,
        }
    }
}

/// The error of a demo that a signal ended.
#[must_use]
pub fn interrupted(signal: &str) -> ControlError {
    ControlError::new(ErrorCode::Internal, format!("ended by {signal}; nothing is left"), "run it again")
}
