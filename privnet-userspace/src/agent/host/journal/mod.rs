//! This host's own records: which namespace each of its members was attached to, and its private key.
//!
//! A record is written before the first kernel object of a member is made, and removed after its last one is gone: whatever
//! the agent may have made, a record leads to it. One file per member, `<membership id>.json`, and its private key beside it,
//! replaced by rename; it need not outlive a reboot of the host, since no container does, so nothing is synced to disk, and an
//! empty file is one of an earlier boot.

mod files;
mod record;
#[cfg(test)]
pub(in crate::agent) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use uuid::Uuid;

pub use files::{Durability, checksum, remove_if_there, rename_over, replace, set_aside};
use files::{Found, Read, look, read, read_key, text_of};
pub use record::{DEVICE, FurtherName, GivenTo, Handover, Record, Stage, text_of_entry};

use crate::agent::door::views::ResolvConfFile;
use crate::model::{ContainerRef, FileError, HostName, MemberId, NetworkId, PrivateKey};
use crate::netns::NetnsId;
use crate::store::claims::Written;
use crate::topology::ownership;

/// All records of this host.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    records: BTreeMap<MemberId, Record>,
    /// Where the search for a free slot goes on.
    next_slot: u32,
    /// Files of version 1: that of a record that is not carried over yet, or, with nothing, one whose record is.
    old: BTreeMap<PathBuf, Option<MemberId>>,
    /// The memberships whose records were damaged, and set aside when they were read.
    set_aside: BTreeSet<MemberId>,
}

