//! How often a watcher may ask for a pass: at once, a few times; then steadily, whatever happens in its namespace.

use std::time::Duration;

use tokio::time::Instant;

/// How many passes a watcher may ask for at once, when it has not for long.
const BURST: u32 = 20;
/// How far apart they are, in the long run: a container that changes what is privnet's all the time costs the others
/// two passes a second, of one member each.
const INTERVAL: Duration = Duration::from_millis(500);

/// The passes that a watcher asked for.
#[derive(Debug)]
pub struct Pace {
    /// When the next would be, had all been [`INTERVAL`] apart.
    next: Instant,
}

impl Pace {
    /// None yet.
    pub const fn new(now: Instant) -> Self {
        Self { next: now }
    }

    /// When the next pass may be asked for; in the past when at once.
    pub fn due(&self) -> Instant {
        self.next.checked_sub(INTERVAL * (BURST - 1)).unwrap_or(self.next)
    }

    /// Takes note of one that is asked for.
    pub fn take(&mut self, now: Instant) {
        self.next = self.next.max(now) + INTERVAL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many passes are asked for in `milliseconds`, when there is a reason in each of them.
    fn passes(pace: &mut Pace, from: Instant, milliseconds: u64) -> usize {
        let asked = |ms: &u64| {
            let now = from + Duration::from_millis(*ms);
            let is_due = pace.due() <= now;
            if is_due {
                pace.take(now);
            }
            is_due
        };
        (0..milliseconds).filter(asked).count()
    }

    #[test]
    fn a_burst_is_let_through_and_a_flood_is_two_a_second() {
        let start = Instant::now() + Duration::from_secs(3600);
        let mut pace = Pace::new(start);
        assert_eq!(passes(&mut pace, start, 100), 20);
        let later = start + Duration::from_millis(100);
        assert_eq!(passes(&mut pace, later, 10_000), 20, "twice a second");
        let rested = later + Duration::from_secs(3600);
        assert_eq!(passes(&mut pace, rested, 100), 20, "after a rest as at first");
    }
}
