//! Errors of operations on programs and their maps. Never acts.

use std::io;
use std::path::{Path, PathBuf};

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use aya::programs::tc::TcError;

use crate::model::explain::file_system_remedy;
#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain, IfName};
use crate::netns;

/// Why an operation on a network's programs or maps failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary was built without the eBPF object.
    #[error("this build of privnet has no eBPF programs in it")]
    NoObject,
    /// The directory for the pins is not on a bpffs.
    #[error("{path} is not on a BPF file system", path = path.display())]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// A pinned map differs from the table of this build. Nothing was changed.
    #[error("pinned map {path} has {found}, and this build expects {expected}", path = path.display())]
    Layout {
        /// The pin.
        path: PathBuf,
        /// Type, key, value, entries and flags by the table.
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
        /// The kernel's error.
        #[source]
        source: Box<ProgramError>,
    },
    /// An operation on a pin or its directory failed.
    #[error("cannot {op} {path}", path = path.display())]
    Pin {
        /// The operation, a verb.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses an operation on a map.
    #[error("cannot {op} {map} {key}")]
    Map {
        /// The operation, a verb.
        op: &'static str,
        /// The map's name.
        map: &'static str,
        /// The entry.
        key: String,
        /// The kernel's error.
        #[source]
        source: Box<MapError>,
    },
    /// A map is full.
    #[error("map {map} is full: no room for {key}")]
    Full {
        /// The map's name.
        map: &'static str,
        /// The entry that was not added.
        key: String,
    },
    /// The interface does not exist in the namespace.
    #[error("no interface {interface} for program {program}")]
    NoInterface {
        /// The program's name.
        program: &'static str,
        /// The interface's name.
        interface: IfName,
    },
    /// The kernel refuses to attach, find or detach a program.
    #[error("cannot {op} {program} on {interface}: {message}")]
    Attach {
        /// The operation, a verb.
        op: &'static str,
        /// The program's name.
        program: &'static str,
        /// The interface's name.
        interface: IfName,
        /// The kernel's error.
        message: String,
        /// The kernel's error number, if any.
        errno: Option<i32>,
    },
    /// An operation on the namespace failed.
    #[error(transparent)]
    Netns(#[from] netns::Error),
}

/// The error number of a file system that is mounted read-only; from_pin opens a pin to write.
const EROFS: i32 = 30;

fn read_only() -> Option<String> {
    file_system_remedy(&io::Error::from_raw_os_error(EROFS), "the pinned programs and maps")
}

impl Explain for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Netns(error) => error.code(),
            Self::NoObject
            | Self::NotBpffs { .. }
            | Self::Layout { .. }
            | Self::Object(_)
            | Self::Load { .. }
            | Self::Pin { .. }
            | Self::Map { .. }
            | Self::Full { .. }
            | Self::NoInterface { .. }
            | Self::Attach { .. } => ErrorCode::Internal,
        }
    }

    fn remedy(&self) -> Option<String> {
        let text = match self {
            Self::Pin { path, source, .. } => return file_system_remedy(source, &path.display().to_string()),
            Self::Load { source, .. } if errno_of_program(source) == Some(EROFS) => return read_only(),
            Self::Map { source, .. } if errno_of_map(source) == Some(EROFS) => return read_only(),
            Self::NoObject => "build it with `cargo xtask build`",
            Self::NotBpffs { .. } => "mount one: `mount -t bpf bpf /sys/fs/bpf`",
            Self::Layout { .. } => {
                "another build of the same ABI version pinned it: run that build again, or detach the network's members \
                 on this host"
            }
            Self::Object(_) | Self::Load { .. } => {
                "`privnet doctor` shows what the kernel lacks; --datapath bridge needs no eBPF programs to forward"
            }
            Self::Full { .. } => "use fewer members or another network: the map cannot grow",
            Self::Netns(error) => return error.remedy(),
            Self::Map { .. } | Self::NoInterface { .. } | Self::Attach { .. } => return None,
        };
        Some(text.to_owned())
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let wg0: IfName = "wg0".parse().expect("a name");
        let ebpf = "`privnet doctor` shows what the kernel lacks; --datapath bridge needs no eBPF programs to forward";
        rows![
            Self::NoObject => Self::NoObject, Internal,
                "this build of privnet has no eBPF programs in it", "build it with `cargo xtask build`";
            Self::NotBpffs { .. } => Self::NotBpffs { path: "/tmp".into() }, Internal,
                "/tmp is not on a BPF file system", "mount one: `mount -t bpf bpf /sys/fs/bpf`";
            Self::Layout { .. } => Self::Layout {
                    path: "/sys/fs/bpf/x".into(),
                    expected: "8 bytes".to_owned(),
                    found: "4 bytes".to_owned(),
                }, Internal,
                "pinned map /sys/fs/bpf/x has 4 bytes, and this build expects 8 bytes",
                "another build of the same ABI version pinned it: run that build again, or detach the network's members on this host";
            Self::Object(_) => Self::Object(EbpfError::BtfError(aya::BtfError::UnexpectedBtfType { type_id: 1 })), Internal,
                "cannot load the eBPF object", ebpf;
            Self::Load { .. } => Self::Load { program: "guard", source: Box::new(ProgramError::NotLoaded) }, Internal,
                "cannot load program guard", ebpf;
            Self::Pin { .. } => Self::pin("pin", Path::new("/sys/fs/bpf/x"), io::ErrorKind::Other.into()), Internal,
                "cannot pin /sys/fs/bpf/x", "";
            Self::Pin { .. } => Self::pin("pin", Path::new("/sys/fs/bpf/x"), io::ErrorKind::ReadOnlyFilesystem.into()), Internal,
                "cannot pin /sys/fs/bpf/x",
                "the file system of /sys/fs/bpf/x is read-only: `dmesg` may say why; repair it and mount it writable";
            Self::Load { .. } => Self::Load {
                    program: "guard",
                    source: Box::new(ProgramError::IOError(io::Error::from_raw_os_error(EROFS))),
                }, Internal,
                "cannot load program guard",
                "the file system of the pinned programs and maps is read-only: `dmesg` may say why; repair it and mount it writable";
            Self::Map { .. } => Self::map("insert into", "pn_ports", 7, MapError::OutOfBounds { index: 1, max_entries: 1 }), Internal,
                "cannot insert into pn_ports 7", "";
            Self::Full { .. } => Self::Full { map: "pn_ports", key: "7".to_owned() }, Internal,
                "map pn_ports is full: no room for 7", "use fewer members or another network: the map cannot grow";
            Self::NoInterface { .. } => Self::NoInterface { program: "guard", interface: wg0.clone() }, Internal,
                "no interface wg0 for program guard", "";
            Self::Attach { .. } => Self::Attach {
                    op: "attach",
                    program: "guard",
                    interface: wg0.clone(),
                    message: "Invalid argument".to_owned(),
                    errno: Some(22),
                }, Internal,
                "cannot attach guard on wg0: Invalid argument", "";
            Self::Netns(_) => Self::Netns(netns::Error::NotFound { object: "/run/netns/a".to_owned() }), NetnsNotFound,
                "/run/netns/a does not exist", "the container may have ended: start it again";
        ]
    }
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

/// Success also when the entry did not exist.
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
