//! The run dir of a companion: the files by which it is found and known to run.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Flock, FlockOffsetType, FlockType, Pid};

const CONTROL_SOCKET: &str = "control.sock";
const PID_FILE: &str = "pid";
const LOG_FILE: &str = "log";

/// Which file it is, by device and inode.
pub type FileId = (u64, u64);

/// The directory of one process: its control socket, its locked pid file and its log.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The directory at `path`, which need not exist.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it, for its owner alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Removes what a process leaves in it, and the directory itself if nothing else is in it.
    ///
    /// # Errors
    /// When a file cannot be removed. Absent is done.
    pub fn remove(&self) -> io::Result<()> {
        for file in [CONTROL_SOCKET, LOG_FILE, PID_FILE] {
            absent_is_done(fs::remove_file(self.0.join(file)))?;
        }
        match absent_is_done(fs::remove_dir(&self.0)) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            result => result,
        }
    }

    /// Where the process logs.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.0.join(LOG_FILE)
    }

    /// A name of the control socket that always fits into the 108 bytes of `sockaddr_un`, valid as long as the file.
    ///
    /// # Errors
    /// ENOENT when the directory does not exist.
    pub fn control_socket(&self) -> io::Result<(OwnedFd, PathBuf)> {
        let directory = rustix::fs::open(&self.0, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{CONTROL_SOCKET}", directory.as_raw_fd()));
        Ok((directory, path))
    }

    /// Which file the control socket is now; nothing where there is none.
    #[must_use]
    pub fn socket_id(&self) -> Option<FileId> {
        fs::symlink_metadata(self.0.join(CONTROL_SOCKET)).ok().as_ref().map(id_of)
    }

    /// Whether the pid file is the one that is open as `lock`.
    #[must_use]
    pub fn has_lock(&self, lock: &fs::File) -> bool {
        let found = fs::symlink_metadata(self.0.join(PID_FILE)).ok().as_ref().map(id_of);
        found.is_some() && found == lock.metadata().ok().as_ref().map(id_of)
    }

    /// Takes the pid file for the calling process, for life: the lock goes with the process, however that ends. It goes too
    /// when the process closes any descriptor of the file (fcntl_locking(2)), so a process calls this once for a file.
    ///
    /// # Errors
    /// EAGAIN or EACCES when another process has it.
    pub fn lock(&self) -> io::Result<fs::File> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file =
            fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.0.join(PID_FILE))?;
        rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        file.set_len(0)?;
        io::Write::write_all(&mut &file, format!("{}\n", std::process::id()).as_bytes())?;
        Ok(file)
    }

    /// The process that holds the lock on the pid file, by the kernel's word. The pid that the file contains may have been
    /// reused.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn owner(&self) -> io::Result<Option<Pid>> {
        let file = match fs::File::open(self.0.join(PID_FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // A read lock over the whole file is in the way of the owner's write lock.
        let probe =
            Flock { start: 0, length: 0, pid: None, typ: FlockType::ReadLock, offset_type: FlockOffsetType::Set };
        Ok(rustix::process::fcntl_getlk(file.as_fd(), &probe)?.and_then(|held| held.pid))
    }
}

fn id_of(found: &fs::Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt as _;
    (found.dev(), found.ino())
}

fn absent_is_done(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_dir_has_no_owner_until_another_process_locks_it_and_leaves_nothing_when_removed() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let run_dir = RunDir::new(&parent.path().join("a/b"));
        assert_eq!(run_dir.owner().expect("absent is no owner"), None);
        run_dir.create().expect("created");
        let lock = run_dir.lock().expect("free");
        // The own lock is not in the way of the own process.
        assert_eq!(run_dir.owner().expect("readable"), None);
        drop(lock);
        run_dir.remove().expect("removed");
        run_dir.remove().expect("removed twice");
        assert!(!run_dir.path().exists());
    }

    #[test]
    fn a_long_directory_still_has_a_control_socket() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let run_dir = RunDir::new(&parent.path().join("x".repeat(100)).join("y".repeat(100)));
        run_dir.create().expect("created");
        let (_directory, socket) = run_dir.control_socket().expect("opened");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("fits");
        assert!(run_dir.path().join(CONTROL_SOCKET).exists());
    }
}
