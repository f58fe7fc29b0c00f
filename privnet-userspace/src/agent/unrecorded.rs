//! The members of this host that have no entry in the journal, and of which it is unclear whether their containers run.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often is looked again while there are such members: a WireGuard process is found again within a second.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The members of this host that have no entry in the journal, and of which it is unclear whether their containers run.
#[derive(Debug, Default)]
pub struct Unrecorded(Mutex<(Option<Instant>, Vec<String>)>);

impl Unrecorded {
    /// Whether it is time to look again: a look opens each namespace of the host.
    pub fn is_due(&self, now: Instant) -> bool {
        let (last, _) = &mut *self.lock();
        let is_due = last.is_none_or(|last| now.duration_since(last) >= LOOK_AGAIN);
        if is_due {
            *last = Some(now);
        }
        is_due
    }

    /// Notes which are unclear, and why.
    pub fn note(&self, unclear: Vec<String>) {
        self.lock().1 = unclear;
    }

    /// Notes that there are none.
    pub fn are_settled(&self) {
        *self.lock() = (None, Vec::new());
    }

    /// Those that are unclear, one line each.
    pub fn lines(&self) -> Vec<String> {
        let line = |text: &String| {
            format!("no entry in the journal for {text} (it stays as it is; once its container is stopped it ends)")
        };
        self.lock().1.iter().map(line).collect()
    }

    fn lock(&self) -> MutexGuard<'_, (Option<Instant>, Vec<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
