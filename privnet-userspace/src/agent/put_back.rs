//! Puts back what the store has lost: what is this host's own at once, what is another's when that one is away.
//!
//! A record is put back byte for byte, on the condition that the store still has what was seen to be there, so two hosts
//! that put back the same record do it once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;

use super::belief::{Pauses, Repair};
use super::follow::wake;
use super::shared::Memberships;
use super::store_problems::{StoreProblem, StoreProblems};
use crate::store::CommitError;

/// How often is looked for what is lost.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long something is lost before it is a problem: most of it is put back by then.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many transactions are under way at once.
const CONCURRENCY: usize = 16;
/// How many records a line of the log names.
const NAMED: usize = 10;

/// Puts back what is lost, and names what stays lost. Never ends.
pub async fn put_back_periodically(memberships: Arc<Memberships>, problems: Arc<StoreProblems>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut pauses = Pauses::default();
    loop {
        interval.tick().await;
        let now = Instant::now();
        let concerns = memberships.world.expire_presences(now);
        wake(&memberships.names, &memberships.workers, &concerns);
        let (repairs, lost) = memberships.world.belief(|belief| (belief.repairs(now), belief.lost_for(PATIENCE, now)));
        let kept_off = memberships.world.belief(|belief| belief.kept_off().cloned().collect::<Vec<_>>().join("; "));
        problems.set(StoreProblem::Contested, (!kept_off.is_empty()).then_some(kept_off));
        problems.set(StoreProblem::Lost, (!lost.is_empty()).then(|| lost_text(&lost)));
        put_back(&memberships, repairs, &mut pauses, now).await;
    }
}

/// Writes in the order of the units: networks first, each kind together.
async fn put_back(memberships: &Memberships, repairs: Vec<Repair>, pauses: &mut Pauses, now: Instant) {
    pauses.forgive(now);
    let due: Vec<Repair> = repairs.into_iter().filter(|repair| pauses.may(&repair.unit, now)).collect();
    for kind in due.chunk_by(|one, other| one.unit.is_of_kind(&other.unit)) {
        let commits = kind.iter().map(|repair| async move {
            for transaction in &repair.transactions {
                match memberships.store.commit(transaction.clone()).await {
                    Ok(_) => {}
                    // Another host was first, or more was changed meanwhile: the watch tells.
                    Err(CommitError::Conflict { .. }) => return None,
                    Err(error) => {
                        tracing::debug!("cannot write {}: {error}", repair.what);
                        return None;
                    }
                }
            }
            Some(repair)
        });
        let commits: Vec<_> = commits.collect();
        let written: Vec<_> = futures::stream::iter(commits).buffer_unordered(CONCURRENCY).collect().await;
        tell(written.into_iter().flatten().map(|repair| (pauses.note(&repair.unit, now), repair)));
    }
}

fn tell<'a>(written: impl Iterator<Item = (u32, &'a Repair)>) {
    let (again, first): (Vec<_>, Vec<_>) = written.partition(|(times, _)| *times > 1);
    if !first.is_empty() {
        let (removed, put): (Vec<_>, Vec<_>) = first.into_iter().partition(|(_, repair)| repair.unit.is_removed());
        for (what, repairs) in [("put back what the store had lost", put), ("removed what had come back", removed)] {
            if !repairs.is_empty() {
                let what_each: Vec<String> = repairs.iter().map(|(_, repair)| repair.what.clone()).collect();
                tracing::info!("{what}: {}", named(&what_each));
            }
        }
    }
    for (times, repair) in again {
        let end = repair.end.as_ref().map_or_else(String::new, |end| format!("; {end}"));
        tracing::warn!(
            "{} was lost again, and is put back for the {times}th time, after growing pauses{end}",
            repair.what
        );
    }
}

fn lost_text(lost: &[String]) -> String {
    format!(
        "it has lost records, and the members go on as they were seen: {} (put back by their hosts; where these are away, by \
         any other one; if this stays, look at the log of the agents)",
        named(lost)
    )
}

/// The first of them, and how many more there are.
fn named(what: &[String]) -> String {
    let mut text = what.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if what.len() > NAMED {
        text.push_str(&format!(" and {} more", what.len() - NAMED));
    }
    text
}
