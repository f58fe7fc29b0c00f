//! This host's own records: which namespace each of its members was attached to, and its private key.
//!
//! A record is written before the first kernel object of a member is made, and removed after its last one is gone: whatever
//! the agent may have made, a record leads to it. One file per member, replaced by rename; it need not outlive a reboot of the
//! host, since no container does, so nothing is synced to disk, and an empty file is one of an earlier boot.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::agent::door::error::{ControlError, ErrorCode};
use crate::model::{ContainerRef, FileError, HostName, NetworkId, PrivateKey};
use crate::netns::{Netns, NetnsId};

/// The version of the record's form.
const VERSION: u32 = 1;

/// What this host knows of one of its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this form.
    pub version: u32,
    /// The network.
    pub network: NetworkId,
    /// The container.
    pub container: ContainerRef,
    /// The member's address.
    pub address: Ipv4Addr,
    /// The n of its `wg<n>`.
    pub index: u8,
    /// Where the app netns was found.
    pub netns_path: PathBuf,
    /// Which namespace that was: paths are recycled, this is not as long as the namespace lives.
    pub netns: NetnsId,
    /// Which one it was among all that ever had that number; absent where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_cookie: Option<u64>,
    /// Which boot of the kernel that was.
    pub boot_id: String,
    /// Whether only its teardown remains.
    pub leaving: bool,
    /// How often the clocks of its peers' hosts had stepped back when its peers were made; those that never did are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clock_steps: BTreeMap<HostName, u64>,
}

impl Record {
    /// A record of this version.
    #[must_use]
    pub const fn new(
        network: NetworkId,
        container: ContainerRef,
        address: Ipv4Addr,
        index: u8,
        netns_path: PathBuf,
        netns: NetnsId,
        boot_id: String,
    ) -> Self {
        Self {
            version: VERSION,
            network,
            container,
            address,
            index,
            netns_path,
            netns,
            netns_cookie: None,
            boot_id,
            leaving: false,
            clock_steps: BTreeMap::new(),
        }
    }

    /// Whether the container's namespace is still the one that was attached; `boot_id` is the running boot's.
    #[must_use]
    pub fn is_alive(&self, boot_id: &str) -> bool {
        self.boot_id == boot_id && Netns::identify(&self.netns_path).is_ok_and(|id| id == self.netns)
    }
}

/// The names of a record: a network, and the member's address in it.
pub type RecordKey = (NetworkId, Ipv4Addr);

/// All records of this host.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    records: BTreeMap<RecordKey, Record>,
}

