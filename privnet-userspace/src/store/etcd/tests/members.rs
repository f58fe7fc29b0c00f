//! A cluster of three: one may die, be stopped or lose the others, whichever it is, and the store goes on.

use super::*;
use crate::model::Explain as _;
use crate::store::{CommitError, Expected, ResyncReason};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_member_dies_nothing_is_missed_and_nothing_happens_twice() {
    let mut servers: [Server; 3] = Server::start_cluster();
    let urls: Vec<String> = servers.iter().map(|server| server.url().to_owned()).collect();
    let store = etcd_at(&urls.iter().map(String::as_str).collect::<Vec<_>>());
    servers[0].wait_until_ready(&store).await;
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    let mut number = 0;
    // Among them is the leader, and the one that the watch is at.
    for victim in 0..3 {
        for step in ["before", "while it is away", "after"] {
            match step {
                "while it is away" => servers[victim].kill(),
                "after" => servers[victim].start_again(),
                _ => {}
            }
            for _ in 0..5 {
                put_whatever_happens(&store, &format!("a/{number}")).await;
                assert_eq!(next_key(&mut watch).await, format!("a/{number}"), "{step}");
                number += 1;
            }
        }
        // It must have caught up before the next one may die.
        servers[victim].wait_until_ready(&etcd_at(&[&urls[victim]])).await;
    }
    assert_eq!(store.list(&prefix("a/")).await.expect("listed").entries.len(), number);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_stopped_is_left_by_its_watches() {
    let servers: [Server; 3] = Server::start_cluster();
    let urls: Vec<&str> = servers.iter().map(Server::url).collect();
    let store = etcd_at(&urls);
    servers[0].wait_until_ready(&store).await;
    put_whatever_happens(&store, "a/0").await;
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    assert_eq!(next_key(&mut watch).await, "a/0");
    // The store asked the first one that answered, and the watch is there.
    for (number, server) in (1..).zip(&servers) {
        server.pause();
        let name = format!("a/{number}");
        put_whatever_happens(&store, &name).await;
        assert_eq!(next_key(&mut watch).await, name);
        server.resume();
        server.wait_until_ready(&etcd_at(&[server.url()])).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_the_others_does_not_keep_a_watch_in_the_dark() {
    let mut servers: [Server; 3] = Server::start_cluster();
    // Only the one that will be left alone is asked.
    let store = impatient_etcd_at(&[servers[0].url()]);
    servers[0].wait_until_ready(&store).await;
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    servers[1].kill();
    servers[2].kill();
    assert_eq!(next(&mut watch).await, Event::Resync(ResyncReason::Closed));
    let error = store.get(&key("a/0")).await.expect_err("it alone is no majority");
    assert!(error.message().contains(servers[0].url()), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("majority")), "{:?}", error.remedy());
}

/// Puts a key that is absent, once: where the outcome is unknown it is read.
async fn put_whatever_happens(store: &Etcd, name: &str) {
    loop {
        let claim = Transaction::new().require(key(name), Expected::Absent).put(key(name), [0]);
        match store.commit(claim).await {
            Ok(_) => return,
            Err(CommitError::Store(_)) => {
                if let Ok(Some(_)) = store.get(&key(name)).await {
                    return;
                }
            }
            Err(error) => {
                // What was unknown happened after it was read.
                assert!(store.get(&key(name)).await.is_ok_and(|entry| entry.is_some()), "{error}");
                return;
            }
        }
    }
}

async fn next_key(watch: &mut Watch) -> String {
    match next(watch).await {
        Event::Put { key, .. } => key.to_string(),
        other @ (Event::Delete { .. } | Event::Resync(_)) => panic!("{other:?}"),
    }
}
