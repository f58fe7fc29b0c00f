//! What can go wrong with the programs and their maps. Never acts.

use std::io;
use std::path::{Path, PathBuf};

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use aya::programs::tc::TcError;

use crate::model::IfName;
use crate::netns;

/// Why an operation on a network's programs or maps failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary was built without the eBPF object.
    #[error("this build of privnet has no eBPF programs in it: build it with `cargo xtask build`")]
    NoObject,
    /// Pins need a bpffs.
    #[error("{path} is not on a BPF file system: mount one (`mount -t bpf bpf /sys/fs/bpf`)", path = path.display())]
    NotBpffs {
        /// The directory that was asked for.
        path: PathBuf,
    },
    /// A pinned map is not what this build means by its name. Nothing was changed.
    #[error("pinned map {path} has {found}, expected {expected}: another build of the same ABI version pinned it", path = path.display())]
    Layout {
        /// The pin.
        path: PathBuf,
        /// Kind, key, value, entries and flags by the table.
        expected: String,
        /// The same, of the pinned map.
        found: String,
    },
    /// The object cannot be parsed, or its maps cannot be created.
    #[error("cannot load the eBPF object")]
    Object(#[source] EbpfError),
    /// The kernel refuses a program; the source holds the verifier's log.
    #[error("cannot load program {program}")]
    Load {
        /// The program's name.
        program: &'static str,
        /// The kernel's answer.
        #[source]
        source: Box<ProgramError>,
    },
    /// A pin or its directory.
    #[error("cannot {op} {path}", path = path.display())]
    Pin {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A map refuses an operation.
    #[error("cannot {op} {map} {key}")]
    Map {
        /// What was tried.
        op: &'static str,
        /// The map's name.
        map: &'static str,
        /// Which entry.
        key: String,
        /// The kernel's answer.
        #[source]
        source: Box<MapError>,
    },
    /// A map has no room for another entry.
    #[error("map {map} is full: no room for {key}")]
    Full {
        /// The map's name.
        map: &'static str,
        /// The entry that did not fit.
        key: String,
    },
    /// The interface does not exist in that namespace.
    #[error("no interface {interface} to put {program} on")]
    NoInterface {
        /// The program's name.
        program: &'static str,
        /// The interface's name.
        interface: IfName,
    },
    /// The kernel refuses to attach, find or detach a program.
    #[error("cannot {op} {program} on {interface}: {message}")]
    Attach {
        /// What was tried.
        op: &'static str,
        /// The program's name.
        program: &'static str,
        /// The interface's name.
        interface: IfName,
        /// The kernel's answer.
        message: String,
        /// Its error number, when it gave one.
        errno: Option<i32>,
    },
    /// The namespace to act in.
    #[error(transparent)]
    Netns(#[from] netns::Error),
}

impl Error {
    pub(super) fn pin(op: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Pin { op, path: path.to_owned(), source }
    }

    pub(super) fn from_pin_error(op: &'static str, path: &Path, error: PinError) -> Self {
        let source = match error {
            PinError::SyscallError(error) => error.io_error,
            other @ (PinError::NoFd { .. } | PinError::InvalidPinPath { .. }) => io::Error::other(other),
        };
        Self::pin(op, path, source)
    }

    pub(super) fn map(op: &'static str, map: &'static str, key: impl ToString, source: MapError) -> Self {
        const E2BIG: i32 = 7;
        if errno_of_map(&source) == Some(E2BIG) {
            return Self::Full { map, key: key.to_string() };
        }
        Self::Map { op, map, key: key.to_string(), source: Box::new(source) }
    }
}

/// The kernel's error number in an error of a map.
pub(super) fn errno_of_map(error: &MapError) -> Option<i32> {
    if let MapError::SyscallError(error) = error { error.io_error.raw_os_error() } else { None }
}

/// Takes "it was not there" for done.
pub(super) fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    const ENOENT: i32 = 2;
    match result {
        Err(error) if errno_of_map(&error) == Some(ENOENT) => Ok(()),
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

/// The kernel's error number in an error of a program.
pub(super) fn errno_of_program(error: &ProgramError) -> Option<i32> {
    if let ProgramError::SyscallError(error) = error {
        error.io_error.raw_os_error()
    } else if let ProgramError::TcError(error) = error {
        errno_of_tc(error)
    } else if let ProgramError::NetlinkError(error) = error {
        error.raw_os_error()
    } else if let ProgramError::IOError(error) = error {
        error.raw_os_error()
    } else {
        None
    }
}

/// The kernel's error number in an error of traffic control.
pub(super) fn errno_of_tc(error: &TcError) -> Option<i32> {
    match error {
        TcError::NetlinkError(error) => error.raw_os_error(),
        TcError::IoError(error) => error.raw_os_error(),
        TcError::NulError(_)
        | TcError::AlreadyAttached
        | TcError::InvalidTcxAttach(_)
        | TcError::InvalidLinkOperation => None,
    }
}

/// The kernel's error number in an error of a link.
pub(super) fn errno_of_link(error: &LinkError) -> Option<i32> {
    match error {
        LinkError::SyscallError(error) => error.io_error.raw_os_error(),
        LinkError::InvalidLink | LinkError::UnknownLinkType(_) => None,
    }
}
