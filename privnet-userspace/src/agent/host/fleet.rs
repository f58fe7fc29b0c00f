//! The fleet that this host belongs to, as its state directory says: an agent that was started again knows its store by it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use uuid::{Uuid, uuid};

use super::journal::{remove_if_there, replace, set_aside};
use crate::agent::config::Config;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::snapshot;
use crate::model::FileError;
use crate::store::records::{self, FleetRecord, Stored};
use crate::store::{Entry, Fleet, Revision, Store, StoreKind, keys};

/// The namespace of the checksums.
const CHECKSUMS: Uuid = uuid!("1d1c64a5-24d3-4a86-a9a7-5b5b3a2f5c1e");
/// The version of the file's form.
const VERSION: u32 = 1;

/// The fleet of this host, and why its store cannot be used yet.
pub struct Joined {
    /// The fleet.
    pub fleet: Fleet,
    /// Whether the fleet is one that this host has served before: what it has seen of the store is of that.
    pub is_known: bool,
    /// Why the store is not acted on: it does not answer, or is not the fleet's. Of a fleet that is known alone.
    pub away: Option<anyhow::Error>,
}

/// Joins the fleet of a store, and notes it.
///
/// A host belongs to the fleet that it has noted if it has served it: it has members, or has seen a network or a member of it.
/// Any other host joins the fleet of the store; so does one without members whose note is of a store of this host alone, since
/// no other host knows it. A host of the build before has no note, and its store is the one that knows it.
///
/// # Errors
/// When a host that belongs to no fleet cannot join that of the store, or the note cannot be read.
pub async fn join(config: &Config, store: Arc<dyn Store>, members: usize) -> Result<Joined> {
    if let Some(noted) = noted(config, members)? {
        let fleet = Fleet::of(store, noted.stored);
        let away = fleet.recognize().await.err().map(anyhow::Error::from);
        if away.is_none() {
            note(&config.state_dir, &fleet)?;
        }
        return Ok(Joined { fleet, is_known: true, away });
    }
    if members > 0 && store.get(&keys::host(&config.host)).await?.is_none() {
        return Err(ControlError::new(
            ErrorCode::StoreUnavailable,
            format!(
                "the {} store does not know host {}, and this host has records of {members} members",
                store.kind(),
                config.host
            ),
            format!(
                "give the agent the right store, restore its data, or remove {} to end these memberships",
                config.journal_dir().display()
            ),
        )
        .into());
    }
    let fleet = Fleet::join(store).await?;
    note(&config.state_dir, &fleet)?;
    Ok(Joined { fleet, is_known: members > 0, away: None })
}

/// Whether this host belongs to a fleet whose store is shared: its agent serves without an answer of the store.
///
/// # Errors
/// When the note cannot be read.
pub fn is_of_one(config: &Config) -> Result<bool> {
    // They are counted alone: what reads them sets aside what is damaged, and the agent that starts has to know of that.
    let is_record = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "json");
    let members = fs::read_dir(config.journal_dir()).into_iter().flatten().flatten().filter(is_record).count();
    Ok(noted(config, members)?.is_some_and(|noted| noted.kind == StoreKind::Etcd))
}

/// The note of the fleet that this host belongs to.
fn noted(config: &Config, members: usize) -> Result<Option<Noted>> {
    let binds =
        |noted: &Noted| members > 0 || (noted.kind == StoreKind::Etcd && snapshot::has_served(&config.snapshot_path()));
    Ok(read(&path_in(&config.state_dir))?.filter(binds))
}

/// Notes the fleet's record as it was seen last.
///
/// # Errors
/// When the file cannot be written.
pub fn note(state_dir: &Path, fleet: &Fleet) -> Result<()> {
    let path = path_in(state_dir);
    let (_, value) = fleet.record();
    let record = String::from_utf8_lossy(&value).into_owned();
    let kind = fleet.kind();
    if read(&path).ok().flatten().is_some_and(|noted| noted.kind == kind && noted.text == record) {
        return Ok(());
    }
    let checksum = checksum(kind, &record);
    let mut text = serde_json::to_vec_pretty(&Form { version: VERSION, store: kind, record, checksum })?;
    text.push(b'\n');
    replace(&path, &text)
}

