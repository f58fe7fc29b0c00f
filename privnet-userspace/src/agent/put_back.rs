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
    let (news, warnings) = told(written);
    news.iter().for_each(|line| tracing::info!("{line}"));
    warnings.iter().for_each(|line| tracing::warn!("{line}"));
}

/// What is told of what was written: once for all that was lost for the first time, and each that is lost again and again, with
/// the command that ends it.
fn told<'a>(written: impl Iterator<Item = (u32, &'a Repair)>) -> (Vec<String>, Vec<String>) {
    let (again, first): (Vec<_>, Vec<_>) = written.partition(|(times, _)| *times > 1);
    let (removed, put): (Vec<_>, Vec<_>) = first.into_iter().partition(|(_, repair)| repair.unit.is_removed());
    let line = |(what, repairs): (&str, Vec<(u32, &Repair)>)| {
        let what_each: Vec<String> = repairs.iter().map(|(_, repair)| repair.what.clone()).collect();
        (!what_each.is_empty()).then(|| format!("{what}: {}", named(&what_each)))
    };
    let news = [("put back what the store had lost", put), ("removed what had come back", removed)];
    let warning = |(times, repair): (u32, &Repair)| {
        let end = repair.end.as_ref().map_or_else(String::new, |end| format!("; {end}"));
        format!("{} was lost again, and is put back ({times} times by now), after growing pauses{end}", repair.what)
    };
    (news.into_iter().filter_map(line).collect(), again.into_iter().map(warning).collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::belief::Belief;
    use crate::agent::names::desired::tests::{APP, SHOP};
    use crate::store::{Event, Revision};

    #[test]
    fn what_is_lost_once_is_told_once_and_what_is_lost_again_with_the_command_that_ends_it() {
        let network = format!(
            r#"{{"version":1,"id":"{SHOP}","name":"shop","vni":7,"subnet":"10.240.0.0/22","mtu":1390,"created_unix_seconds":1}}"#
        );
        let member = format!(
            r#"{{"version":1,"serial":2,"id":"0000000000000007","network":"{SHOP}","app":"{APP}","type":"web","number":1,"address":"10.240.0.2","generation":0,"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","wireguard_port":51820,"host":"a","state":"ready"}}"#
        );
        let records = [(format!("networks/{SHOP}"), network), (format!("members/{SHOP}/1.web.{APP}"), member)];
        let (mut belief, now) = (Belief::new("a".parse().expect("a host")), Instant::now());
        let put = records.each_ref().map(|(key, text)| Event::Put {
            key: key.parse().expect("a key"),
            value: text.as_bytes().into(),
            revision: Revision(1),
        });
        belief.follow(&put, now);
        let lost = put.each_ref().map(|put| {
            let Event::Put { key, .. } = put else { unreachable!("all are puts") };
            Event::Delete { key: key.clone(), revision: Revision(2) }
        });
        belief.follow(&lost, now);
        let repairs = belief.repairs(now);
        assert_eq!(repairs.len(), 2, "{repairs:?}");

        let mut pauses = Pauses::default();
        let mut times = || -> Vec<u32> { repairs.iter().map(|repair| pauses.note(&repair.unit, now)).collect() };
        let web = format!("1.web.{APP} (10.240.0.2) in {SHOP}");
        let first = vec![format!("put back what the store had lost: network {SHOP}, {web}")];
        assert_eq!(told(times().into_iter().zip(&repairs)), (first, Vec::new()));
        let again = |what: &str, command: &str| {
            format!("{what} was lost again, and is put back (2 times by now), after growing pauses; {command}")
        };
        let delete = format!("`privnet network delete {SHOP} --force` ends it, with its members");
        let detach = format!("`privnet detach --network {SHOP} --app {APP} --type web --number 1` on host a ends it");
        let expected = vec![again(&format!("network {SHOP}"), &delete), again(&web, &detach)];
        assert_eq!(told(times().into_iter().zip(&repairs)), (Vec::new(), expected));
    }
}
