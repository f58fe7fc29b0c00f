//! Pauses between attempts at what the store did not answer.

use std::time::Duration;

/// The first pause and the longest. A store that is back is found within the longest one: an attempt at one that is away
/// costs it nothing, and one that is back begins with a small question.
const LIMITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// Pauses that grow, and of random length, so that the hosts of a cluster that comes back do not come all at once.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Pauses that begin with the shortest.
    pub const fn new() -> Self {
        Self { next: LIMITS.0 }
    }

    /// The pause before the next attempt.
    pub fn next(&mut self) -> Duration {
        let pause = self.next.mul_f32(rand::Rng::random_range(&mut rand::rng(), 0.5..1.0));
        self.next = (self.next * 2).min(LIMITS.1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_are_never_more() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(pauses[0] <= LIMITS.0 && pauses[0] >= LIMITS.0 / 2, "{:?}", pauses[0]);
        assert!(pauses[10..].iter().all(|pause| *pause <= LIMITS.1 && *pause >= LIMITS.1 / 2), "{pauses:?}");
    }
}
