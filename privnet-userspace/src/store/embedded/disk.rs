//! The tables in the state file: the only code that knows their layout. Blocks; never called on the runtime's threads.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableDefinition,
};

use crate::store::contract::Entry;
use crate::store::path::Key;
use crate::store::state::Prepared;
use crate::store::transaction::{LeaseId, Revision};

/// The version of the layout below. A file with a higher version is refused and not touched.
pub(super) const SCHEMA_VERSION: u64 = 1;

/// `schema_version` and `revision`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Key to: revision that put it last, lease or 0, value.
const ENTRIES: TableDefinition<'_, &str, (u64, u64, &[u8])> = TableDefinition::new("entries");

/// The cache of the file: readers are served from memory, so it serves writes alone.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Everything in a state file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) revision: Revision,
    pub(super) entries: BTreeMap<Key, Entry>,
}

/// Why the contents of a state file cannot be used.
#[derive(Debug)]
pub(super) enum Unusable {
    Corrupt(String),
    Newer {
        found: u64,
    },
    /// Written by another redb, and not readable by this one.
    ForeignFormat(String),
}

/// Reads a whole state file from a copy in memory, so that neither a repair nor a failure touches the file.
pub(super) fn inspect(bytes: &[u8]) -> Result<Contents, Unusable> {
    // redb promises errors, not panics, for damaged files, but only as far as it has been fuzzed, and not in debug builds.
    let inspection = std::panic::catch_unwind(|| {
        let database = load(bytes)?;
        read(&database)
    });
    inspection.unwrap_or_else(|_| Err(corrupt("reading it made the database library panic")))
}

fn load(bytes: &[u8]) -> Result<Database, Unusable> {
    // The library would make an empty database of an empty file, which privnet never writes.
    if bytes.is_empty() {
        return Err(corrupt("it is empty"));
    }
    let backend = InMemoryBackend::new();
    backend.set_len(bytes.len() as u64).and_then(|()| backend.write(0, bytes)).map_err(corrupt)?;
    let opened =
        Builder::new().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create_with_backend(backend);
    opened.map_err(|error| {
        let foreign = matches!(error, DatabaseError::UpgradeRequired(_));
        if foreign { Unusable::ForeignFormat(error.to_string()) } else { corrupt(error) }
    })
}

/// Reads everything in an open state file.
pub(super) fn read(database: &Database) -> Result<Contents, Unusable> {
    let transaction = database.begin_read().map_err(corrupt)?;
    let meta = transaction.open_table(META).map_err(corrupt)?;
    let number = |name: &'static str| {
        let value = meta.get(name).map_err(corrupt)?;
        value.map(|value| value.value()).ok_or_else(|| corrupt(format!("it has no {name}")))
    };
    let schema = number("schema_version")?;
    if schema > SCHEMA_VERSION {
        return Err(Unusable::Newer { found: schema });
    }
    let revision = Revision(number("revision")?);
    let table = transaction.open_table(ENTRIES).map_err(corrupt)?;
    let mut entries = BTreeMap::new();
    for row in table.iter().map_err(corrupt)? {
        let (key, row) = row.map_err(corrupt)?;
        let key: Key = key.value().parse().map_err(corrupt)?;
        let (put, lease, value) = row.value();
        if put > revision.0 {
            return Err(corrupt(format!("{key} is at revision {put}, after the newest, {revision}")));
        }
        let lease = (lease != 0).then_some(LeaseId(lease));
        entries.insert(key.clone(), Entry { key, value: value.into(), revision: Revision(put), lease });
    }
    Ok(Contents { revision, entries })
}

/// Opens a state file that [`inspect`] found usable, or one that [`create`] has to be called for.
pub(super) fn attach(file: std::fs::File) -> io::Result<Database> {
    let backend = FileBackend::new(file).map_err(to_io)?;
    Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(to_io)
}

/// Makes the tables, at revision 0.
pub(super) fn create(database: &Database) -> io::Result<()> {
    commit(database, |meta, _| {
        meta.insert("schema_version", SCHEMA_VERSION)?;
        meta.insert("revision", 0)?;
        Ok(())
    })
}

/// Writes a prepared transaction. When this returns without an error, it is on the disk.
pub(super) fn write(database: &Database, prepared: &Prepared) -> io::Result<()> {
    commit(database, |meta, entries| {
        for (key, change) in &prepared.changes {
            match change {
                Some(entry) => {
                    let lease = entry.lease.map_or(0, |lease| lease.0);
                    entries.insert(key.as_str(), (entry.revision.0, lease, &*entry.value))?;
                }
                None => {
                    entries.remove(key.as_str())?;
                }
            }
        }
        meta.insert("revision", prepared.revision.0)?;
        Ok(())
    })
}

/// Pretends that a state file was written by another version.
#[cfg(test)]
pub(super) fn set_schema_version(database: &Database, version: u64) -> io::Result<()> {
    commit(database, |meta, _| meta.insert("schema_version", version).map(|_| ()))
}

type Meta<'t> = redb::Table<'t, &'static str, u64>;
type Entries<'t> = redb::Table<'t, &'static str, (u64, u64, &'static [u8])>;

fn commit(
    database: &Database,
    change: impl FnOnce(&mut Meta<'_>, &mut Entries<'_>) -> Result<(), redb::StorageError>,
) -> io::Result<()> {
    let mut transaction = database.begin_write().map_err(to_io)?;
    // In one phase, a page damaged later would make the next start fall back to the commit before, in silence. In two,
    // it is an error. Costs a second fdatasync.
    transaction.set_two_phase_commit(true);
    {
        let mut meta = transaction.open_table(META).map_err(to_io)?;
        let mut entries = transaction.open_table(ENTRIES).map_err(to_io)?;
        change(&mut meta, &mut entries).map_err(to_io)?;
    }
    transaction.commit().map_err(to_io)
}

fn corrupt(detail: impl fmt::Display) -> Unusable {
    Unusable::Corrupt(detail.to_string())
}

/// The disk's own error where it has one, so that a person reads "no space left on device".
fn to_io(error: impl Into<redb::Error>) -> io::Error {
    let error = error.into();
    if let redb::Error::Io(error) = error { error } else { io::Error::other(error) }
}

impl From<Unusable> for io::Error {
    fn from(unusable: Unusable) -> Self {
        let detail = match unusable {
            Unusable::Corrupt(detail) | Unusable::ForeignFormat(detail) => detail,
            Unusable::Newer { found } => format!("its schema version has become {found}"),
        };
        Self::new(io::ErrorKind::InvalidData, detail)
    }
}
