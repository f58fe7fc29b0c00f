//! Whether the tasks that work again and again still turn.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a turn may take: some of them wait for a store that answers slowly, once for each container that has died.
const LIMIT: Duration = Duration::from_secs(120);

/// When each task last turned.
#[derive(Debug, Default)]
pub struct Turns(Mutex<BTreeMap<&'static str, Instant>>);

impl Turns {
    /// Notes that a task begins a turn.
    pub fn turned(&self, task: &'static str, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(task, now);
    }

    /// A task whose turn takes too long, and since when.
    pub fn stuck(&self, now: Instant) -> Option<(&'static str, Duration)> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = last.iter().map(|(task, at)| (*task, now.saturating_duration_since(*at)));
        longest.max_by_key(|(_, took)| *took).filter(|(_, took)| *took > LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_stuck_when_its_turn_takes_too_long_whatever_the_others_do() {
        let turns = Turns::default();
        let start = Instant::now();
        assert_eq!(turns.stuck(start), None);
        turns.turned("checks", start);
        turns.turned("contact", start);
        assert_eq!(turns.stuck(start + LIMIT), None);
        let late = start + LIMIT + Duration::from_secs(1);
        turns.turned("contact", late);
        assert_eq!(turns.stuck(late), Some(("checks", LIMIT + Duration::from_secs(1))));
        turns.turned("checks", late);
        assert_eq!(turns.stuck(late), None);
    }
}
