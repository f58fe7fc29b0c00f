//! The contract, as tests that every store has to pass.

mod histories;

use std::sync::Arc;
use std::time::Duration;

use super::embedded::Embedded;
use super::etcd::tests::{Server, etcd_at};
use super::transaction::MAX_OPERATIONS;
use super::{
    CommitError, Entry, Event, Expected, Key, Memory, Prefix, ResyncReason, Revision, Store, StoreError, Transaction,
    Watch,
};

/// A store under test, and what it needs to exist.
struct Lab {
    store: Arc<dyn Store>,
    _directory: Option<tempfile::TempDir>,
    _server: Option<Server>,
}

async fn memory() -> Lab {
    Lab { store: Arc::new(Memory::new()), _directory: None, _server: None }
}

async fn embedded() -> Lab {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(directory.path()).await.expect("opened");
    Lab { store: Arc::new(store), _directory: Some(directory), _server: None }
}

async fn etcd() -> Lab {
    let server = Server::start();
    let store = etcd_at(&[server.url()]);
    server.wait_until_ready(&store).await;
    Lab { store: Arc::new(store), _directory: None, _server: Some(server) }
}

macro_rules! cases {
    ($module:ident, $lab:ident, $($case:ident)*) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(super::$lab().await).await;
            })*
        }
    };
}

macro_rules! every_store {
    ($($case:ident)*) => {
        cases!(memory_store, memory, $($case)*);
        cases!(embedded_store, embedded, $($case)*);
        cases!(etcd_store, etcd, $($case)*);
    };
}

// How much a cluster remembers is its operator's choice; `etcd/tests/watches.rs` has what follows from it.
cases!(memory_of_one_host, memory, a_watch_that_is_too_far_behind_is_told_to_start_over);
cases!(embedded_of_one_host, embedded, a_watch_that_is_too_far_behind_is_told_to_start_over);

every_store! {
    a_new_store_is_empty_and_at_revision_zero
    a_key_is_read_back_with_the_revision_that_put_it
    a_transaction_happens_whole_or_not_at_all
    a_compare_holds_or_names_its_key
    a_transaction_that_changes_nothing_has_no_revision
    a_prefix_lists_what_is_below_it_in_order
    a_watch_from_a_listing_misses_nothing_and_repeats_nothing
    a_watch_tells_of_its_prefix_only
    a_watch_of_everything_delivers_each_transaction_whole
    a_slow_watch_gets_every_change_while_the_store_remembers_them
    a_watch_from_the_future_is_told_to_start_over
    a_closed_store_ends_its_watches
    a_lease_that_is_not_kept_alive_deletes_its_keys
    a_lease_that_is_kept_alive_keeps_its_keys
    a_revoked_lease_deletes_the_keys_still_attached_to_it
    an_unknown_lease_is_refused
    a_transaction_that_is_too_large_is_refused
    of_many_racing_compares_exactly_one_wins
}

async fn a_new_store_is_empty_and_at_revision_zero(lab: Lab) {
    let listing = lab.store.list(&prefix("a/")).await.expect("listed");
    assert_eq!((listing.entries, listing.revision), (vec![], Revision(0)));
    assert_eq!(lab.store.get(&key("a/1")).await.expect("read"), None);
}

async fn a_key_is_read_back_with_the_revision_that_put_it(lab: Lab) {
    for revision in 1..=3 {
        let put = Transaction::new().put(key("a/1"), [revision as u8]);
        assert_eq!(lab.store.commit(put).await.expect("committed"), Revision(revision));
        let entry = lab.store.get(&key("a/1")).await.expect("read").expect("present");
        let expected =
            Entry { key: key("a/1"), value: [revision as u8].into(), revision: Revision(revision), lease: None };
        assert_eq!(entry, expected);
    }
    lab.store.commit(Transaction::new().delete(key("a/1"))).await.expect("committed");
    assert_eq!(lab.store.get(&key("a/1")).await.expect("read"), None);
}

async fn a_transaction_happens_whole_or_not_at_all(lab: Lab) {
    put(&lab, "a/1").await;
    let change = |expected| {
        Transaction::new()
            .require(key("a/1"), Expected::Exists)
            .require(key("a/2"), expected)
            .put(key("a/3"), [3])
            .delete(key("a/1"))
    };
    let error = lab.store.commit(change(Expected::Exists)).await.expect_err("a/2 is absent");
    assert_eq!(error.to_string(), "a/2 was expected present and is absent");
    assert_eq!(keys(&lab, "a/").await, ["a/1"]);
    assert_eq!(lab.store.commit(change(Expected::Absent)).await.expect("committed"), Revision(2));
    assert_eq!(keys(&lab, "a/").await, ["a/3"]);
}

