//! Runs that `cargo xtask test` makes short and `cargo xtask soak` makes long.
//!
//! A test asks before each round whether to go on, takes its random numbers from the seed, and tells its figures at the end.
//! The unit tests of `privnet-userspace` use this file too.

use std::time::{Duration, Instant};

/// How long a run of `cargo xtask soak` goes on, in seconds; not set in any other.
const SECONDS: &str = "PRIVNET_SOAK_SECONDS";
/// What the random numbers of a run come from; drawn by lot where it is not set.
const SEED: &str = "PRIVNET_SEED";

/// A run of many rounds.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    seed: u64,
    rounds: u64,
    /// In a short run: how many rounds may be left out after which time.
    hurry: Option<(Duration, u64)>,
    long: Option<Duration>,
    start: Instant,
}

impl Soak {
    /// A run that is so many rounds where it is short.
    #[must_use]
    pub fn of_rounds(rounds: u64) -> Self {
        let seed = from_environment(SEED).unwrap_or_else(rand::random);
        let long = from_environment(SECONDS).map(Duration::from_secs);
        Self { seed, rounds, hurry: None, long, start: Instant::now() }
    }

    /// A run that takes so long where it is short, however many rounds that makes.
    #[must_use]
    pub fn of_time(time: Duration) -> Self {
        Self::of_rounds(u64::MAX).or_after(time, 0)
    }

    /// Ends a short run after this time too, if so many rounds are done: an emulated machine takes long for each.
    #[must_use]
    pub fn or_after(self, time: Duration, rounds: u64) -> Self {
        Self { hurry: Some((time, rounds)), ..self }
    }

    /// What the random numbers come from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether there is another round after so many.
    #[must_use]
    pub fn goes_on(&self, done: u64) -> bool {
        let passed = self.start.elapsed();
        match self.long {
            Some(time) => passed < time,
            None => done < self.rounds && self.hurry.is_none_or(|(time, least)| done < least || passed < time),
        }
    }

    /// Its rounds, numbered from 0.
    pub fn rounds(self) -> impl Iterator<Item = u64> {
        (0..).take_while(move |done| self.goes_on(*done))
    }

    /// Prints how much was done of what.
    #[expect(clippy::print_stdout, reason = "the figures of a run are for the one who started it")]
    pub fn tell(&self, done: u64, what: &str) {
        let (test, took) = (std::thread::current().name().unwrap_or("a run").to_owned(), self.start.elapsed());
        let per_second = done as f64 / took.as_secs_f64();
        let seed = self.seed;
        println!("figure: {test}: {done} {what} in {took:.1?}, {per_second:.0} a second; its seed is {seed}");
    }
}

/// A number that a variable holds.
fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(rounds: u64) -> Soak {
        Soak { long: None, ..Soak::of_rounds(rounds) }
    }

    #[test]
    fn a_short_run_has_its_rounds_and_less_when_it_takes_long() {
        assert_eq!(short(7).rounds().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(short(7).or_after(Duration::ZERO, 3).rounds().count(), 3);
        assert_eq!(short(7).or_after(Duration::from_secs(600), 3).rounds().count(), 7);
    }

    #[test]
    fn a_long_run_goes_on_for_its_time() {
        let long = |time| Soak { long: Some(time), ..Soak::of_rounds(3) };
        assert!(long(Duration::from_secs(600)).goes_on(1_000_000));
        assert!(!long(Duration::ZERO).goes_on(0));
    }
}
