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
use crate::store::{CommitError, Store};

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
        pauses.forgive(now);
        let due: Vec<Repair> = repairs.into_iter().filter(|repair| pauses.may(&repair.unit, now)).collect();
        let written = put_back(&*memberships.store, &due).await;
        tell(written.into_iter().map(|repair| (pauses.note(&repair.unit, now), repair)));
    }
}

/// Writes in the order of the units: networks first, each kind together. Returns what was written, in this order.
async fn put_back<'a>(store: &dyn Store, due: &'a [Repair]) -> Vec<&'a Repair> {
    let mut all = Vec::new();
    for kind in due.chunk_by(|one, other| one.unit.is_of_kind(&other.unit)) {
        let commits = kind.iter().map(|repair| async move { is_written(store, repair).await.then_some(repair) });
        let commits: Vec<_> = commits.collect();
        let written: Vec<_> = futures::stream::iter(commits).buffered(CONCURRENCY).collect().await;
        all.extend(written.into_iter().flatten());
    }
    all
}

/// Whether all transactions of a repair were carried out: what is left of it is due again.
async fn is_written(store: &dyn Store, repair: &Repair) -> bool {
    for transaction in &repair.transactions {
        match store.commit(transaction.clone()).await {
            Ok(_) => {}
            // Another host was first, or more was changed meanwhile: the watch tells.
            Err(CommitError::Conflict { .. }) => return false,
            Err(error) => {
                tracing::debug!("cannot write {}: {error}", repair.what);
                return false;
            }
        }
    }
    true
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
    use crate::store::{Event, Key, Memory, Revision, keys};

    /// What host `a` has to put back of what it saw, all of which the store has lost.
    fn repairs_of(records: &[(String, String)]) -> Vec<Repair> {
        let (mut belief, now) = (Belief::new("a".parse().expect("a host")), Instant::now());
        let key = |text: &str| text.parse::<Key>().expect("a key");
        let put = |(at, text): &(String, String)| Event::Put {
            key: key(at),
            value: text.as_bytes().into(),
            revision: Revision(1),
        };
        let lost = |(at, _): &(String, String)| Event::Delete { key: key(at), revision: Revision(2) };
        belief.follow(&records.iter().map(put).collect::<Vec<_>>(), now);
        belief.follow(&records.iter().map(lost).collect::<Vec<_>>(), now);
        belief.repairs(now)
    }

    fn network() -> (String, String) {
        let network = format!(
            r#"{{"version":1,"id":"{SHOP}","name":"shop","vni":7,"subnet":"10.240.0.0/22","mtu":1390,"created_unix_seconds":1}}"#
        );
        (format!("networks/{SHOP}"), network)
    }

    /// A member of host `a`.
    fn member(number: u8) -> (String, String) {
        let member = format!(
            r#"{{"version":1,"serial":2,"id":"000000000000000{number}","network":"{SHOP}","app":"{APP}","type":"web","number":{number},"address":"10.240.0.{number}","generation":0,"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","wireguard_port":51820,"host":"a","state":"ready"}}"#
        );
        (format!("members/{SHOP}/{number}.web.{APP}"), member)
    }

    #[tokio::test]
    async fn a_network_is_put_back_first_then_the_host_and_the_members_and_what_is_there_already_is_passed_over() {
        let host =
            r#"{"version":1,"serial":3,"name":"a","vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":0}"#;
        let records = [member(2), member(3), ("hosts/a".to_owned(), host.to_owned()), network()];
        let (repairs, store) = (repairs_of(&records), Memory::new());
        assert_eq!(put_back(&store, &repairs).await.len(), records.len());
        let listing = store.list(&keys::everything()).await.expect("listed");
        let mut stored: Vec<_> = listing.entries.iter().map(|entry| (entry.revision, entry.key.as_str())).collect();
        stored.sort();
        let order: Vec<&str> = stored.into_iter().map(|(_, key)| key).collect();
        let [first, second, members @ ..] = &order[..] else { panic!("{order:?}") };
        assert_eq!((*first, *second), (&*records[3].0, "hosts/a"));
        assert_eq!(members.iter().filter(|key| key.starts_with("members/")).count(), 2, "{order:?}");
        // Another host has put back a part of it meanwhile.
        let store = Memory::new();
        put_back(&store, &repairs[..1]).await;
        let written: Vec<&str> = put_back(&store, &repairs).await.iter().map(|repair| &*repair.what).collect();
        assert!(written.len() == 3 && written[0] == "host a", "{written:?}");
    }

    #[test]
    fn what_is_lost_once_is_told_once_and_what_is_lost_again_with_the_command_that_ends_it() {
        let (repairs, now) = (repairs_of(&[network(), member(2)]), Instant::now());
        assert_eq!(repairs.len(), 2, "{repairs:?}");

        let mut pauses = Pauses::default();
        let mut times = || -> Vec<u32> { repairs.iter().map(|repair| pauses.note(&repair.unit, now)).collect() };
        let web = format!("2.web.{APP} (10.240.0.2) in {SHOP}");
        let first = vec![format!("put back what the store had lost: network {SHOP}, {web}")];
        assert_eq!(told(times().into_iter().zip(&repairs)), (first, Vec::new()));
        let again = |what: &str, command: &str| {
            format!("{what} was lost again, and is put back (2 times by now), after growing pauses; {command}")
        };
        let delete = format!("`privnet network delete {SHOP} --force` ends it, with its members");
        let detach = format!("`privnet detach --network {SHOP} --app {APP} --type web --number 2` on host a ends it");
        let expected = vec![again(&format!("network {SHOP}"), &delete), again(&web, &detach)];
        assert_eq!(told(times().into_iter().zip(&repairs)), (Vec::new(), expected));
    }
}
