//! Calls at a cluster that is away: they end in time, name it, and work again when it is back.

use super::*;
use crate::model::Explain as _;
use crate::store::{CommitError, Expected, StoreError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_at_a_cluster_that_does_not_answer_ends_in_time_and_says_so() {
    let (server, store) = served_with(impatient_etcd_at).await;
    put(&store, "a/1").await;
    server.pause();
    let error = store.commit(Transaction::new().put(key("a/2"), [0])).await.expect_err("nobody answers");
    let CommitError::Store(StoreError::Unanswered { detail }) = &error else { panic!("{error}") };
    assert_eq!(*detail, format!("{}: no answer within 4.0 s", server.url()));
    let error = store.get(&key("a/1")).await.expect_err("nobody answers").to_string();
    assert!(error.contains("no answer within ") || error.contains("timed out"), "{error}");
    server.resume();
    server.wait_until_ready(&store).await;
    // Whether it happened is unknown until somebody reads, and then it is known.
    let found = store.get(&key("a/2")).await.expect("read").map(|entry| entry.revision);
    assert!(found.is_none_or(|revision| revision == Revision(2)), "{found:?}");
    put(&store, "a/3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_calls_waits_for_a_restart_and_notices_nothing_else() {
    let (mut server, store) = served().await;
    put(&store, "a/1").await;
    server.kill();
    server.start_again();
    server.wait_until_ready(&store).await;
    assert_eq!(put(&store, "a/2").await, Revision(2));
    assert_eq!(store.list(&prefix("a/")).await.expect("listed").entries.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_away_is_left_for_the_next_one() {
    let server = Server::start();
    let mut gone = Server::start();
    gone.kill();
    let store = etcd_at(&[gone.url(), server.url()]);
    server.wait_until_ready(&store).await;
    for _ in 0..5 {
        let claim = Transaction::new().require(key("a/0"), Expected::Absent).put(key("a/1"), [0]);
        store.commit(claim).await.expect("a commit that was not sent may be sent elsewhere");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_never_there_is_named() {
    let mut server = Server::start();
    server.kill();
    let store = impatient_etcd_at(&[server.url()]);
    let error = store.check().await.expect_err("nobody is there");
    let message = error.message();
    assert!(message.contains(server.url()) && message.contains("refused"), "{message}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("see that")), "{:?}", error.remedy());
    for url in ["127.0.0.1:2379", "http://", "ftp://a", "https://a:2379"] {
        let error = Etcd::new(&EtcdOptions::new(vec![url.to_owned()])).expect_err(url).to_string();
        assert!(error.contains(url), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_goes_on_when_nobody_waits_for_it() {
    let (_server, store) = served().await;
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    let mut commit = Box::pin(store.commit(Transaction::new().put(key("a/1"), [0])));
    let _ = futures::poll!(commit.as_mut());
    drop(commit);
    assert_eq!(next(&mut watch).await, put_of("a/1", Revision(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_stands_still_while_the_cluster_is_away_and_then_expires() {
    let (mut server, store) = served().await;
    let lease = store.grant_lease(Duration::from_secs(5)).await.expect("granted");
    store.commit(Transaction::new().put_leased(key("a/1"), [0], lease)).await.expect("committed");
    server.kill();
    server.start_again();
    server.wait_until_ready(&store).await;
    store.keep_lease_alive(lease).await.expect("alive after the restart");
    let mut watch = store.watch(&prefix("a/"), Revision(1)).await.expect("watching");
    assert_eq!(next(&mut watch).await, Event::Delete { key: key("a/1"), revision: Revision(2) });
    let error = store.keep_lease_alive(lease).await.expect_err("expired");
    assert!(matches!(error, StoreError::LeaseNotFound(id) if id == lease), "{error}");
}