impl Journal {
    /// Reads all records.
    ///
    /// # Errors
    /// When a record cannot be read, is of a newer version, or is corrupt. A corrupt one is moved aside first, never deleted.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(FileError::at("create", dir))?;
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(FileError::at("list", dir))? {
            let path = entry.map_err(FileError::at("list", dir))?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(record) = read(&path)?
            {
                records.insert((record.network, record.address), record);
            }
        }
        Ok(Self { dir: dir.to_owned(), records })
    }

    /// Removes what an agent left that died between two steps: a private key whose record was not written, a file that has
    /// not got its name. Only for the one agent that has the directory.
    ///
    /// # Errors
    /// When the directory cannot be listed, or a file cannot be removed.
    pub fn sweep(&self) -> Result<()> {
        let keys: BTreeSet<PathBuf> = self.records.keys().map(|id| self.path(*id, "key")).collect();
        for entry in fs::read_dir(&self.dir).map_err(FileError::at("list", &self.dir))? {
            let path = entry.map_err(FileError::at("list", &self.dir))?.path();
            let extension = path.extension().and_then(OsStr::to_str);
            // The key of a record that was set aside is as good as that.
            let is_kept = || keys.contains(&path) || path.with_extension("json.corrupt").exists();
            if extension == Some("new") || (extension == Some("key") && !is_kept()) {
                fs::remove_file(&path).map_err(FileError::at("remove", &path))?;
            }
        }
        Ok(())
    }

    /// All records.
    #[must_use]
    pub const fn records(&self) -> &BTreeMap<RecordKey, Record> {
        &self.records
    }

    /// Writes a record and the member's private key.
    ///
    /// # Errors
    /// Nothing is recorded.
    pub fn add(&mut self, record: Record, key: &PrivateKey) -> Result<()> {
        let id = (record.network, record.address);
        rename_over(&self.path(id, "key"), Durability::ThisBoot, key.reveal_base64().as_bytes())?;
        self.write(record)
    }

    /// Marks a record: only the member's teardown remains.
    ///
    /// # Errors
    /// The record is as it was.
    pub fn mark_leaving(&mut self, id: RecordKey) -> Result<()> {
        match self.records.get(&id) {
            Some(record) if !record.leaving => self.write(Record { leaving: true, ..record.clone() }),
            Some(_) | None => Ok(()),
        }
    }

    /// Notes that a member's namespace is gone, and that what has its path and its number is another one.
    ///
    /// # Errors
    /// The record is as it was.
    pub fn mark_netns_reused(&mut self, id: RecordKey) -> Result<()> {
        const NONE: NetnsId = NetnsId { dev: 0, ino: 0 };
        match self.records.get(&id) {
            Some(record) => self.write(Record { netns: NONE, netns_cookie: None, ..record.clone() }),
            None => Ok(()),
        }
    }

    /// Notes under which clocks a member's peers were made.
    ///
    /// # Errors
    /// The record is as it was.
    pub fn note_clock_steps(&mut self, id: RecordKey, clock_steps: BTreeMap<HostName, u64>) -> Result<()> {
        match self.records.get(&id) {
            Some(record) if record.clock_steps != clock_steps => self.write(Record { clock_steps, ..record.clone() }),
            Some(_) | None => Ok(()),
        }
    }

    /// Removes a record and the key. Idempotent.
    ///
    /// # Errors
    /// The record may remain.
    pub fn remove(&mut self, id: RecordKey) -> Result<()> {
        for extension in ["key", "json"] {
            let path = self.path(id, extension);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(FileError::at("remove", &path)(error).into());
                }
                Ok(()) | Err(_) => {}
            }
        }
        self.records.remove(&id);
        Ok(())
    }

    /// Reads a member's private key.
    ///
    /// # Errors
    /// When there is none, or it is corrupt.
    pub fn private_key(&self, id: RecordKey) -> Result<PrivateKey> {
        let path = self.path(id, "key");
        let text = zeroize::Zeroizing::new(fs::read_to_string(&path).map_err(FileError::at("read", &path))?);
        PrivateKey::from_base64(&text).with_context(|| format!("reading {}", path.display()))
    }

    fn write(&mut self, record: Record) -> Result<()> {
        let id = (record.network, record.address);
        let text = serde_json::to_vec_pretty(&record).context("writing a member's record as JSON")?;
        rename_over(&self.path(id, "json"), Durability::ThisBoot, &text)?;
        self.records.insert(id, record);
        Ok(())
    }

    fn path(&self, (network, address): RecordKey, extension: &str) -> PathBuf {
        self.dir.join(format!("{network}_{address}.{extension}"))
    }
}

/// The journal, shared by the agent's tasks. A task that makes or removes a binding netns holds the lock while doing so.
#[derive(Debug)]
pub struct SharedJournal(Mutex<Journal>);

impl SharedJournal {
    /// Shares a journal.
    pub const fn new(journal: Journal) -> Self {
        Self(Mutex::new(journal))
    }

    /// The records, also after a panic of another holder: each change to them is one assignment.
    pub fn lock(&self) -> MutexGuard<'_, Journal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a record; none where the host lost its power before the disk had it: no container outlived that.
fn read(path: &Path) -> Result<Option<Record>> {
    let text = fs::read(path).map_err(FileError::at("read", path))?;
    if text.iter().all(|byte| *byte == 0) {
        tracing::warn!("{} is empty: a member of an earlier boot of this host is forgotten", path.display());
        fs::remove_file(path).map_err(FileError::at("remove the empty", path))?;
        return Ok(None);
    }
    let version =
        serde_json::from_slice::<serde_json::Value>(&text).ok().and_then(|value| value.get("version")?.as_u64());
    if let Some(version) = version.filter(|version| *version > u64::from(VERSION)) {
        let message =
            format!("{} is of version {version}, and this agent reads up to version {VERSION}", path.display());
        return Err(ControlError::new(ErrorCode::Internal, message, "start the newer agent that wrote it").into());
    }
    match serde_json::from_slice(&text) {
        Ok(record) => Ok(Some(record)),
        Err(error) => {
            let aside = path.with_extension("json.corrupt");
            fs::rename(path, &aside).map_err(FileError::at("move aside the corrupt", path))?;
            let message = format!("{} is corrupt ({error}), and was moved to {}", path.display(), aside.display());
            let remedy = "start the agent again to go on without that member";
            Err(ControlError::new(ErrorCode::Internal, message, remedy).into())
        }
    }
}

/// Writes a file of mode 0600 by rename, so that a reader sees the old content or the new one; also one that reads after
/// the power was cut, when a name may be on the disk and what was written before it not.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    rename_over(path, Durability::ForGood, content)
}

