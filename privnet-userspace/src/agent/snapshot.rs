//! What is believed, on the disk: an agent that starts compares the store with what its predecessor had seen.
//!
//! One file, replaced by rename, with the length and a checksum of its content in the first line. It is written at most once
//! a second, by a task of its own, and is not synced: a power cut may cost it, and is then the loss of a memory that the other
//! hosts have too.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use super::belief::Belief;
use super::host::journal::{Durability, checksum, rename_over};
use super::store_problems::{StoreProblem, StoreProblems};
use super::world::SharedWorld;
use crate::model::{FileError, HostName};
use crate::store::{Entry, Revision, keys, records};

/// How often it is written at most.
const INTERVAL: Duration = Duration::from_secs(1);
/// How many intervals lie between the times that an unchanged snapshot is dated.
const DATED_EVERY: u32 = 10;
/// What the first line begins with; the number changes with the form of the file.
const MAGIC: &str = "privnet-snapshot 1";

/// What is believed, as text by key.
type Records = BTreeMap<String, String>;

/// Whether there was a snapshot when the agent started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// What was seen is believed.
    Something,
    /// There was none, or it was damaged.
    Nothing,
}

/// Reads the snapshot into `belief`. One that is damaged is set aside and named, and the agent goes on without it.
///
/// # Errors
/// When the file cannot be read at all.
pub fn recall(path: &Path, belief: &mut Belief, problems: &StoreProblems) -> Result<Remembered> {
    let content = match std::fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Remembered::Nothing),
        Err(error) => return Err(FileError::at("read", path)(error).into()),
    };
    let records = match parse(&content) {
        Ok(records) => records,
        Err(error) => {
            let aside = path.with_extension("damaged");
            std::fs::rename(path, &aside).map_err(FileError::at("set aside the damaged", path))?;
            let text = format!(
                "the snapshot of what was seen of it was damaged ({error:#}), and is {} now: what the store loses until all \
                 hosts have been heard of is not noticed",
                aside.display()
            );
            problems.set(StoreProblem::Snapshot, Some(text));
            return Ok(Remembered::Nothing);
        }
    };
    let now = Instant::now();
    for (key, text) in records {
        let Ok(key) = key.parse() else { continue };
        // A record of a newer version was written by a newer agent: this one does not act on it.
        if let Err(error) = belief.remember(key, text.into_bytes().into(), now) {
            tracing::debug!("a record of the snapshot is passed over: {error}");
        }
    }
    Ok(Remembered::Something)
}

