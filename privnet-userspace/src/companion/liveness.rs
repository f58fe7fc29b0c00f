//! How a companion learns that its container has ended. The descriptors that it holds keep the container's namespace alive, so
//! the namespace says nothing; the process or the pin by which the container was handed over does.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::privileges::watch;
#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain};
use crate::netns::{self, Netns, NetnsId};

/// What a companion watches to learn that its container has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// The container's process, whose file descriptor becomes readable when it ends.
    Process,
    /// A pin, which must go on naming this namespace.
    Pin {
        /// Its path.
        path: PathBuf,
        /// The namespace.
        netns: NetnsId,
    },
}

/// Why a container cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum LivenessError {
    /// The path does not name the app netns.
    #[error("{path} is not the app netns {netns}", path = path.display())]
    WrongNetns {
        /// The path by which the container was handed over.
        path: PathBuf,
        /// The namespace that it should name.
        netns: NetnsId,
    },
    /// The path names nothing.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The process cannot be watched.
    #[error("cannot watch {path}", path = path.display())]
    Process {
        /// The path of its namespace.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
}

impl Explain for LivenessError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Netns(error) => error.code(),
            Self::WrongNetns { .. } | Self::Process { .. } => ErrorCode::Internal,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::WrongNetns { .. } => Some("the container was replaced: attach it again".to_owned()),
            Self::Netns(error) => error.remedy(),
            Self::Process { .. } => None,
        }
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let path = || PathBuf::from("/proc/17/ns/net");
        rows![
            Self::WrongNetns { .. } => Self::WrongNetns { path: path(), netns: NetnsId { dev: 4, ino: 4_026_532_000 } }, Internal,
                "/proc/17/ns/net is not the app netns net:[4026532000]", "the container was replaced: attach it again";
            Self::Netns(_) => Self::Netns(netns::Error::NotFound { object: "/proc/17/ns/net".to_owned() }), NetnsNotFound,
                "/proc/17/ns/net does not exist", "the container may have ended: start it again";
            Self::Process { .. } => Self::Process { path: path(), source: Errno::MFILE.into() }, Internal,
                "cannot watch /proc/17/ns/net", "";
        ]
    }
}

impl Liveness {
    /// What to watch of the container whose namespace `path` names, and the descriptor of its process if it is a process.
    ///
    /// # Errors
    /// When the path does not name `netns`, or the process cannot be watched.
    pub fn of(path: &Path, netns: NetnsId) -> Result<(Self, Option<OwnedFd>), LivenessError> {
        let process = match process_of(path) {
            None => None,
            // Opened before the namespace is compared, so that it is the process that is in that namespace.
            Some(pid) => Some(rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| match errno {
                Errno::SRCH => netns::Error::NotFound { object: path.display().to_string() }.into(),
                errno => LivenessError::Process { path: path.to_owned(), source: errno.into() },
            })?),
        };
        if Netns::identify(path)? != netns {
            return Err(LivenessError::WrongNetns { path: path.to_owned(), netns });
        }
        let pin = Self::Pin { path: path.to_owned(), netns };
        Ok((if process.is_some() { Self::Process } else { pin }, process))
    }
}

/// The pid in `/proc/<pid>/ns/net`, and in `/proc/<pid>/task/<tid>/ns/net`: a thread of the agent, whose namespace a companion
/// may not look at, and which ends with the agent at the latest.
fn process_of(path: &Path) -> Option<Pid> {
    let inside = path.to_str()?.strip_prefix("/proc/")?.strip_suffix("/ns/net")?;
    let process = inside.split_once("/task/").map_or(inside, |(process, _)| process);
    Pid::from_raw(process.parse().ok()?)
}

/// The watch on one container, in the companion.
#[derive(Debug)]
pub struct LivenessWatch {
    liveness: Liveness,
    process: Option<AsyncFd<OwnedFd>>,
}

impl LivenessWatch {
    /// Watches `liveness`, with the process's descriptor if it is a process. Needs a runtime.
    ///
    /// # Errors
    /// When the two do not belong together, or the runtime cannot watch the descriptor.
    pub fn new(liveness: Liveness, process: Option<OwnedFd>) -> std::io::Result<Self> {
        if process.is_some() != (liveness == Liveness::Process) {
            return Err(std::io::Error::other("the descriptors do not fit the message"));
        }
        Ok(Self { liveness, process: process.map(watch).transpose()? })
    }

    /// What is watched.
    #[must_use]
    pub const fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    /// Returns when the container's process has ended; never, when no process is watched.
    pub async fn ended(&self) {
        match &self.process {
            // An error of the descriptor says nothing about the process, and there is no other way to ask.
            Some(process) => drop(process.readable().await),
            None => std::future::pending().await,
        }
    }

    /// Whether the pin no longer names the namespace. To be asked at intervals: the kernel reports no such change.
    #[must_use]
    pub fn is_unpinned(&self) -> bool {
        match &self.liveness {
            Liveness::Process => false,
            Liveness::Pin { path, netns } => match fs::metadata(path) {
                Ok(found) => (found.dev(), found.ino()) != (netns.dev, netns.ino),
                Err(_) => true,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_recognized_in_its_path_and_nowhere_else() {
        for its in ["/proc/17/ns/net", "/proc/17/task/18/ns/net"] {
            assert_eq!(process_of(Path::new(its)), Pid::from_raw(17), "{its}");
        }
        for other in ["/proc/self/ns/net", "/run/netns/17", "/proc//ns/net", "/proc/0/ns/net", "/proc/task/18/ns/net"] {
            assert_eq!(process_of(Path::new(other)), None, "{other}");
        }
    }

    #[tokio::test]
    async fn a_pin_that_is_gone_or_another_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pin");
        fs::write(&path, "").expect("written");
        let found = fs::metadata(&path).expect("there");
        let netns = NetnsId { dev: found.dev(), ino: found.ino() };
        let watched = LivenessWatch::new(Liveness::Pin { path: path.clone(), netns }, None).expect("watched");
        assert!(!watched.is_unpinned());
        let other = NetnsId { ino: netns.ino + 1, ..netns };
        assert!(
            LivenessWatch::new(Liveness::Pin { path: path.clone(), netns: other }, None)
                .expect("watched")
                .is_unpinned()
        );
        fs::remove_file(&path).expect("removed");
        assert!(watched.is_unpinned());
        assert!(LivenessWatch::new(Liveness::Process, None).is_err(), "a process without its file");
    }
}