impl Journal {
    /// Reads all records.
    ///
    /// # Errors
    /// When a record cannot be read, or is of a newer version. A corrupt one is moved aside, never deleted.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(FileError::at("create", dir))?;
        let (mut records, mut old, mut whole) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let mut set_aside = BTreeSet::new();
        for entry in fs::read_dir(dir).map_err(FileError::at("list", dir))? {
            let path = entry.map_err(FileError::at("list", dir))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path)? {
                Found::Record(read) => {
                    let Read { record, is_old } = *read;
                    if is_old {
                        old.insert(path, Some(record.id));
                        records.entry(record.id).or_insert(record);
                    } else {
                        whole.insert(record.id);
                        records.insert(record.id, record);
                    }
                }
                Found::SetAside => {
                    let name = path.file_stem().and_then(OsStr::to_str);
                    set_aside.extend(name.and_then(|name| name.parse::<MemberId>().ok()));
                }
                Found::Empty => {}
            }
        }
        for carried in old.values_mut().filter(|id| id.is_some_and(|id| whole.contains(&id))) {
            *carried = None;
        }
        let last = records.values().filter_map(|record: &Record| record.slot).max();
        let next_slot = last.map_or(0, |slot| (slot + 1) % ownership::MAX_LINK_SLOTS);
        Ok(Self { dir: dir.to_owned(), records, next_slot, old, set_aside })
    }

    /// The records in a directory as they are, for a process that is not the agent and changes nothing; and how many files are
    /// damaged.
    ///
    /// # Errors
    /// When the directory is there and cannot be read, or one of its files.
    pub fn look(dir: &Path) -> Result<(Vec<Record>, usize)> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((Vec::new(), 0)),
            Err(error) => return Err(FileError::at("list", dir)(error).into()),
        };
        let (mut records, mut damaged) = (Vec::new(), 0);
        for entry in entries {
            let path = entry.map_err(FileError::at("list", dir))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match look(&path) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => damaged += 1,
                // The member ended meanwhile.
                Err(_) if !path.exists() => {}
                Err(error) => return Err(error),
            }
        }
        Ok((records, damaged))
    }

    /// Writes the records of version 1 anew, in this version and under their new names. Killed at any point, the next agent
    /// finds each record and its key whole under one of its names, and goes on. Only for the one agent that has the directory.
    ///
    /// # Errors
    /// When a file cannot be read, written or removed.
    pub fn carry_over(&mut self) -> Result<()> {
        for (path, id) in std::mem::take(&mut self.old) {
            let key = path.with_extension("key");
            if let Some(record) = id.and_then(|id| self.records.get(&id)).cloned() {
                tracing::info!("the record {} is carried over to {}", path.display(), record.id);
                match fs::read(&key).map(zeroize::Zeroizing::new) {
                    Ok(text) => rename_over(&self.path(record.id, "key"), Durability::ThisBoot, &text)?,
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(FileError::at("read", &key)(error).into()),
                }
                self.write(record)?;
            }
            // The record first: while it is there, its key is.
            for path in [path, key] {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    /// Removes what an agent left that died between two steps: a private key whose record was not written, a file that has
    /// not got its name. Only for the one agent that has the directory.
    ///
    /// # Errors
    /// When the directory cannot be listed, or a file cannot be removed.
    pub fn sweep(&self) -> Result<()> {
        let old = self.old.keys().map(|path| path.with_extension("key"));
        let keys: BTreeSet<PathBuf> = self.records.keys().map(|id| self.path(*id, "key")).chain(old).collect();
        for entry in fs::read_dir(&self.dir).map_err(FileError::at("list", &self.dir))? {
            let path = entry.map_err(FileError::at("list", &self.dir))?.path();
            let extension = path.extension().and_then(OsStr::to_str);
            // The key of a record that was set aside is as good as that.
            let is_kept = || keys.contains(&path) || path.with_extension("json.corrupt").exists();
            if extension == Some("new") || (extension == Some("key") && !is_kept()) {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    /// All records.
    #[must_use]
    pub const fn records(&self) -> &BTreeMap<MemberId, Record> {
        &self.records
    }

    /// How many memberships have a record, or had one that was set aside.
    #[must_use]
    pub fn members(&self) -> usize {
        self.records.len() + self.set_aside.len()
    }

    /// The instance of this host's agent that attached its members, as the store's records of them say; nothing where they do
    /// not agree.
    #[must_use]
    pub fn instance(&self) -> Option<Uuid> {
        let instances: BTreeSet<Uuid> = self.records.values().filter_map(Record::instance).collect();
        instances.first().copied().filter(|_| instances.len() == 1)
    }

    /// Whether a membership may live: it has a record that is not leaving, or one that was set aside.
    #[must_use]
    pub fn may_live(&self, id: MemberId) -> bool {
        self.set_aside.contains(&id) || self.records.get(&id).is_some_and(|record| !record.leaving)
    }

    /// The record of the member that has an address in a network, or had it and is still being removed.
    #[must_use]
    pub fn at(&self, network: NetworkId, address: Ipv4Addr) -> Option<&Record> {
        self.records.values().find(|record| record.network == network && record.address == address)
    }

    /// Writes a record and the member's private key, and returns the record with the slot that it was given.
    ///
    /// # Errors
    /// Nothing is recorded.
    pub fn add(&mut self, record: Record, key: &PrivateKey) -> Result<Record> {
        let record = Record { slot: Some(self.take_slot()), ..record };
        rename_over(&self.path(record.id, "key"), Durability::ThisBoot, key.reveal_base64().as_bytes())?;
        if let Err(error) = self.write(record.clone()) {
            // The first error is told; what stays is swept at the next start.
            let _ = remove_if_there(&self.path(record.id, "key"));
            return Err(error);
        }
        Ok(record)
    }

    /// Writes a record that was lost, with its private key where that is known. A record without a slot is given one.
    ///
    /// # Errors
    /// Nothing is recorded.
    pub fn make_again(&mut self, record: Record, key: Option<&PrivateKey>) -> Result<()> {
        let slot = record.slot.or_else(|| Some(self.take_slot()));
        if let Some(key) = key {
            rename_over(&self.path(record.id, "key"), Durability::ThisBoot, key.reveal_base64().as_bytes())?;
        }
        self.write(Record { slot, ..record })
    }

    /// A slot that no record has; those that were free for longest come first, for the kernel may remove a link late.
    fn take_slot(&mut self) -> u32 {
        let taken: BTreeSet<u32> = self.records.values().filter_map(|record| record.slot).collect();
        let later = self.next_slot..ownership::MAX_LINK_SLOTS;
        // A host has far fewer members than there are slots.
        let slot = later.chain(0..self.next_slot).find(|slot| !taken.contains(slot)).unwrap_or_default();
        self.next_slot = (slot + 1) % ownership::MAX_LINK_SLOTS;
        slot
    }

    /// Marks a record: only the member's teardown remains.
    ///
    /// # Errors
    /// The record is as it was.
    pub fn mark_leaving(&mut self, id: MemberId) -> Result<()> {
        match self.records.get(&id) {
            Some(record) if !record.leaving => self.write(Record { leaving: true, ..record.clone() }),
            Some(_) | None => Ok(()),
        }
    }

    /// Notes that a member's namespace is gone, and that what has its path and its number is another one.
    ///
    /// # Errors
    /// The record is as it was.
    pub fn mark_netns_reused(&mut self, id: MemberId) -> Result<()> {
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
    pub fn note_clock_steps(&mut self, id: MemberId, clock_steps: BTreeMap<HostName, u64>) -> Result<()> {
        match self.records.get(&id) {
            Some(record) if record.clock_steps != clock_steps => self.write(Record { clock_steps, ..record.clone() }),
            Some(_) | None => Ok(()),
        }
    }

    /// Notes what the store's records of a membership say, as they were written. What is known to be newer stays.
    ///
    /// # Errors
    /// The record is as it was.
    pub fn note_stored(&mut self, written: &Written) -> Result<()> {
        let Some(known) = self.records.get(&written.member.id) else { return Ok(()) };
        // Another task may have moved the membership to another name since this was written.
        if known.container != written.member.container {
            return Ok(());
        }
        let mut record = known.clone();
        record.note_stored(written);
        if *known == record { Ok(()) } else { self.write(record) }
    }

    /// Notes that the names of a membership changed, and what was written in the store to that end. A name that is new here
    /// was attached to the namespace at `path`. Only for the task that holds the claims.
    ///
    /// # Errors
    /// The record is as it was.
    pub fn note_names(&mut self, written: &Written, path: Option<&Path>) -> Result<()> {
        let Some(known) = self.records.get(&written.member.id) else { return Ok(()) };
        let mut record = known.clone();
        record.note_stored(written);
        if !record.has_names_of(&written.member) {
            record.rename(&written.member, path.unwrap_or(&known.netns_path));
        }
        if *known == record { Ok(()) } else { self.write(record) }
    }

    /// Notes that a name of a membership was attached again, to the same namespace at another path.
    ///
    /// # Errors
    /// The record is as it was.
    pub fn note_path(&mut self, id: MemberId, name: &ContainerRef, path: &Path) -> Result<()> {
        let Some(known) = self.records.get(&id) else { return Ok(()) };
        let mut record = known.clone();
        if record.container == *name {
            path.clone_into(&mut record.netns_path);
        }
        for further in record.names.iter_mut().filter(|further| further.container == *name) {
            path.clone_into(&mut further.netns_path);
        }
        if *known == record { Ok(()) } else { self.write(record) }
    }

    /// Notes which `resolv.conf` an attach has named, if one.
    ///
    /// # Errors
    /// The record is as it was.
    pub fn note_resolv_conf(&mut self, id: MemberId, file: Option<&ResolvConfFile>) -> Result<()> {
        match self.records.get(&id) {
            Some(record) if file.is_some() && record.resolv_conf.as_ref() != file => {
                self.write(Record { resolv_conf: file.cloned(), ..record.clone() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Changes a record whose device is handed over, and returns it; nothing when there is none, or it is leaving.
    ///
    /// # Errors
    /// The record is as it was.
    pub fn change_handover(
        &mut self,
        id: MemberId,
        change: impl FnOnce(&mut Record, &mut Handover),
    ) -> Result<Option<Record>> {
        let Some(mut record) = self.records.get(&id).filter(|record| !record.leaving).cloned() else { return Ok(None) };
        let Some(mut handover) = record.handover.take() else { return Ok(None) };
        change(&mut record, &mut handover);
        record.handover = Some(handover);
        if self.records.get(&id) != Some(&record) {
            self.write(record.clone())?;
        }
        Ok(Some(record))
    }

    /// Removes a record and the key. Idempotent.
    ///
    /// # Errors
    /// The record may remain.
    pub fn remove(&mut self, id: MemberId) -> Result<()> {
        for extension in ["key", "json"] {
            remove_if_there(&self.path(id, extension))?;
        }
        self.records.remove(&id);
        Ok(())
    }

    /// Reads a member's private key.
    ///
    /// # Errors
    /// When there is none, or it is corrupt.
    pub fn private_key(&self, id: MemberId) -> Result<PrivateKey> {
        read_key(&self.path(id, "key"))
    }

    fn write(&mut self, record: Record) -> Result<()> {
        rename_over(&self.path(record.id, "json"), Durability::ThisBoot, &text_of(&record)?)?;
        self.records.insert(record.id, record);
        Ok(())
    }

    fn path(&self, id: MemberId, extension: &str) -> PathBuf {
        self.dir.join(format!("{id}.{extension}"))
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