/// Forgets which fleet this host belongs to.
///
/// # Errors
/// When the file cannot be removed.
pub fn forget(state_dir: &Path) -> Result<()> {
    remove_if_there(&path_in(state_dir))
}

/// What the file holds.
#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    /// The store that the record was read from.
    store: StoreKind,
    /// The fleet's record as the store had it.
    record: String,
    /// Of the two above.
    checksum: Uuid,
}

/// A note as it was read.
struct Noted {
    kind: StoreKind,
    text: String,
    stored: Stored<FleetRecord>,
}

fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join("fleet")
}

fn checksum(kind: StoreKind, record: &str) -> Uuid {
    Uuid::new_v5(&CHECKSUMS, format!("{kind} {record}").as_bytes())
}

fn read(path: &Path) -> Result<Option<Noted>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::at("read", path)(error).into()),
    };
    match parse(&text) {
        Ok(noted) => Ok(Some(noted)),
        Err(Unread::Newer(found)) => Err(ControlError::new(
            ErrorCode::Internal,
            format!("{} is of version {found}, and this agent reads up to version {VERSION}", path.display()),
            "start the newer agent that wrote it",
        )
        .into()),
        Err(Unread::Damaged(detail)) => {
            let then = "the agent takes its store for the fleet's if the store knows this host";
            set_aside(path, "damaged", &detail, then).map(|()| None)
        }
    }
}

/// Why a note could not be read.
enum Unread {
    Newer(u32),
    Damaged(String),
}

fn parse(text: &[u8]) -> Result<Noted, Unread> {
    let form: Form = serde_json::from_slice(text).map_err(|error| Unread::Damaged(error.to_string()))?;
    if form.version > VERSION {
        return Err(Unread::Newer(form.version));
    }
    if form.checksum != checksum(form.store, &form.record) {
        return Err(Unread::Damaged("its checksum is that of another text".to_owned()));
    }
    let value = form.record.as_bytes().into();
    let entry = Entry { key: keys::fleet(), value, revision: Revision::default(), lease: None };
    let stored = records::read(&entry).map_err(|error| Unread::Damaged(error.to_string()))?;
    Ok(Noted { kind: form.store, text: form.record, stored })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    #[tokio::test]
    async fn what_was_noted_is_read_and_what_was_damaged_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = path_in(directory.path());
        assert!(read(&path).expect("no file is no note").is_none());
        let fleet = Fleet::join(Arc::new(Memory::new())).await.expect("joined");
        note(directory.path(), &fleet).expect("noted");
        let noted = read(&path).expect("read").expect("a note");
        assert_eq!((noted.kind, &noted.stored.record), (StoreKind::Memory, &fleet.record().0));
        let text = fs::read_to_string(&path).expect("read");
        let changed = |from: &str, to: &str| {
            assert!(text.contains(from), "{text}");
            text.replace(from, to)
        };
        let altered = [("epoch", "epoch2"), ("memory", "etcd"), ("4789", "4790")].map(|(from, to)| changed(from, to));
        for damaged in altered.iter().map(String::as_str).chain([&text[..20]]) {
            fs::write(&path, damaged).expect("written");
            assert!(read(&path).expect("set aside").is_none(), "{damaged}");
            assert_eq!(fs::read_to_string(path.with_extension("damaged")).expect("set aside"), damaged);
        }
        fs::write(&path, changed("\"version\": 1", "\"version\": 2")).expect("written");
        let error = read(&path).err().expect("newer").to_string();
        assert!(error.contains("fleet is of version 2") && path.exists(), "{error}");
        note(directory.path(), &fleet).expect("noted again");
        assert_eq!(fs::read_to_string(&path).expect("read"), text);
    }
}
