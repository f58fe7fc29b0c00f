//! One process uses a demo's name at a time.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::time::{Duration, Instant};

use privnet::agent::{ControlError, ErrorCode};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::name::Name;

/// How long a lock may outlive its demo: in a process that it had forked, and that had not become another program yet.
const LOCK_PATIENCE: Duration = Duration::from_millis(100);

/// Says that this process uses the name. No other process makes the directory; the lock ends with the process.
pub struct Claim {
    _lock: fs::File,
}

impl Claim {
    /// Makes the directory of a free name, and locks it.
    ///
    /// # Errors
    /// The directory is there already, or cannot be made.
    pub fn take(name: &Name) -> Result<Self, ControlError> {
        let dir = name.run_dir();
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|error| {
            let message = format!("cannot make the demo's directory {}: {error}", dir.display());
            ControlError::new(ErrorCode::Internal, message, format!("if it is left over: privnet demo --remove {name}"))
        })?;
        Self::lock(name).inspect_err(|_| drop(fs::remove_dir_all(&dir)))
    }

    /// Locks the directory of a demo that has ended.
    ///
    /// # Errors
    /// The demo runs.
    pub fn lock(name: &Name) -> Result<Self, ControlError> {
        let failed = |error: io::Error| {
            let message = format!("cannot lock {}: {error}", name.lock_file().display());
            ControlError::new(ErrorCode::Internal, message, "if the demo is running, end it first")
        };
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(name.lock_file());
        let file = file.map_err(failed)?;
        let start = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _lock: file }),
                Err(Errno::AGAIN) if start.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_PATIENCE / 10),
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }
}
