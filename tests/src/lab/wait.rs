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
/// When it does not within [`SOON`].
#[track_caller]
pub fn wait_until(what: impl Display, condition: impl FnMut() -> bool) {
    wait_within(what, SOON, condition);
}

/// Waits until `condition` holds, where the time that it takes is a part of what is tested.
///
/// # Panics
/// When it does not within `bound`.
#[track_caller]
pub fn wait_within(what: impl Display, bound: Duration, mut condition: impl FnMut() -> bool) {
    if !holds_within(bound, &mut condition) {
        panic!("waited {bound:?} until {what}");
    }
}

/// Waits until `condition` holds and says whether it did within `bound`.
pub fn holds_within(bound: Duration, condition: impl FnMut() -> bool) -> bool {
    holds_every(STEP, bound, condition)
}

/// As [`holds_within`], for a condition that costs so much that it is tried at each `step` only.
pub fn holds_every(step: Duration, bound: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + bound;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(step);
    }
}

/// As [`wait_until`], for a condition that awaits.
///
/// # Panics
/// When it does not hold within [`SOON`].
pub async fn until(what: impl Display, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !condition().await {
        assert!(Instant::now() < end, "waited {SOON:?} until {what}");
        tokio::time::sleep(STEP).await;
    }
}

/// A runtime of two threads, as an agent has it.
///
/// # Panics
/// When the system gives no threads.
#[must_use]
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}