async fn a_compare_holds_or_names_its_key(lab: Lab) {
    put(&lab, "a/1").await;
    put(&lab, "a/1").await;
    let (one, two) = (Expected::Revision(Revision(1)), Expected::Revision(Revision(2)));
    for (name, expected, found, holds) in [
        ("a/1", Expected::Exists, Some(Revision(2)), true),
        ("a/1", two, Some(Revision(2)), true),
        ("a/1", one, Some(Revision(2)), false),
        ("a/1", Expected::Absent, Some(Revision(2)), false),
        ("a/2", Expected::Absent, None, true),
        ("a/2", Expected::Exists, None, false),
        ("a/2", two, None, false),
    ] {
        let result = lab.store.commit(Transaction::new().require(key(name), expected)).await;
        if holds {
            assert_eq!(result.expect("holds"), Revision(2), "{name} {expected}");
        } else {
            let CommitError::Conflict { key: failed, expected: wanted, found: was } = result.expect_err("fails") else {
                panic!("{name} {expected}: another error");
            };
            assert_eq!((failed, wanted, was), (key(name), expected, found));
        }
    }
}

async fn a_transaction_that_changes_nothing_has_no_revision(lab: Lab) {
    put(&lab, "a/1").await;
    let nothing = Transaction::new().delete(key("a/2"));
    assert_eq!(lab.store.commit(nothing).await.expect("committed"), Revision(1));
    assert_eq!(lab.store.commit(Transaction::new()).await.expect("committed"), Revision(1));
    // The same value again is a change all the same: somebody put it.
    assert_eq!(put(&lab, "a/1").await, Revision(2));
}

async fn a_prefix_lists_what_is_below_it_in_order(lab: Lab) {
    for name in ["a/2", "a/10", "a/1", "a/1/x", "ab/1", "b/1", "a"] {
        put(&lab, name).await;
    }
    assert_eq!(keys(&lab, "a/").await, ["a/1", "a/1/x", "a/10", "a/2"]);
    assert_eq!(keys(&lab, "a/1/").await, ["a/1/x"]);
    assert_eq!(keys(&lab, "c/").await, [""; 0]);
    assert_eq!(lab.store.list(&prefix("c/")).await.expect("listed").revision, Revision(7));
}

async fn a_watch_from_a_listing_misses_nothing_and_repeats_nothing(lab: Lab) {
    put(&lab, "a/1").await;
    let listing = lab.store.list(&prefix("a/")).await.expect("listed");
    let change = Transaction::new().put(key("a/3"), [3]).delete(key("a/1")).put(key("a/2"), [2]);
    lab.store.commit(change).await.expect("committed");
    let mut watch = lab.store.watch(&prefix("a/"), listing.revision).await.expect("watching");
    put(&lab, "a/4").await;
    let revision = Revision(2);
    assert_eq!(next(&mut watch).await, Event::Put { key: key("a/2"), value: [2].into(), revision });
    assert_eq!(next(&mut watch).await, Event::Put { key: key("a/3"), value: [3].into(), revision });
    assert_eq!(next(&mut watch).await, Event::Delete { key: key("a/1"), revision });
    assert_eq!(next(&mut watch).await, Event::Put { key: key("a/4"), value: [0].into(), revision: Revision(3) });
    // And nothing more, until there is more.
    let waiting = tokio::spawn(async move { next(&mut watch).await });
    put(&lab, "a/5").await;
    let expected = Event::Put { key: key("a/5"), value: [0].into(), revision: Revision(4) };
    assert_eq!(waiting.await.expect("joined"), expected);
}

async fn a_watch_tells_of_its_prefix_only(lab: Lab) {
    let mut watch = lab.store.watch(&prefix("a/1/"), Revision(0)).await.expect("watching");
    for name in ["a/1", "a/10/x", "b/1", "a/1/x"] {
        put(&lab, name).await;
    }
    assert_eq!(next(&mut watch).await, Event::Put { key: key("a/1/x"), value: [0].into(), revision: Revision(4) });
}