/// What a file has to outlive.
enum Durability {
    /// No reboot; after one it may be empty.
    ThisBoot,
    /// Everything.
    ForGood,
}

fn rename_over(path: &Path, durability: Durability, content: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(FileError::at("create", &temporary))?;
    file.write_all(content).map_err(FileError::at("write", &temporary))?;
    if matches!(durability, Durability::ForGood) {
        file.sync_data().map_err(FileError::at("flush", &temporary))?;
    }
    Ok(fs::rename(&temporary, path).map_err(FileError::at("replace", path))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn record() -> Record {
        Record::new(
            "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c".parse().expect("valid"),
            "1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053".parse().expect("valid"),
            Ipv4Addr::new(10, 240, 0, 2),
            0,
            PathBuf::from("/run/netns/a"),
            NetnsId { dev: 4, ino: 4_026_532_000 },
            "boot".to_owned(),
        )
    }

    #[test]
    fn a_record_and_its_key_come_back_until_they_are_removed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let id = (record().network, record().address);
        let key = PrivateKey::from_random([7; 32]);
        let mut journal = Journal::open(dir.path()).expect("opens");
        journal.add(record(), &key).expect("adds");
        let clock_steps = BTreeMap::from([("host-2".parse().expect("valid"), 3)]);
        journal.note_clock_steps(id, clock_steps.clone()).expect("notes");
        journal.mark_leaving(id).expect("marks");

        let mut journal = Journal::open(dir.path()).expect("opens again");
        assert!(journal.records()[&id].leaving);
        assert_eq!(journal.records()[&id].clock_steps, clock_steps);
        assert_eq!(journal.private_key(id).expect("key").public_key(), key.public_key());
        journal.remove(id).expect("removes");
        journal.remove(id).expect("removes what is gone");
        assert!(Journal::open(dir.path()).expect("opens again").records().is_empty());
    }

    #[test]
    fn what_was_half_written_goes_and_what_is_whole_stays() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut journal = Journal::open(dir.path()).expect("opens");
        let id = (record().network, record().address);
        journal.add(record(), &PrivateKey::from_random([7; 32])).expect("adds");
        fs::write(journal.path((id.0, Ipv4Addr::new(10, 240, 0, 9)), "key"), "of nobody").expect("writes");
        fs::write(dir.path().join("x.json.new"), "half").expect("writes");
        for of_corrupt in ["y.json.corrupt", "y.key"] {
            fs::write(dir.path().join(of_corrupt), "aside").expect("writes");
        }
        let names = || fs::read_dir(dir.path()).expect("lists").count();
        assert_eq!(names(), 6);
        journal.sweep().expect("sweeps");
        assert_eq!(names(), 4);
        assert!(Journal::open(dir.path()).expect("opens").private_key(id).is_ok());
    }

    #[test]
    fn nobody_else_can_read_a_key() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut journal = Journal::open(dir.path()).expect("opens");
        journal.add(record(), &PrivateKey::from_random([7; 32])).expect("adds");
        for entry in fs::read_dir(dir.path()).expect("lists") {
            let metadata = entry.expect("entry").metadata().expect("metadata");
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_corrupt_record_is_kept_aside_and_a_newer_one_is_left_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("x.json");
        fs::write(&path, b"{").expect("writes");
        let error = Journal::open(dir.path()).expect_err("corrupt").to_string();
        assert!(error.contains("corrupt") && error.contains("x.json.corrupt"), "{error}");
        assert!(dir.path().join("x.json.corrupt").exists());
        Journal::open(dir.path()).expect("goes on without it");

        for lost in [&b""[..], &[0; 300]] {
            fs::write(&path, lost).expect("writes");
            assert!(Journal::open(dir.path()).expect("power was lost").records().is_empty());
            assert!(!path.exists());
        }

        fs::write(&path, br#"{"version":99}"#).expect("writes");
        let error = Journal::open(dir.path()).expect_err("newer").to_string();
        assert!(error.contains("version 99"), "{error}");
        assert!(path.exists());
    }
}
