//! Opening a state directory: the lock, and the state file. Blocks.
//!
//! A state file is never overwritten and never deleted. A damaged file is renamed, a newer file is not written to.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::Database;
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags};

use super::disk::{self, Contents, Unusable};
use crate::store::error::OpenError;
use crate::store::state::Prepared;

/// The state file's name in the state directory.
pub(super) const FILE_NAME: &str = "store.redb";
/// A state file that is being made; a crash may leave it, and the next start makes it anew.
const UNFINISHED_NAME: &str = "store.redb.new";
/// Held by the agent that uses the state directory; its process id is inside. Never deleted: that would unlock it.
const LOCK_NAME: &str = "store.lock";

/// An open state file, and the lock on its directory.
#[derive(Debug)]
pub(super) struct StateFile {
    pub(super) path: PathBuf,
    /// `None` after a disk error, until the file is opened again.
    pub(super) database: Option<Database>,
    /// Released when it is closed, after the database: fields are dropped in order.
    _lock: Lock,
}

/// The content of a state directory when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// A state file, which is in use again.
    Existing,
    /// No state file: the state is empty.
    New,
    /// Only state files that an earlier start found corrupt: the state is empty, and probably should not be.
    NewBesideCorrupt {
        /// The files, as they were kept.
        kept: Vec<PathBuf>,
    },
}

/// An opened state directory.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: StateFile,
    pub(super) contents: Contents,
    pub(super) beginning: Beginning,
}

/// Opens a state directory.
pub(super) fn open(directory: &Path) -> Result<Opened, OpenError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| disk_error("create the state directory", directory, error))?;
    let lock = lock(directory)?;
    let path = directory.join(FILE_NAME);
    let (bytes, beginning) = match read_whole(&path) {
        Ok(bytes) => (Some(bytes), Beginning::Existing),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, new_beginning(directory)?),
        Err(error) => return Err(disk_error("read the state file", &path, error)),
    };
    let mut contents = match bytes {
        Some(bytes) => usable(&path, disk::inspect(&bytes))?,
        None => make(directory, &path)?,
    };
    let database = reopen(&path).map_err(|error| disk_error("open the state file", &path, error))?;
    end_old_leases(&database, &mut contents).map_err(|error| disk_error("write the state file", &path, error))?;
    Ok(Opened { file: StateFile { path, database: Some(database), _lock: lock }, contents, beginning })
}

/// Opens the state file of a directory whose lock is held.
pub(super) fn reopen(path: &Path) -> io::Result<Database> {
    let file = options().open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    disk::attach(file)
}

/// Takes the lock of a state directory.
fn lock(directory: &Path) -> Result<Lock, OpenError> {
    let path = directory.join(LOCK_NAME);
    let failed = |operation, error| disk_error(operation, &path, error);
    let file = options().create(true).truncate(false).open(&path).map_err(|error| failed("open", error))?;
    let mut reader = &file;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let pid = reader.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(OpenError::AlreadyOpen { directory: directory.to_owned(), pid });
        }
        Err(error) => return Err(failed("lock", error.into())),
    }
    let pid = format!("{}\n", std::process::id());
    let mut lock = Lock(file);
    let written = lock.0.set_len(0).and_then(|()| lock.0.rewind()).and_then(|()| lock.0.write_all(pid.as_bytes()));
    written.map_err(|error| failed("write", error))?;
    Ok(lock)
}

/// The lock of a state directory, given up when dropped.
///
/// Closing the file would not do: a child that is between its fork and its exec holds the same lock for a moment.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// The contents of a state file that was inspected, or why it cannot be used; a corrupt file is moved aside.
fn usable(path: &Path, inspection: Result<Contents, Unusable>) -> Result<Contents, OpenError> {
    match inspection {
        Ok(contents) => Ok(contents),
        Err(Unusable::Newer { found }) => {
            Err(OpenError::NewerSchema { path: path.to_owned(), found, supported: disk::SCHEMA_VERSION })
        }
        Err(Unusable::Corrupt(detail)) => {
            let kept_as = keep_aside(path).map_err(|error| disk_error("move aside the corrupt", path, error))?;
            Err(OpenError::Corrupt { path: path.to_owned(), kept_as, detail })
        }
        Err(unusable @ Unusable::ForeignFormat(_)) => Err(disk_error("read the state file", path, unusable.into())),
    }
}

/// Renames a corrupt state file to `<name>.corrupt-<unix seconds>`, or the next second that is not taken.
fn keep_aside(path: &Path) -> io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for seconds in now.. {
        let aside = path.with_file_name(format!("{FILE_NAME}.corrupt-{seconds}"));
        match rustix::fs::renameat_with(CWD, path, CWD, &aside, RenameFlags::NOREPLACE) {
            Ok(()) => {
                path.parent().map_or(Ok(()), sync_directory)?;
                return Ok(aside);
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// An empty state; the corrupt files beside it tell the caller whether it should be empty.
fn new_beginning(directory: &Path) -> Result<Beginning, OpenError> {
    let failed = |error| disk_error("list", directory, error);
    let mut kept = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(&format!("{FILE_NAME}.corrupt-")) {
            kept.push(entry.path());
        }
    }
    kept.sort();
    Ok(if kept.is_empty() { Beginning::New } else { Beginning::NewBesideCorrupt { kept } })
}

/// Makes an empty state file. It gets its name when it is complete, so a crash never leaves half of one.
fn make(directory: &Path, path: &Path) -> Result<Contents, OpenError> {
    let unfinished = directory.join(UNFINISHED_NAME);
    let failed = |operation, error| disk_error(operation, &unfinished, error);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", error)),
        Ok(()) | Err(_) => {}
    }
    let create = || {
        let file = options().create_new(true).open(&unfinished)?;
        let handle = file.try_clone()?;
        let database = disk::attach(file)?;
        disk::create(&database)?;
        database.close().map_err(io::Error::other)?;
        handle.sync_all()
    };
    create().map_err(|error| failed("create", error))?;
    fs::rename(&unfinished, path).map_err(|error| failed("rename", error))?;
    sync_directory(directory).map_err(|error| disk_error("sync", directory, error))?;
    Ok(Contents::default())
}

/// Deletes the keys whose leases ended with the process that held them.
fn end_old_leases(database: &Database, contents: &mut Contents) -> io::Result<()> {
    let leased = contents.entries.values().filter(|entry| entry.lease.is_some());
    let changes: std::collections::BTreeMap<_, _> = leased.map(|entry| (entry.key.clone(), None)).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let revision = crate::store::Revision(contents.revision.0 + 1);
    let prepared = Prepared { revision, changes };
    disk::write(database, &prepared)?;
    contents.revision = revision;
    contents.entries.retain(|_, entry| entry.lease.is_none());
    Ok(())
}

fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    options().open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn options() -> fs::OpenOptions {
    let mut options = File::options();
    // A state directory is root's own: a link in it is a mistake or a trap.
    options.read(true).write(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

pub(super) fn disk_error(operation: &'static str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Disk { operation, path: path.to_owned(), source }
}
