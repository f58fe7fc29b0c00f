//! Damaged and newer state files.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::store::embedded::disk::{SCHEMA_VERSION, Unusable};

/// A state directory whose store has been closed, and the bytes of its file.
async fn closed_state() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(directory.path()).await.expect("opened");
    fill(&store).await;
    drop(store);
    let file = directory.path().join(open::FILE_NAME);
    let bytes = fs::read(&file).expect("read");
    (directory, file, bytes)
}

#[tokio::test]
async fn a_corrupt_state_file_is_kept_aside_and_the_next_start_begins_anew() {
    let (directory, file, good) = closed_state().await;
    let middle = good.len() / 2;
    let mut kept = Vec::new();
    for (what, damaged) in [
        ("nothing", Vec::new()),
        ("text", b"this is not a state file".to_vec()),
        ("half of it", good[..middle].to_vec()),
        ("no beginning", [&[0; 4096], &good[4096..]].concat()),
        ("other pages", good[..4096].iter().copied().chain(good[4096..].iter().map(|byte| !byte)).collect()),
    ] {
        fs::write(&file, &damaged).expect("damaged");
        let error = Embedded::open(directory.path()).await.expect_err(what);
        let OpenError::Corrupt { path, kept_as, .. } = &error else { panic!("{what}: {error}") };
        assert_eq!((path, file.exists()), (&file, false), "{what}");
        assert_eq!(fs::read(kept_as).expect("kept"), damaged, "{what}");
        kept.push((kept_as.clone(), damaged));
        let name = kept_as.file_name().expect("a name").to_string_lossy();
        let seconds = name.strip_prefix("store.redb.corrupt-").expect("as documented");
        assert!(seconds.parse::<u64>().is_ok(), "{name}");
        assert!(error.to_string().contains(&*name), "{error}");
    }
    // None of them replaced another, though all happened within a second.
    for (path, bytes) in &kept {
        assert_eq!(fs::read(path).expect("still kept"), *bytes);
    }
    let store = Embedded::open(directory.path()).await.expect("begun anew");
    let mut paths: Vec<PathBuf> = kept.into_iter().map(|(path, _)| path).collect();
    paths.sort();
    assert_eq!(store.beginning(), &Beginning::NewBesideCorrupt { kept: paths });
    assert_eq!(store.list(&prefix("a/")).await.expect("listed").revision, Revision(0));
    drop(store);
    // And the good file, put back, is used again.
    fs::write(&file, &good).expect("restored");
    let store = Embedded::open(directory.path()).await.expect("restored");
    assert_eq!(store.list(&prefix("a/")).await.expect("listed").entries.len(), 100);
}

#[tokio::test]
async fn another_programs_database_is_not_taken_for_ours() {
    let (directory, file, _) = closed_state().await;
    fs::remove_file(&file).expect("removed");
    let stranger = redb::Database::create(&file).expect("created");
    drop(stranger);
    let error = Embedded::open(directory.path()).await.expect_err("a stranger's");
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_newer_state_file_is_refused_untouched() {
    let (directory, file, _) = closed_state().await;
    let database = open::reopen(&file).expect("opened");
    disk::set_schema_version(&database, SCHEMA_VERSION + 1).expect("written");
    // Once as a crash leaves it, once as a shutdown does.
    let crashed = fs::read(&file).expect("read");
    drop(database);
    let closed = fs::read(&file).expect("read");
    assert_ne!(crashed, closed);
    for bytes in [crashed, closed] {
        fs::write(&file, &bytes).expect("written");
        let error = Embedded::open(directory.path()).await.expect_err("newer");
        assert!(matches!(error, OpenError::NewerSchema { found: 2, supported: 1, .. }), "{error}");
        assert!(error.to_string().contains("has schema version 2, and this privnet knows versions up to 1"), "{error}");
        assert_eq!(fs::read(&file).expect("still there"), bytes);
    }
    // The twin: the same file with our version is used.
    let database = open::reopen(&file).expect("opened");
    disk::set_schema_version(&database, SCHEMA_VERSION).expect("written");
    drop(database);
    Embedded::open(directory.path()).await.expect("ours");
}

#[test]
fn a_flipped_bit_is_noticed_or_changes_nothing() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (_directory, _, closed) = runtime.block_on(closed_state());
    let crashed = runtime.block_on(async {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Embedded::open(directory.path()).await.expect("opened");
        fill(&store).await;
        fs::read(directory.path().join(open::FILE_NAME)).expect("read")
    });
    let good = disk::inspect(&closed).expect("usable");
    assert_eq!(disk::inspect(&crashed).expect("usable"), good);
    let used = |bytes: &[u8]| (0..bytes.len()).filter(|index| bytes[*index] != 0).collect::<Vec<_>>();
    let (closed, crashed) = ((used(&closed), closed), (used(&crashed), crashed));
    let noticed = std::cell::Cell::new(0);
    let config = ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(after_crash: bool, place: prop::sample::Index, bit in 0u32..8)| {
        let (used, mut bytes) = if after_crash { crashed.clone() } else { closed.clone() };
        bytes[*place.get(&used)] ^= 1u8 << bit;
        match disk::inspect(&bytes) {
            Ok(contents) => prop_assert_eq!(&contents, &good),
            Err(Unusable::Corrupt(_) | Unusable::ForeignFormat(_)) => noticed.set(noticed.get() + 1),
            Err(Unusable::Newer { found }) => prop_assert!(false, "a newer version, {}, was believed", found),
        }
    });
    assert!(noticed.get() > 100, "only {} flips were noticed", noticed.get());
}

/// Commits a hundred records of the size of a member's.
async fn fill(store: &Embedded) {
    for index in 0..100 {
        let put = Transaction::new().put(key(&format!("a/{index}")), vec![index; 400]);
        store.commit(put).await.expect("committed");
    }
}
