//! Waiting: for a named condition, with a bound; and the one wait for nothing.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long the tests wait to see that nothing comes.
pub const FOR_NOTHING: Duration = Duration::from_millis(300);
/// How long anything that should happen may take, on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

const STEP: Duration = Duration::from_millis(5);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within `bound`.
#[track_caller]
pub fn wait_until(what: impl Display, bound: Duration, mut condition: impl FnMut() -> bool) {
    if !holds_within(bound, &mut condition) {
        panic!("waited {bound:?} until {what}");
    }
}

/// Waits until `condition` holds and says whether it did within `bound`.
pub fn holds_within(bound: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + bound;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(STEP);
    }
}
