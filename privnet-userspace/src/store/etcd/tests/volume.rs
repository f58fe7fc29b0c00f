//! Many keys, and other people's.

use super::super::cluster::Repeat;
use super::super::protocol::{PutRequest, Request, RequestOp, TxnRequest, TxnResponse, path};
use super::*;
use crate::store::transaction::MAX_OPERATIONS;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tens_of_thousands_of_keys_are_listed_whole_and_watched_whole() {
    const KEYS: usize = 30_000;
    let (_server, store) = served().await;
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    let names: Vec<Key> = (0..KEYS).map(|number| key(&format!("a/{number:06}"))).collect();
    for batch in names.chunks(MAX_OPERATIONS) {
        let value = vec![7; 400];
        let puts = batch.iter().fold(Transaction::new(), |puts, name| puts.put(name.clone(), value.clone()));
        store.commit(puts).await.expect("committed");
    }
    let listing = store.list(&prefix("a/")).await.expect("listed");
    assert!(listing.entries.iter().map(|entry| &entry.key).eq(&names));
    assert_eq!(listing.revision.0 as usize, KEYS.div_ceil(MAX_OPERATIONS));
    for name in &names {
        assert!(matches!(next(&mut watch).await, Event::Put { key, .. } if key == *name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_peoples_keys_are_left_alone_and_their_transactions_count() {
    let (_server, store) = served().await;
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    for key in ["/privnet/v1/a//x", "/privnet/v1/a/gr\u{fc}n", "/somebody/else"] {
        let put = PutRequest { key: key.into(), value: vec![1], lease: 0 };
        let request =
            TxnRequest { success: vec![RequestOp { request: Some(Request::Put(put)) }], ..TxnRequest::default() };
        let answer: Result<TxnResponse, _> = store.cluster.call(path::TXN, request, Repeat::Freely).await;
        assert!(answer.expect("put").succeeded);
    }
    assert_eq!(put(&store, "a/1").await, Revision(4));
    assert_eq!(next(&mut watch).await, put_of("a/1", Revision(4)));
    assert_eq!(store.list(&prefix("a/")).await.expect("listed").entries.len(), 1);
}