async fn a_watch_of_everything_delivers_each_transaction_whole(lab: Lab) {
    put(&lab, "a/1").await;
    let everything = Prefix::all();
    let mut watch = lab.store.watch(&everything, Revision(0)).await.expect("watching");
    let mut of_one = lab.store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    let moved = Transaction::new().put(key("b/1"), [1]).put(key("c"), [2]).delete(key("a/1"));
    lab.store.commit(moved).await.expect("committed");
    let many =
        (0..MAX_OPERATIONS).fold(Transaction::new(), |change, at| change.put(key(&format!("d/{at}")), vec![0; 4000]));
    lab.store.commit(many).await.expect("committed");
    let (one, two) = (Revision(1), Revision(2));
    let first = Event::Put { key: key("a/1"), value: [0].into(), revision: one };
    let second = [
        Event::Put { key: key("b/1"), value: [1].into(), revision: two },
        Event::Put { key: key("c"), value: [2].into(), revision: two },
        Event::Delete { key: key("a/1"), revision: two },
    ];
    // One event, and what is left of its transaction.
    assert_eq!((next(&mut watch).await, watch.next_transaction().await), (first.clone(), Some(second.to_vec())));
    assert_eq!(watch.next_transaction().await.map(|changes| changes.len()), Some(MAX_OPERATIONS));
    assert_eq!(of_one.next_transaction().await, Some(vec![first]));
    assert_eq!(of_one.next_transaction().await, Some(second[2..].to_vec()));
    let listing = lab.store.list(&everything).await.expect("listed");
    assert_eq!((listing.entries.len(), listing.revision), (MAX_OPERATIONS + 2, Revision(3)));
    // What a watch could not read in time is told by a transaction of its own.
    let mut late = lab.store.watch(&everything, Revision(9)).await.expect("watching");
    assert_eq!(late.next_transaction().await, Some(vec![Event::Resync(ResyncReason::UnknownRevision)]));
    assert_eq!(late.next_transaction().await, None);
}

async fn a_slow_watch_gets_every_change_while_the_store_remembers_them(lab: Lab) {
    let mut watch = lab.store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    put(&lab, "a/first").await;
    assert!(matches!(next(&mut watch).await, Event::Put { revision: Revision(1), .. }));
    put_many(&lab, "a", 20).await;
    let mut events = Vec::new();
    while events.len() < 2000 {
        events.push(next(&mut watch).await);
    }
    for (index, event) in events.iter().enumerate() {
        let expected = Revision(2 + index as u64 / 100);
        assert!(matches!(event, Event::Put { revision, .. } if *revision == expected), "{index}: {event:?}");
    }
}

async fn a_watch_that_is_too_far_behind_is_told_to_start_over(lab: Lab) {
    let mut slow = lab.store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    let mut elsewhere = lab.store.watch(&prefix("b/"), Revision(0)).await.expect("watching");
    let end = put_many(&lab, "a", 90).await;
    for watch in [&mut slow, &mut elsewhere] {
        assert_eq!(next(watch).await, Event::Resync(ResyncReason::Compacted));
        assert_eq!(watch.next().await, None);
    }
    let mut late = lab.store.watch(&prefix("a/"), Revision(1)).await.expect("watching");
    assert_eq!(next(&mut late).await, Event::Resync(ResyncReason::Compacted));
    let mut recent = lab.store.watch(&prefix("a/"), Revision(end.0 - 1)).await.expect("watching");
    assert!(matches!(next(&mut recent).await, Event::Put { revision, .. } if revision == end));
}

async fn a_watch_from_the_future_is_told_to_start_over(lab: Lab) {
    put(&lab, "a/1").await;
    let mut watch = lab.store.watch(&prefix("a/"), Revision(2)).await.expect("watching");
    assert_eq!(next(&mut watch).await, Event::Resync(ResyncReason::UnknownRevision));
    assert_eq!(watch.next().await, None);
}

async fn a_closed_store_ends_its_watches(lab: Lab) {
    let mut watch = lab.store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    put(&lab, "a/1").await;
    // Before the end: what a cluster was still sending then is lost, and told so.
    assert!(matches!(next(&mut watch).await, Event::Put { .. }));
    let waiting = tokio::spawn(async move { (next(&mut watch).await, watch.next().await) });
    drop(lab);
    assert_eq!(waiting.await.expect("joined"), (Event::Resync(ResyncReason::Closed), None));
}

async fn a_lease_that_is_not_kept_alive_deletes_its_keys(lab: Lab) {
    let lease = lab.store.grant_lease(Duration::from_secs(5)).await.expect("granted");
    let attach =
        Transaction::new().put_leased(key("a/1"), [1], lease).put_leased(key("a/2"), [2], lease).put(key("a/3"), []);
    let revision = lab.store.commit(attach).await.expect("committed");
    assert_eq!(lab.store.get(&key("a/1")).await.expect("read").expect("present").lease, Some(lease));
    let mut watch = lab.store.watch(&prefix("a/"), revision).await.expect("watching");
    let end = Revision(2);
    assert_eq!(next(&mut watch).await, Event::Delete { key: key("a/1"), revision: end });
    assert_eq!(next(&mut watch).await, Event::Delete { key: key("a/2"), revision: end });
    assert_eq!(keys(&lab, "a/").await, ["a/3"]);
    let error = lab.store.keep_lease_alive(lease).await.expect_err("expired");
    assert!(matches!(error, StoreError::LeaseNotFound(id) if id == lease), "{error}");
}

