//! Namespaces as files: opening and identifying them. Never enters one, never changes one.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Error, NetnsId, kind};

/// The namespace of the calling thread, which can differ from that of the process.
pub(super) const OWN: &str = "/proc/thread-self/ns/net";

/// The file system of namespaces (`NSFS_MAGIC`, include/uapi/linux/magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Opens the file at `path`, close-on-exec, and checks that it is a network namespace.
pub(super) fn open(path: &Path) -> Result<OwnedFd, Error> {
    let named = |op| move |errno| Error::errno(op, path.display().to_string(), errno);
    // O_PATH first: the path can be a device or a FIFO, and opening one of these can block or act.
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(named("open"))?;
    let no_namespace = |found: String| Error::NotANamespace { path: path.to_owned(), found };
    if !is_nsfs(found.as_fd()).map_err(named("inspect"))? {
        return Err(no_namespace(describe(found.as_fd())));
    }
    let through = format!("/proc/thread-self/fd/{}", found.as_raw_fd());
    let file = rustix::fs::open(&through, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(named("open"))?;
    let kind = kind::of(file.as_fd()).map_err(named("inspect"))?;
    if kind == kind::NETWORK { Ok(file) } else { Err(no_namespace(kind::name(kind).to_owned())) }
}

/// The identity of an open namespace file.
pub(super) fn id_of(file: BorrowedFd<'_>) -> Result<NetnsId, Error> {
    let stat = rustix::fs::fstat(file).map_err(|errno| Error::errno("inspect", "a network namespace", errno))?;
    Ok(NetnsId { dev: stat.st_dev, ino: stat.st_ino })
}

/// Whether an open file is a namespace of any kind.
pub(super) fn is_nsfs(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    // The type of f_type differs between architectures.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, reason = "i64 on some architectures, u32 on others")]
    Ok(rustix::fs::fstatfs(file)?.f_type as u64 == NSFS_MAGIC)
}

/// The kind of an open file, for messages.
pub(super) fn describe(file: BorrowedFd<'_>) -> String {
    use rustix::fs::FileType;
    let kind = rustix::fs::fstat(file).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match kind {
        Ok(FileType::RegularFile) => "a regular file",
        Ok(FileType::Directory) => "a directory",
        Ok(FileType::Symlink) => "a symbolic link",
        Ok(FileType::Socket) => "a socket",
        Ok(FileType::Fifo) => "a FIFO",
        Ok(FileType::CharacterDevice | FileType::BlockDevice) => "a device",
        Ok(FileType::Unknown) | Err(_) => "a file of unknown type",
    }
    .to_owned()
}
