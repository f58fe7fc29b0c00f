//! A commit whose answer is lost: what became of it is found out before anything is said of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::*;
use crate::store::{CommitError, Expected};

/// A way to a server that can lose what the server says, and then breaks.
struct Way {
    url: String,
    /// Whether answers are lost.
    loses: Arc<AtomicBool>,
    /// Breaks the connections that lose answers.
    breaks: Arc<Notify>,
}

impl Way {
    async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its port"));
        let (loses, breaks) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let way = Self { url, loses: Arc::clone(&loses), breaks: Arc::clone(&breaks) };
        let to = server.url().trim_start_matches("http://").to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&to).await.expect("the server");
                tokio::spawn(carry(client, server, Arc::clone(&loses), Arc::clone(&breaks)));
            }
        });
        way
    }
}

async fn carry(client: TcpStream, server: TcpStream, loses: Arc<AtomicBool>, breaks: Arc<Notify>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = tokio::io::copy(&mut from_client, &mut to_server);
    let back = async {
        let mut bytes = vec![0; 4096];
        while let Ok(length @ 1..) = from_server.read(&mut bytes).await {
            if !loses.load(Ordering::Relaxed) && to_client.write_all(&bytes[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = there => {}
        () = back => {}
        () = breaks.notified() => {}
    }
}

/// Commits by a way that loses the answer, and breaks once `server` has the key.
async fn commit_unheard(server: &Server, way: &Way, transaction: Transaction) -> Result<Revision, CommitError> {
    let (store, direct) = (etcd_at(&[&way.url]), etcd_at(&[server.url()]));
    store.check().await.expect("connected");
    way.loses.store(true, Ordering::Relaxed);
    let seen = async {
        while direct.get(&key("a/1")).await.expect("read").is_none() {}
        way.loses.store(false, Ordering::Relaxed);
        way.breaks.notify_waiters();
    };
    tokio::join!(store.commit(transaction), seen).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_happened_and_was_not_answered_is_found_to_have_happened() {
    let (server, direct) = served().await;
    let way = Way::to(&server).await;
    let claim = Transaction::new().require(key("a/1"), Expected::Absent).put(key("a/1"), [1]).put(key("a/2"), [2]);
    assert_eq!(commit_unheard(&server, &way, claim).await.expect("it happened"), Revision(1));
    assert_eq!(direct.list(&prefix("a/")).await.expect("listed").revision, Revision(1), "once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_not_answered_and_cannot_be_told_from_another_is_unknown() {
    let (server, _direct) = served().await;
    let way = Way::to(&server).await;
    // Nothing in it says, the second time, that it was there before.
    let put = Transaction::new().put(key("a/1"), [1]);
    let error = commit_unheard(&server, &way, put).await.expect_err("nobody answered");
    assert!(matches!(error, CommitError::Store(crate::store::StoreError::Unanswered { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_not_answered_and_did_not_happen_is_refused_as_ever() {
    let (server, direct) = served().await;
    let way = Way::to(&server).await;
    put(&direct, "a/0").await;
    let store = etcd_at(&[&way.url]);
    store.check().await.expect("connected");
    way.loses.store(true, Ordering::Relaxed);
    let claim = Transaction::new().require(key("a/0"), Expected::Absent).put(key("a/0"), [1]);
    let broken = async {
        // Until the refusal was lost: the compare makes no trace in the store.
        tokio::time::sleep(Duration::from_millis(500)).await;
        way.loses.store(false, Ordering::Relaxed);
        way.breaks.notify_waiters();
    };
    let (outcome, ()) = tokio::join!(store.commit(claim), broken);
    let error = outcome.expect_err("another has the key");
    assert!(matches!(error, CommitError::Conflict { found: Some(Revision(1)), .. }), "{error}");
}