/// Writes the snapshot whenever what is believed has changed, and dates it by when the store was followed last. Until the store
/// has been read, the file is that of the agent before, and as old. Never ends.
pub async fn keep(path: PathBuf, world: Arc<SharedWorld>, problems: Arc<StoreProblems>) {
    let (mut written, mut turn, mut followed) = (None, 0_u32, SystemTime::now());
    loop {
        let is_followed = !problems.has(StoreProblem::Following);
        let (version, records) = world.belief(|belief| {
            let version = belief.version();
            let is_due = written != Some(version) && (is_followed || written.is_some());
            (version, is_due.then(|| records_of(belief)))
        });
        if is_followed {
            followed = SystemTime::now();
        }
        turn = turn.wrapping_add(1);
        if records.is_none() && is_followed && turn.is_multiple_of(DATED_EVERY) && !problems.has(StoreProblem::Contact)
        {
            date(&path, followed);
        }
        if let Some(records) = records {
            let path = path.clone();
            let writing = move || write(&path, &records).map(|()| date(&path, followed));
            let result = tokio::task::spawn_blocking(writing).await;
            match result.map_err(anyhow::Error::from).and_then(|result| result) {
                Ok(()) => {
                    written = Some(version);
                    problems.set(StoreProblem::Snapshot, None);
                }
                Err(error) => {
                    let text = format!("what was seen of it cannot be written down: {error:#}");
                    problems.set(StoreProblem::Snapshot, Some(text));
                }
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Whether an agent of this host has seen a network or a member in its store, as far as the snapshot tells. One that cannot be
/// read may say so.
#[must_use]
pub fn has_served(path: &Path) -> bool {
    let is_of_fleet = |key: &String| key.starts_with("networks/") || key.starts_with("members/");
    match std::fs::read(path) {
        Ok(content) => parse(&content).map_or(true, |records| records.keys().any(is_of_fleet)),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// How long ago the snapshot was written; nothing where there is none.
#[must_use]
pub fn age(path: &Path) -> Option<Duration> {
    let written = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    // A clock that was set back since.
    Some(written.elapsed().unwrap_or_default())
}

/// The VTEP address that a host told last, as far as the snapshot tells.
#[must_use]
pub fn vtep_of(path: &Path, host: &HostName) -> Option<Ipv4Addr> {
    let key = keys::host(host);
    let text = parse(&std::fs::read(path).ok()?).ok()?.remove(key.as_str())?;
    records::host_from(&entry_of(key.as_str(), text)?).ok().map(|host| host.vtep)
}

/// What is in a snapshot; nothing where there is none. Changes nothing.
///
/// # Errors
/// When it cannot be read, or is damaged.
pub fn look(path: &Path) -> Result<Vec<Entry>> {
    let content = match std::fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::at("read", path)(error).into()),
    };
    let records = parse(&content).with_context(|| format!("reading {}", path.display()))?;
    Ok(records.into_iter().filter_map(|(key, text)| entry_of(&key, text)).collect())
}

/// A record of the store that was kept as text, without its revision; nothing where the key is none.
pub fn entry_of(key: &str, text: String) -> Option<Entry> {
    Some(Entry { key: key.parse().ok()?, value: text.into_bytes().into(), revision: Revision::default(), lease: None })
}

fn records_of(belief: &Belief) -> Records {
    belief.memory().map(|(key, value)| (key.to_string(), String::from_utf8_lossy(value).into_owned())).collect()
}

/// What is dated wrongly is taken for older than it is, and that is all.
fn date(path: &Path, time: SystemTime) {
    let dated = std::fs::File::options().write(true).open(path).and_then(|file| file.set_modified(time));
    if let Err(error) = dated {
        tracing::debug!("cannot date {}: {error}", path.display());
    }
}

fn write(path: &Path, records: &Records) -> Result<()> {
    let body = serde_json::to_vec(records).context("writing the records as JSON")?;
    let mut content = format!("{MAGIC} {} {:016x}\n", body.len(), checksum(&body)).into_bytes();
    content.extend(body);
    rename_over(path, Durability::ThisBoot, &content)
}

fn parse(content: &[u8]) -> Result<Records> {
    let end = content.iter().position(|byte| *byte == b'\n').context("it has no first line")?;
    let (head, body) = (&content[..end], &content[end + 1..]);
    let head = std::str::from_utf8(head).ok().and_then(|head| head.strip_prefix(MAGIC));
    let head = head.context("it is not a snapshot of version 1")?;
    if head != format!(" {} {:016x}", body.len(), checksum(body)) {
        bail!("its checksum does not fit");
    }
    serde_json::from_slice(body).context("its records are not JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str =
        r#"{"version":1,"serial":4,"name":"b","vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":0}"#;

    fn recalled(path: &Path) -> (Remembered, usize, Vec<String>) {
        let (mut belief, problems) = (Belief::new("a".parse().expect("a host")), StoreProblems::default());
        let remembered = recall(path, &mut belief, &problems).expect("readable");
        (remembered, belief.records().count(), problems.lines())
    }

    #[test]
    fn what_was_believed_is_recalled_and_a_damaged_snapshot_is_named_and_set_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("snapshot");
        assert_eq!(recalled(&path), (Remembered::Nothing, 0, Vec::new()), "there is none yet");
        let records = Records::from([("hosts/b".to_owned(), HOST.to_owned())]);
        write(&path, &records).expect("written");
        assert_eq!(recalled(&path), (Remembered::Something, 1, Vec::new()));
        let whole = std::fs::read(&path).expect("read");
        for at in [0, 20, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            for damaged in [&flipped[..], &whole[..at]] {
                std::fs::write(&path, damaged).expect("written");
                let (remembered, count, lines) = recalled(&path);
                assert_eq!((remembered, count), (Remembered::Nothing, 0), "damaged at {at}");
                assert!(lines.len() == 1 && lines[0].contains("snapshot") && lines[0].contains("damaged"), "{lines:?}");
                assert_eq!(std::fs::read(path.with_extension("damaged")).expect("set aside"), damaged);
                assert!(!path.exists());
            }
        }
    }
}
