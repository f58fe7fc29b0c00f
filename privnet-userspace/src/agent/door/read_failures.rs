//! The reads of scrapes that failed, counted by kind.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::views::ScrapeErrorKind;

/// How many reads of scrapes failed since the agent started.
#[derive(Debug, Default)]
pub struct ReadFailures([AtomicU64; ScrapeErrorKind::ALL.len()]);

impl ReadFailures {
    /// Counts and logs one; there is nothing to show of what was read.
    pub fn note<T>(&self, kind: ScrapeErrorKind, error: &str) -> Option<T> {
        tracing::warn!(%kind, "a scrape is incomplete: {error}");
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
        None
    }

    /// All of them; every kind is there.
    pub fn read(&self) -> BTreeMap<ScrapeErrorKind, u64> {
        ScrapeErrorKind::ALL.iter().map(|kind| (*kind, self.0[*kind as usize].load(Ordering::Relaxed))).collect()
    }
}
