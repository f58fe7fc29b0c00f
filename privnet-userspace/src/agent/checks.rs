//! What is checked without a request: that containers live, that what was built is still there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::follow::wake;
use super::membership;
use super::said::Said;
use super::shared::Memberships;
use super::turns::Turns;
use super::world::Concerns;

/// How often the namespaces of this host's members are looked at: a container that dies is noticed within this time.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Ends what addresses wait for, when its time is over. Never ends. A task of its own, for checks may wait for the store.
pub async fn expire_periodically(memberships: Arc<Memberships>) {
    let mut interval = tokio::time::interval(CHECK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let mut expired = memberships.world.expire_quarantine(super::now_unix_seconds());
        expired.extend(memberships.world.expire_left(Instant::now()));
        if !expired.is_empty() {
            wake(&memberships.names, &memberships.workers, &Concerns::Networks(expired));
        }
    }
}

/// Checks the members of this host again and again. Never ends.
pub async fn check_periodically(memberships: Arc<Memberships>, turns: Arc<Turns>) {
    let mut interval = tokio::time::interval(CHECK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let checks_per_observation =
        (memberships.host.config.observe_interval.as_millis() / CHECK_INTERVAL.as_millis()).max(1);
    let mut checks: u128 = 0;
    let mut said = Said::default();
    loop {
        interval.tick().await;
        turns.turned("checks", tokio::time::Instant::now());
        match membership::end_dead_and_settle(&memberships).await {
            Ok(()) => drop(said.is_over()),
            Err(error) if said.is_new(&format!("{error:#}")) => {
                tracing::warn!("cannot end the memberships of containers that are gone: {error:#}");
            }
            Err(_) => {}
        }
        checks += 1;
        if checks.is_multiple_of(checks_per_observation) {
            for handle in memberships.workers.all().values() {
                let _ = handle.wake_and_observe();
            }
        }
    }
}
