//! How often something may happen: at once, a few times; then steadily, however much there is to do.

use std::time::Duration;

use tokio::time::Instant;

/// The times at which it happened.
#[derive(Debug)]
pub struct Pace {
    /// How far ahead of the steady pace the first ones may be.
    ahead: Duration,
    interval: Duration,
    /// When the next would be, had all been `interval` apart.
    next: Instant,
}

impl Pace {
    /// It has not happened yet: it may `burst` times at once, which is at least once, and each `interval` in the long run.
    pub fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self { ahead: interval * burst.saturating_sub(1), interval, next: now }
    }

    /// When it may happen next; in the past when at once.
    pub fn due(&self) -> Instant {
        self.next.checked_sub(self.ahead).unwrap_or(self.next)
    }

    /// Takes note that it happens.
    pub fn take(&mut self, now: Instant) {
        self.next = self.next.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it happens in `milliseconds`, when there is a reason in each of them.
    fn times(pace: &mut Pace, from: Instant, milliseconds: u64) -> usize {
        let happens = |ms: &u64| {
            let now = from + Duration::from_millis(*ms);
            let is_due = pace.due() <= now;
            if is_due {
                pace.take(now);
            }
            is_due
        };
        (0..milliseconds).filter(happens).count()
    }

    #[test]
    fn a_burst_is_let_through_and_a_flood_is_two_a_second() {
        let start = Instant::now() + Duration::from_secs(3600);
        let mut pace = Pace::new(20, Duration::from_millis(500), start);
        assert_eq!(times(&mut pace, start, 100), 20);
        let later = start + Duration::from_millis(100);
        assert_eq!(times(&mut pace, later, 10_000), 20, "twice a second");
        let rested = later + Duration::from_secs(3600);
        assert_eq!(times(&mut pace, rested, 100), 20, "after a rest as at first");
    }
}
