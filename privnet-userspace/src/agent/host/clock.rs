//! This host's clock: when it steps back, the others are told.
//!
//! WireGuard dates its handshakes by the clock, and a responder takes none that is dated before the last one that it took.
//! So what a host begins after its clock stepped back is refused until the clock has caught up, silently, unless the
//! responders make its members' peers anew. They do when the step is counted in the host's record in the store.
//!
//! The time since the boot never steps; how far the clock is ahead of it changes only by a step. It is kept in the state
//! directory, so that a step while no agent runs is noticed too. A reboot is none: no member and no key outlives it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::facts::Host;
use super::journal::replace;
use crate::agent::backoff::Backoff;
use crate::store::records::{HostRecord, Stored};
use crate::store::{Expected, Store, Transaction, keys, records};

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A step back that is no longer is let pass, a leap second among them: WireGuard begins again after 5 s.
const TOLERATED_MILLIS: i64 = 1000;
/// A change that is smaller is none: the two clocks are not read at once.
const NOISE_MILLIS: i64 = 100;
/// The file in the state directory.
const FILE: &str = "clock.json";

/// How far the clock was ahead of the time since the boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reading {
    boot_id: String,
    ahead_millis: i64,
}

/// What became of the clock since a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// It went on, or back by less than matters: the older reading is the one to compare with.
    On,
    /// There is nothing to compare with, or it stepped ahead: from now on this is what it must not fall behind.
    Anew,
    /// It stepped back.
    Back(Duration),
}

/// Looks at the clock again and again, and tells the store when it stepped back. Never ends.
pub async fn watch_clock(host: Arc<Host>, store: Arc<dyn Store>) {
    let path = host.config.state_dir.join(FILE);
    let mut known = read(&path);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let now = look(&host.facts.boot_id);
        match course(known.as_ref(), &now) {
            Course::On => continue,
            Course::Anew => {}
            Course::Back(by) => {
                let seconds = by.as_secs_f64();
                tracing::warn!(
                    "the clock of this host stepped back by {seconds:.1} s; peers of its members are created anew"
                );
                tell_until_told(&host, &*store).await;
            }
        }
        // Only now: an agent that dies before tells it again, and the others do once more what harms little.
        if let Err(error) = keep(&path, &now) {
            tracing::warn!(
                "cannot save the reading of the clock, and a step back may be missed or counted twice: {error:#}"
            );
        }
        known = Some(now);
    }
}

/// Compares two readings.
fn course(known: Option<&Reading>, now: &Reading) -> Course {
    let Some(known) = known.filter(|known| known.boot_id == now.boot_id) else { return Course::Anew };
    let gained = now.ahead_millis.saturating_sub(known.ahead_millis);
    if gained < -TOLERATED_MILLIS {
        Course::Back(Duration::from_millis(gained.unsigned_abs()))
    } else if gained > NOISE_MILLIS {
        Course::Anew
    } else {
        Course::On
    }
}

fn look(boot_id: &str) -> Reading {
    let millis = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
    };
    loop {
        let before = millis(ClockId::Boottime);
        let clock = millis(ClockId::Realtime);
        // Stopped in between, the clock would seem to be ahead, and then to step back.
        if millis(ClockId::Boottime) - before < NOISE_MILLIS / 2 {
            return Reading { boot_id: boot_id.to_owned(), ahead_millis: clock.saturating_sub(before) };
        }
    }
}

/// What was kept; one that cannot be read is as good as none.
fn read(path: &Path) -> Option<Reading> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn keep(path: &Path, reading: &Reading) -> Result<()> {
    replace(path, &serde_json::to_vec(reading).context("writing the clock's reading as JSON")?)
}

async fn tell_until_told(host: &Host, store: &dyn Store) {
    let mut backoff = Backoff::new();
    while let Err(error) = tell(host, store).await {
        tracing::warn!(
            "cannot record that this host's clock stepped back, and new sessions of its members may fail: {error:#}"
        );
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Counts one step more in this host's record.
async fn tell(host: &Host, store: &dyn Store) -> Result<()> {
    let key = keys::host(&host.config.host);
    let entry = store.get(&key).await?.context("the store does not know this host")?;
    let Stored { mut record, envelope, revision } = records::read::<HostRecord>(&entry)?;
    record.clock_steps = record.clock_steps.saturating_add(1);
    let record = records::encode(&record, &envelope.next());
    let transaction = Transaction::new().require(key.clone(), Expected::Revision(revision)).put(key, record);
    store.commit(transaction).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(boot_id: &str, ahead_millis: i64) -> Reading {
        Reading { boot_id: boot_id.to_owned(), ahead_millis }
    }

    #[test]
    fn only_a_step_back_within_a_boot_is_one() {
        let known = reading("one", 5_000_000);
        for (now, expected) in [
            (reading("one", 5_000_000), Course::On),
            (reading("one", 5_000_080), Course::On),
            (reading("one", 4_999_000), Course::On),
            (reading("one", 4_998_999), Course::Back(Duration::from_millis(1001))),
            (reading("one", 1_400_000), Course::Back(Duration::from_secs(3600))),
            (reading("one", -7), Course::Back(Duration::from_millis(5_000_007))),
            (reading("one", i64::MIN), Course::Back(Duration::from_millis(i64::MIN.unsigned_abs()))),
            (reading("one", 5_000_101), Course::Anew),
            (reading("one", 8_600_000), Course::Anew),
            (reading("two", 0), Course::Anew),
        ] {
            assert_eq!(course(Some(&known), &now), expected, "{now:?}");
            assert_eq!(course(None, &now), Course::Anew);
        }
    }

    #[test]
    fn steps_that_are_small_each_add_up() {
        let known = reading("one", 5000);
        assert_eq!(course(Some(&known), &reading("one", 4400)), Course::On);
        // Compared with the same reading again, for `On` keeps it.
        assert_eq!(course(Some(&known), &reading("one", 3800)), Course::Back(Duration::from_millis(1200)));
    }

    #[test]
    fn a_reading_is_kept_and_two_looks_agree() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE);
        assert_eq!(read(&path), None);
        let now = look("one");
        keep(&path, &now).expect("kept");
        assert_eq!(read(&path), Some(now));
        assert_eq!(course(read(&path).as_ref(), &look("one")), Course::On, "nobody set this machine's clock");
        fs::write(&path, "half of").expect("written");
        assert_eq!(read(&path), None);
    }
}
