//! What an error says to its reader, and to the program that acts on it.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The rows of an error enum. A variant without a row does not compile, nor does a row of another variant pass.
#[cfg(test)]
macro_rules! rows {
    ($($variant:pat => $error:expr, $code:ident, $message:expr, $remedy:expr;)+) => {{
        #[allow(unreachable_patterns, reason = "a variant may have several rows")]
        let _every_variant: fn(&Self) = |error| match error { $($variant => {})+ };
        vec![$({
            let error: Self = $error;
            assert!(matches!(error, $variant), "{error:?} stands in the row of another variant");
            $crate::model::explain::Row { error, code: $crate::model::ErrorCode::$code, message: $message, remedy: $remedy }
        }),+]
    }};
}
#[cfg(test)]
pub(crate) use rows;

/// An error that the agent recognizes in a chain of causes. The list in `agent/door/explain.rs` implements it, and nothing
/// else does: an error that explains itself and is not in the list does not compile.
pub trait Listed {}

/// An error that reaches a person. Each error enum implements it beside its variants.
///
/// The message is the error's `Display`: what happened to which object, in lower case, on one line. The kernel's own
/// words follow from its `source`.
pub trait Explain: Error + Listed {
    /// What went wrong, for programs.
    fn code(&self) -> ErrorCode;

    /// What the person can do, in one sentence; nothing when the log is the only help.
    fn remedy(&self) -> Option<String>;

    /// What happened, without what to do about it.
    fn message(&self) -> String {
        self.to_string()
    }

    /// Whether the same request can succeed later although nothing was changed.
    fn can_retry(&self) -> bool {
        self.code().can_retry()
    }

    /// Each variant with the texts that it must have.
    #[cfg(test)]
    fn rows() -> Vec<Row<Self>>
    where
        Self: Sized;
}

/// What went wrong, for programs. The names are part of the contract and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
pub enum ErrorCode {
    /// The request is malformed.
    InvalidArgument,
    /// No network has this id or name.
    NetworkNotFound,
    /// A network of this name exists.
    NetworkExists,
    /// The network has members.
    NetworkNotEmpty,
    /// The subnet cannot be used.
    InvalidSubnet,
    /// The container is in another network whose subnet overlaps.
    SubnetOverlap,
    /// No such member.
    MemberNotFound,
    /// The member exists, in another namespace, on another host, or otherwise than it is asked for.
    MemberExists,
    /// Another member holds the address.
    AddressTaken,
    /// The address is not one that a member of this network can have.
    AddressInvalid,
    /// Every address of the subnet is held.
    PoolExhausted,
    /// There is no namespace at this path, or no such process.
    NetnsNotFound,
    /// The path is not a network namespace, or one that must not be attached.
    NetnsInvalid,
    /// The underlay leaves no room for the tunnels.
    MtuTooSmall,
    /// Members of this host's name were made by another instance of its agent, or this host was forgotten.
    HostNotAdopted,
    /// An operator empties this host.
    HostDraining,
    /// Another user of the fleet's VXLAN port or of the VNI stands in the way.
    VtepConflict,
    /// The container was asked for a connection, and refused it or cannot be reached.
    ConnectionFailed,
    /// The kernel lacks what was asked for.
    Unsupported,
    /// No permission.
    PermissionDenied,
    /// The store cannot be reached, or refused.
    StoreUnavailable,
    /// The store did not say whether the change happened; it may happen yet.
    OutcomeUnknown,
    /// It did not finish in time; it may yet.
    Timeout,
    /// The agent is not running.
    AgentUnavailable,
    /// The kernel refused, or a fault of ours.
    Internal,
}

impl ErrorCode {
    /// Whether the same request can succeed later although nothing was changed.
    #[must_use]
    pub const fn can_retry(self) -> bool {
        matches!(self, Self::StoreUnavailable | Self::OutcomeUnknown | Self::Timeout | Self::AgentUnavailable)
    }
}

/// What to do about a file that could not be written because of its file system; nothing for any other failure.
///
/// `place` is the file or directory, as the person knows it.
#[must_use]
pub fn file_system_remedy(error: &io::Error, place: &str) -> Option<String> {
    let kind = error.kind();
    if kind == io::ErrorKind::StorageFull {
        Some(format!(
            "the disk is full: free space on the file system of {place} (`df -h` and `df -i` show how full it is)"
        ))
    } else if kind == io::ErrorKind::QuotaExceeded {
        Some(format!("the disk quota is used up: free space on the file system of {place}, or raise the quota"))
    } else if kind == io::ErrorKind::ReadOnlyFilesystem {
        Some(format!("the file system of {place} is read-only: `dmesg` may say why; repair it and mount it writable"))
    } else {
        None
    }
}

/// The kernel's word for a process, or a machine, without a free file descriptor.
pub const NO_DESCRIPTORS: &str = "Too many open files";

/// Whether an error, or a cause of it, is that no file descriptor was free: it says nothing of what was looked for.
#[must_use]
pub fn lacks_descriptors(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| (*error).source())
        .any(|error| error.to_string().contains(NO_DESCRIPTORS))
}

/// A file or directory that could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {}", path.display())]
pub struct FileError {
    /// What was tried, a verb: "write".
    pub op: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The kernel's reason.
    pub source: io::Error,
}

impl FileError {
    /// A closure for `map_err`: the failure of `op` on `path`.
    pub fn at(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { op, path, source }
    }
}

impl Explain for FileError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Internal
    }

    fn remedy(&self) -> Option<String> {
        file_system_remedy(&self.source, &self.path.display().to_string())
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let failed = |kind: io::ErrorKind| Self { op: "write", path: "/var/lib/privnet/x".into(), source: kind.into() };
        rows![
            Self { .. } => failed(io::ErrorKind::StorageFull), Internal,
                "cannot write /var/lib/privnet/x",
                "the disk is full: free space on the file system of /var/lib/privnet/x (`df -h` and `df -i` show how full it is)";
            Self { .. } => failed(io::ErrorKind::QuotaExceeded), Internal,
                "cannot write /var/lib/privnet/x",
                "the disk quota is used up: free space on the file system of /var/lib/privnet/x, or raise the quota";
            Self { .. } => failed(io::ErrorKind::ReadOnlyFilesystem), Internal,
                "cannot write /var/lib/privnet/x",
                "the file system of /var/lib/privnet/x is read-only: `dmesg` may say why; repair it and mount it writable";
            Self { .. } => failed(io::ErrorKind::NotFound), Internal, "cannot write /var/lib/privnet/x", "";
        ]
    }
}

/// One variant of an error, and what it has to say.
#[cfg(test)]
pub struct Row<E> {
    /// The variant.
    pub error: E,
    /// Its code.
    pub code: ErrorCode,
    /// Its message, without its causes.
    pub message: &'static str,
    /// Its remedy; empty when there is none.
    pub remedy: &'static str,
}
