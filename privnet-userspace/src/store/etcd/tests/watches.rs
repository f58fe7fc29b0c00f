//! Watches at a cluster that restarts, pauses and forgets: every change comes once, or the watch says that it cannot.

use super::super::cluster::Repeat;
use super::super::encode::etcd_revision;
use super::super::protocol::{CompactionRequest, Done, path};
use super::*;
use crate::store::ResyncReason;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_a_restart_and_misses_nothing() {
    let (mut server, store) = served().await;
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    let before = put(&store, "a/1").await;
    assert_eq!(next(&mut watch).await, put_of("a/1", before));
    server.kill();
    server.start_again();
    server.wait_until_ready(&store).await;
    // The watch may not be back yet.
    let after = put(&store, "a/2").await;
    assert_eq!(next(&mut watch).await, put_of("a/2", after));
    let later = put(&store, "a/3").await;
    assert_eq!(next(&mut watch).await, put_of("a/3", later));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_at_a_cluster_that_stays_away_says_so() {
    let (mut server, store) = served_with(impatient_etcd_at).await;
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    server.kill();
    assert_eq!(next(&mut watch).await, Event::Resync(ResyncReason::Closed));
    assert_eq!(watch.next().await, None);
    let error = store.watch(&prefix("a/"), Revision(0)).await.expect_err("nobody is there").to_string();
    assert!(error.contains(server.url()) && error.contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_at_a_cluster_that_says_nothing_does_not_wait_for_ever() {
    let (server, store) = served_with(impatient_etcd_at).await;
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    server.pause();
    assert_eq!(next(&mut watch).await, Event::Resync(ResyncReason::Closed));
    server.resume();
    server.wait_until_ready(&store).await;
    let revision = put(&store, "a/1").await;
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching again");
    assert_eq!(next(&mut watch).await, put_of("a/1", revision));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_with_nothing_to_tell_is_not_taken_for_a_dead_one() {
    let (_server, store) = served().await;
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    // Far longer than it may hear nothing, and than etcd lets itself be asked for a sign of life too often.
    assert!(tokio::time::timeout(Duration::from_secs(10), watch.next()).await.is_err());
    let revision = put(&store, "a/1").await;
    assert_eq!(next(&mut watch).await, put_of("a/1", revision));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_compacted_is_a_resync_and_the_rest_is_delivered() {
    let (_server, store) = served().await;
    for _ in 0..3 {
        put(&store, "a/1").await;
    }
    compact(&store, Revision(3)).await;
    let mut late = store.watch(&prefix("a/"), Revision(1)).await.expect("watching");
    assert_eq!(next(&mut late).await, Event::Resync(ResyncReason::Compacted));
    assert_eq!(late.next().await, None);
    let mut recent = store.watch(&prefix("a/"), Revision(2)).await.expect("watching");
    assert_eq!(next(&mut recent).await, put_of("a/1", Revision(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_compacted_while_a_watch_is_away_is_a_resync() {
    let (mut server, store) = served().await;
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    let revision = put(&store, "a/1").await;
    assert_eq!(next(&mut watch).await, put_of("a/1", revision));
    // Where the watch does not find it, somebody writes and compacts.
    let home = server.move_away();
    let elsewhere = etcd_at(&[server.url()]);
    server.wait_until_ready(&elsewhere).await;
    put(&elsewhere, "a/1").await;
    let last = put(&elsewhere, "a/1").await;
    compact(&elsewhere, last).await;
    server.move_to(home);
    assert_eq!(next(&mut watch).await, Event::Resync(ResyncReason::Compacted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_in_the_same_place_is_a_resync() {
    let (mut server, store) = served().await;
    put(&store, "a/1").await;
    let mut watch = store.watch(&prefix("a/"), Revision(1)).await.expect("watching");
    server.lose_everything();
    server.wait_until_ready(&store).await;
    // It has come further than the old one ever was: only its identity differs.
    for _ in 0..5 {
        put(&store, "a/2").await;
    }
    assert_eq!(next(&mut watch).await, Event::Resync(ResyncReason::UnknownRevision));
}

/// The revisions go on from the copy, and past those that the watch has seen: only what is in them differs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_same_cluster_that_has_come_further_is_a_resync() {
    for (is_restored, last) in [(true, Some(true)), (true, Some(false)), (true, None), (false, Some(true))] {
        let (mut server, store) = served().await;
        put(&store, "b/1").await;
        let copy = server.back_up();
        server.wait_until_ready(&store).await;
        // What the watch sees last: a put, a deletion, or nothing but what was there when it began.
        let mut after = put(&store, "a/1").await;
        let mut watch = if last.is_some() {
            let mut watch = store.watch(&prefix("a/"), Revision(1)).await.expect("watching");
            assert_eq!(next(&mut watch).await, put_of("a/1", after));
            if last == Some(false) {
                after = store.commit(Transaction::new().delete(key("a/1"))).await.expect("deleted");
                assert_eq!(next(&mut watch).await, Event::Delete { key: key("a/1"), revision: after });
            }
            watch
        } else {
            store.watch(&prefix("a/"), after).await.expect("watching")
        };
        let home = server.move_away();
        if is_restored {
            server.restore(&copy);
            server.start_again();
        }
        let elsewhere = etcd_at(&[server.url()]);
        server.wait_until_ready(&elsewhere).await;
        let mut written = after;
        while written <= Revision(after.0 + 2) {
            written = put(&elsewhere, "a/2").await;
        }
        server.move_to(home);
        let first = next(&mut watch).await;
        if is_restored {
            assert_eq!(first, Event::Resync(ResyncReason::UnknownRevision), "{last:?}");
        } else {
            assert_eq!(first, put_of("a/2", Revision(after.0 + 1)), "the twin");
        }
    }
}

async fn compact(store: &Etcd, at: Revision) {
    let request = CompactionRequest { revision: etcd_revision(at) };
    let answer: Result<Done, _> = store.cluster.call(path::COMPACT, request, Repeat::Freely).await;
    answer.expect("compacted");
}