async fn a_lease_that_is_kept_alive_keeps_its_keys(lab: Lab) {
    let [kept, short] = [(); 2].map(|()| lab.store.grant_lease(Duration::from_secs(5)));
    let (kept, short) = (kept.await.expect("granted"), short.await.expect("granted"));
    lab.store.commit(Transaction::new().put_leased(key("a/kept"), [1], kept)).await.expect("committed");
    lab.store.commit(Transaction::new().put_leased(key("b/1"), [1], short)).await.expect("committed");
    let mut watch = lab.store.watch(&prefix("b/"), Revision(2)).await.expect("watching");
    let mut beats = 0;
    // Until the one that nobody keeps alive has ended.
    let ended = loop {
        lab.store.keep_lease_alive(kept).await.expect("alive");
        beats += 1;
        if let Ok(event) = tokio::time::timeout(Duration::from_millis(100), next(&mut watch)).await {
            break event;
        }
    };
    assert!(beats > 1 && matches!(ended, Event::Delete { .. }), "{beats}: {ended:?}");
    assert_eq!(keys(&lab, "a/").await, ["a/kept"]);
}

async fn a_revoked_lease_deletes_the_keys_still_attached_to_it(lab: Lab) {
    let lease = lab.store.grant_lease(Duration::from_secs(60)).await.expect("granted");
    for name in ["a/1", "a/2", "a/3"] {
        lab.store.commit(Transaction::new().put_leased(key(name), [1], lease)).await.expect("committed");
    }
    put(&lab, "a/2").await;
    lab.store.revoke_lease(lease).await.expect("revoked");
    assert_eq!(keys(&lab, "a/").await, ["a/2"]);
    lab.store.revoke_lease(lease).await.expect("revoked before");
    assert!(lab.store.keep_lease_alive(lease).await.is_err());
}

async fn an_unknown_lease_is_refused(lab: Lab) {
    let lease = super::LeaseId(77);
    let error = lab.store.commit(Transaction::new().put_leased(key("a/1"), [1], lease)).await.expect_err("unknown");
    assert!(matches!(error, CommitError::Store(StoreError::LeaseNotFound(id)) if id == lease), "{error}");
    assert_eq!(keys(&lab, "a/").await, [""; 0]);
}

async fn a_transaction_that_is_too_large_is_refused(lab: Lab) {
    let of = |count: usize| {
        (0..count).fold(Transaction::new(), |transaction, index| transaction.put(key(&format!("a/{index}")), []))
    };
    let error = lab.store.commit(of(MAX_OPERATIONS + 1)).await.expect_err("too many");
    assert!(matches!(error, CommitError::TooLarge { operations: 129, .. }), "{error}");
    lab.store.commit(of(MAX_OPERATIONS)).await.expect("just enough");
    let error = lab.store.commit(Transaction::new().put(key("a/1"), vec![0; 1 << 20])).await.expect_err("too large");
    assert!(matches!(error, CommitError::TooLarge { operations: 1, .. }), "{error}");
    lab.store.commit(Transaction::new().put(key("a/1"), vec![0; (1 << 20) - 3])).await.expect("just enough");
}

async fn of_many_racing_compares_exactly_one_wins(lab: Lab) {
    for round in 0..50 {
        let race = |racer: u8| {
            let store = lab.store.clone();
            let claim = Transaction::new()
                .require(key(&format!("a/{round}")), Expected::Absent)
                .put(key(&format!("a/{round}")), [racer]);
            tokio::spawn(async move { store.commit(claim).await.is_ok() })
        };
        let mut won = Vec::new();
        let racers: Vec<_> = (0..8).map(race).collect();
        for (racer, task) in racers.into_iter().enumerate() {
            if task.await.expect("joined") {
                won.push(racer as u8);
            }
        }
        let entry = lab.store.get(&key(&format!("a/{round}"))).await.expect("read").expect("somebody won");
        assert_eq!(won, &*entry.value, "round {round}");
    }
}

async fn put(lab: &Lab, name: &str) -> Revision {
    lab.store.commit(Transaction::new().put(key(name), [0])).await.expect("committed")
}

/// Commits `count` transactions of 100 puts each.
async fn put_many(lab: &Lab, below: &str, count: u32) -> Revision {
    let mut last = Revision(0);
    for _ in 0..count {
        let names = (0..100).map(|index| key(&format!("{below}/{index}")));
        let puts = names.fold(Transaction::new(), |transaction, name| transaction.put(name, []));
        last = lab.store.commit(puts).await.expect("committed");
    }
    last
}

async fn keys(lab: &Lab, below: &str) -> Vec<String> {
    let listing = lab.store.list(&prefix(below)).await.expect("listed");
    listing.entries.iter().map(|entry| entry.key.to_string()).collect()
}

async fn next(watch: &mut Watch) -> Event {
    let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
    event.expect("an event within 20 seconds").expect("an event before the end")
}

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}
