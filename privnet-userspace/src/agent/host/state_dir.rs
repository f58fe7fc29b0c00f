//! The state directory: made, taken for one agent, and looked at again, since another program can remove or hide it.

use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::{Access, FlockOperation};
use rustix::io::Errno;

use crate::agent::config::wireguard_dirs;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::model::FileError;

/// The state directory of a running agent, which no other agent can take meanwhile.
pub struct StateDir {
    path: PathBuf,
    lock: fs::File,
}

impl StateDir {
    /// Makes the directory at `path`, for root alone, and the one in it by which the WireGuard processes are found: those of an
    /// agent whose state directory was lost are found in this one again.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn prepare(path: &Path) -> Result<()> {
        for directory in [path, &wireguard_dirs(path)] {
            let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            created.map_err(FileError::at("create the state directory", directory))?;
        }
        Ok(())
    }

    /// Which file the lock of the directory is: another one in a copy of the directory.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn lock_id(&self) -> Result<(u64, u64)> {
        let found = self.lock.metadata().map_err(FileError::at("look at", &self.path.join(LOCK)))?;
        Ok((found.dev(), found.ino()))
    }

    /// Takes the directory at `path` for this process, until the value is dropped.
    ///
    /// # Errors
    /// When another agent has it, or it cannot be written.
    pub fn take(path: &Path) -> Result<Self> {
        let file = path.join(LOCK);
        let mut lock = fs::OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .map_err(FileError::at("open", &file))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            return Err(ControlError::new(
                ErrorCode::InvalidArgument,
                format!("another agent (pid {}) uses the state directory {}", pid.trim(), path.display()),
                "stop that agent, or give this one another --state-dir",
            )
            .into());
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(FileError::at("write", &file))?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// Whether the directory at the path is still the one that was taken: the records and keys of the members are in that.
    ///
    /// # Errors
    /// When it was removed, or another one is in its place.
    pub fn check(&self) -> Result<(), ControlError> {
        let id = |found: fs::Metadata| (found.dev(), found.ino());
        let taken = self.lock.metadata().map(id).ok();
        let there = fs::symlink_metadata(self.path.join(LOCK)).map(id).ok();
        if taken.is_some() && taken == there {
            return Ok(());
        }
        let path = self.path.display();
        Err(ControlError::new(
            ErrorCode::Internal,
            format!("the state directory {path} was removed or is hidden by a mount while the agent runs"),
            format!(
                "`umount {path}` if something was mounted over it, else put a copy of it back and restart the agent; \
                 members stay as they are meanwhile"
            ),
        ))
    }

    /// As [`Self::check`], and that its file system can be written: a change that could not be recorded is not begun.
    ///
    /// # Errors
    /// As there, and when it is read-only.
    pub fn check_writable(&self) -> Result<(), ControlError> {
        self.check()?;
        let refused = |errno: Errno| FileError::at("write", &self.path)(errno.into()).into();
        rustix::fs::access(&self.path, Access::WRITE_OK).map_err(refused)
    }
}

/// How many bytes and files a file system has room for; nothing when it does not say.
#[must_use]
pub fn room(dir: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(dir).ok()?;
    // Some file systems make files as long as they have bytes, and count none.
    let files = if found.f_files == 0 { u64::MAX } else { found.f_favail };
    Some((found.f_bavail.saturating_mul(found.f_frsize), files))
}

/// The file whose lock says that the directory is taken.
const LOCK: &str = "agent.lock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_taken_once_and_known_again_until_it_is_removed_or_replaced() {
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join("state");
        StateDir::prepare(&path).expect("made");
        let taken = StateDir::take(&path).expect("free");
        assert_eq!(taken.check(), Ok(()));
        let refused = StateDir::take(&path).err().expect("it is taken");
        assert!(refused.to_string().contains(&format!("pid {}", std::process::id())), "{refused}");

        let aside = parent.path().join("aside");
        fs::rename(&path, &aside).expect("moved");
        let gone = taken.check().expect_err("it is not there");
        assert!(gone.message.contains(&path.display().to_string()) && !gone.remedy.is_empty(), "{gone:?}");
        StateDir::prepare(&path).expect("another one");
        let _other = StateDir::take(&path).expect("free");
        assert!(taken.check().is_err(), "it is another one");
        fs::remove_dir_all(&path).expect("removed");
        fs::rename(&aside, &path).expect("back");
        assert_eq!(taken.check(), Ok(()));
    }
}
