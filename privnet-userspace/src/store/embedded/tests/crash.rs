//! A process that is killed, a second process, and a disk that is full.
//!
//! The other process is this test binary, started again with one of the last two tests below.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::soak::Soak;

/// Says to the other process which state directory to use.
const DIRECTORY_VARIABLE: &str = "PRIVNET_TEST_STATE_DIRECTORY";
/// The size that the other process's state file may have at first, in blocks of 512 bytes, as `ulimit -f` counts.
const SMALL_DISK_BLOCKS: u32 = 8192;

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut acknowledged = 0;
    let soak = Soak::of_rounds(8);
    for round in soak.rounds() {
        let mut child = start("commits_until_it_is_killed", directory.path(), None);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // It prints more while it is being killed: whatever arrives was acknowledged.
        let target = acknowledged + 5 + round % 8 * 7;
        while acknowledged < target {
            acknowledged = revision_in(&lines.next().expect("more").expect("read"), acknowledged);
        }
        child.kill().expect("killed");
        for line in lines {
            acknowledged = revision_in(&line.expect("read"), acknowledged);
        }
        child.wait().expect("reaped");
        let store = Embedded::open(directory.path()).await.expect("opened after the kill");
        let listing = store.list(&prefix("a/")).await.expect("listed");
        assert!(listing.revision.0 >= acknowledged, "{} of {acknowledged} are left", listing.revision);
        // At most the one commit that was under way is there without having been acknowledged.
        assert!(listing.revision.0 <= acknowledged + 1, "{} of {acknowledged} are there", listing.revision);
        acknowledged = listing.revision.0;
        let expected: Vec<Revision> = (1..=acknowledged).map(Revision).collect();
        assert_eq!(listing.entries.iter().map(|entry| entry.revision).collect::<Vec<_>>(), expected);
    }
    soak.tell(acknowledged, "commits");
}

#[tokio::test]
async fn a_second_process_is_refused_and_told_who_holds_the_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = start("commits_until_it_is_killed", directory.path(), None);
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    while revision_in(&lines.next().expect("more").expect("read"), 0) == 0 {}
    let error = Embedded::open(directory.path()).await.expect_err("in use");
    assert!(matches!(error, OpenError::AlreadyOpen { pid: Some(pid), .. } if pid == child.id()), "{error}");
    child.kill().expect("killed");
    child.wait().expect("reaped");
    Embedded::open(directory.path()).await.expect("free");
}

#[test]
fn a_full_disk_fails_the_commit_and_heals() {
    let directory = tempfile::tempdir().expect("a directory");
    let child = start("fills_its_disk", directory.path(), Some(SMALL_DISK_BLOCKS));
    let output = child.wait_with_output().expect("waited");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("healed"), "{text}");
}

/// Does nothing unless it is started by the tests above.
#[tokio::test]
async fn commits_until_it_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) else { return };
    let store = Embedded::open(Path::new(&directory)).await.expect("opened");
    let mut revision = store.list(&prefix("a/")).await.expect("listed").revision;
    loop {
        let next = revision.0 + 1;
        let put = Transaction::new().put(key(&format!("a/{next:08}")), vec![next as u8; 1000]);
        revision = store.commit(put).await.expect("committed");
        // Past the test harness, which would keep it until the end.
        let mut stdout = std::io::stdout();
        writeln!(stdout, "acknowledged {revision}").and_then(|()| stdout.flush()).expect("printed");
    }
}

/// Does nothing unless it is started by the test above that has to see it succeed.
#[tokio::test]
async fn fills_its_disk() {
    let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) else { return };
    let store = Embedded::open(Path::new(&directory)).await.expect("opened");
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    let large = |number: u32| Transaction::new().put(key(&format!("a/{number}")), vec![7; 256 * 1024]);
    let mut fitted = 0;
    let error = loop {
        match store.commit(large(fitted)).await {
            Ok(_) => fitted += 1,
            Err(error) => break error,
        }
        assert!(fitted < 100, "the disk is never full");
    };
    let CommitError::Store(StoreError::Disk { operation, source, .. }) = error else { panic!("{error}") };
    assert_eq!((operation, source.raw_os_error()), ("write", Some(rustix::io::Errno::FBIG.raw_os_error())));
    // What was there is served as before, the next commit fails in the same way.
    let listing = store.list(&prefix("a/")).await.expect("served");
    assert_eq!(listing.entries.len(), fitted as usize);
    assert!(store.commit(large(fitted)).await.is_err());
    // Somebody makes room.
    let limit = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: limit.maximum, ..limit }).expect("raised");
    let next = store.commit(large(fitted)).await.expect("committed");
    for number in 0..=fitted {
        let event = watch.next().await.expect("an event");
        let expected = Revision(u64::from(number) + 1);
        assert!(matches!(event, crate::store::Event::Put { revision, .. } if revision == expected), "{number}");
    }
    drop(store);
    let store = Embedded::open(Path::new(&directory)).await.expect("opened again");
    let listing = store.list(&prefix("a/")).await.expect("listed");
    assert_eq!((listing.entries.len() as u32, listing.revision), (fitted + 1, next));
    writeln!(std::io::stdout(), "healed").expect("printed");
}

/// Starts this test binary with one of its ignored tests, under a limit on the size of its files.
fn start(test: &str, directory: &Path, limit_blocks: Option<u32>) -> Child {
    // The signal of exceeding the limit would kill; ignored, the write fails as it does on a full disk.
    let limit = limit_blocks.map_or_else(String::new, |blocks| format!("trap '' XFSZ; ulimit -S -f {blocks}; "));
    Command::new("sh")
        .args(["-c", &format!("{limit}exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().expect("this binary"))
        .args(["--exact", &format!("store::embedded::tests::crash::{test}"), "--nocapture"])
        .env(DIRECTORY_VARIABLE, directory)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started")
}

fn revision_in(line: &str, before: u64) -> u64 {
    line.strip_prefix("acknowledged ").map_or(before, |number| number.parse().expect("a number"))
}
