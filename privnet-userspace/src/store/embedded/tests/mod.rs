//! What the embedded store does when its file, its disk or its process fails it.

mod crash;
mod damage;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::*;
use crate::store::transaction::Expected;

#[tokio::test]
async fn what_was_committed_is_there_after_opening_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(directory.path()).await.expect("opened");
    assert_eq!(store.beginning(), &Beginning::New);
    for value in 0..10 {
        commit(&store, value).await.expect("committed");
    }
    let before = store.list(&prefix("a/")).await.expect("listed");
    drop(store);
    let store = Embedded::open(directory.path()).await.expect("opened again");
    assert_eq!(store.beginning(), &Beginning::Existing);
    assert_eq!(store.list(&prefix("a/")).await.expect("listed"), before);
    assert_eq!(commit(&store, 1).await.expect("committed"), Revision(11));
}

#[tokio::test]
async fn the_state_belongs_to_its_owner_alone() {
    let above = tempfile::tempdir().expect("a directory");
    let directory = above.path().join("var/privnet");
    let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
    drop(Embedded::open(&directory).await.expect("opened"));
    let file = directory.join(open::FILE_NAME);
    assert_eq!((mode(&directory), mode(&file)), (0o700, 0o600));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("changed");
    drop(Embedded::open(&directory).await.expect("opened again"));
    assert_eq!(mode(&file), 0o600);
}

#[tokio::test]
async fn a_link_instead_of_the_state_file_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let elsewhere = tempfile::tempdir().expect("a directory");
    drop(Embedded::open(elsewhere.path()).await.expect("opened"));
    let file = directory.path().join(open::FILE_NAME);
    std::os::unix::fs::symlink(elsewhere.path().join(open::FILE_NAME), &file).expect("linked");
    let error = Embedded::open(directory.path()).await.expect_err("a link");
    assert!(matches!(&error, OpenError::Disk { path, .. } if *path == file), "{error}");
}

#[tokio::test]
async fn a_second_store_on_a_directory_is_refused_until_the_first_is_closed() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(directory.path()).await.expect("opened");
    let error = Embedded::open(directory.path()).await.expect_err("in use");
    let this = std::process::id();
    assert!(matches!(error, OpenError::AlreadyOpen { pid: Some(pid), .. } if pid == this), "{error}");
    assert!(error.to_string().contains(&format!("(process {this})")), "{error}");
    commit(&store, 1).await.expect("the first is not disturbed");
    drop(store);
    Embedded::open(directory.path()).await.expect("free");
}

#[tokio::test]
async fn leases_end_with_the_process_that_held_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(directory.path()).await.expect("opened");
    let lease = store.grant_lease(Duration::from_secs(600)).await.expect("granted");
    store.commit(Transaction::new().put_leased(key("a/leased"), [1], lease)).await.expect("committed");
    commit(&store, 1).await.expect("committed");
    drop(store);
    let store = Embedded::open(directory.path()).await.expect("opened again");
    let listing = store.list(&prefix("a/")).await.expect("listed");
    assert_eq!(listing.revision, Revision(3));
    assert_eq!(listing.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["a/1"]);
    assert!(store.keep_lease_alive(lease).await.is_err());
}

#[tokio::test]
async fn a_commit_goes_on_when_nobody_waits_for_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(directory.path()).await.expect("opened");
    for value in 0..50 {
        // Polled once, and dropped.
        let commit = std::pin::pin!(commit(&store, value));
        let _ = futures::poll!(commit);
    }
    let last = Transaction::new().require(key("a/49"), Expected::Exists);
    assert_eq!(store.commit(last).await.expect("committed"), Revision(50));
}

#[tokio::test]
async fn a_watch_never_tells_of_what_is_not_yet_on_the_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(directory.path()).await.expect("opened");
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    for value in 0..20 {
        let (answer, event) = tokio::join!(commit(&store, value), watch.next());
        let revision = answer.expect("committed");
        assert!(matches!(event, Some(crate::store::Event::Put { revision: told, .. }) if told == revision));
        let bytes = fs::read(directory.path().join(open::FILE_NAME)).expect("read");
        assert_eq!(disk::inspect(&bytes).expect("usable").revision, revision);
    }
}

async fn commit(store: &Embedded, value: u8) -> Result<Revision, CommitError> {
    store.commit(Transaction::new().put(key(&format!("a/{value}")), [value])).await
}

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}
