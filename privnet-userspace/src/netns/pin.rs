//! Namespaces as files: opening, identifying, pinning as `ip netns` does, listing and removing pins.
//!
//! Never enters a namespace. Never removes a file that is neither a pin nor an empty mount point.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};

use super::{Error, Netns, NetnsId, enter, kind};

/// The file system of namespaces (`NSFS_MAGIC`, include/uapi/linux/magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// One name in a directory of pins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// The file name.
    pub name: String,
    /// The namespace; `None` for an empty mount point that a crash left behind. [`Netns::create`] uses that again,
    /// [`Netns::remove`] removes it.
    pub id: Option<NetnsId>,
}

/// What stands at the path of a pin.
enum Found {
    Nothing,
    Namespace(NetnsId),
    EmptyFile,
    Other(String),
}

/// Opens the namespace file at `path`, close-on-exec, and makes sure that it is one.
pub(super) fn open_file(path: &Path) -> Result<OwnedFd, Error> {
    let named = |op| move |errno| Error::errno(op, path.display().to_string(), errno);
    // O_PATH first: opening for real what the path turns out to be (a device, a FIFO) could block or act.
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(named("open"))?;
    let not_one = |found: String| Error::NotANamespace { path: path.to_owned(), found };
    if !is_nsfs(place.as_fd()).map_err(named("inspect"))? {
        return Err(not_one(describe(place.as_fd())));
    }
    let through = format!("/proc/thread-self/fd/{}", place.as_raw_fd());
    let file = rustix::fs::open(&through, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(named("open"))?;
    let found = kind::of(file.as_fd()).map_err(named("inspect"))?;
    if found == kind::NETWORK { Ok(file) } else { Err(not_one(kind::name(found).to_owned())) }
}

/// The identity of an open namespace file.
pub(super) fn id_of(file: BorrowedFd<'_>) -> Result<NetnsId, Error> {
    let stat = rustix::fs::fstat(file).map_err(|errno| Error::errno("inspect", "a network namespace", errno))?;
    Ok(NetnsId { dev: stat.st_dev, ino: stat.st_ino })
}

pub(super) fn create(dir: &Path, name: &str) -> Result<Netns, Error> {
    let path = path_of(dir, name)?;
    fs::create_dir_all(dir).map_err(|source| Error::io("create", dir.display().to_string(), source))?;
    let _lock = lock(dir)?;
    share(dir)?;
    match look(&path)? {
        Found::Nothing => make_mount_point(&path)?,
        Found::EmptyFile => tracing::debug!(path = %path.display(), "using a mount point that was left behind"),
        Found::Namespace(_) | Found::Other(_) => return Err(Error::AlreadyExists { path }),
    }
    let pinned = Netns::create_anonymous().and_then(|netns| pin(&netns, &path).map(|()| netns));
    match &pinned {
        Ok(netns) => tracing::debug!(path = %path.display(), netns = %netns.id(), "created a network namespace"),
        // The first error is the one to report; a mount point that stays is found again by `look`.
        Err(_) => drop(rustix::fs::unlink(&path)),
    }
    pinned
}

pub(super) fn remove(dir: &Path, name: &str) -> Result<(), Error> {
    let path = path_of(dir, name)?;
    let _lock = match lock(dir) {
        Err(Error::NotFound { .. }) => return Ok(()),
        locked => locked?,
    };
    let named = |op| move |errno| Error::errno(op, dir.join(name).display().to_string(), errno);
    loop {
        match look(&path)? {
            Found::Nothing => return Ok(()),
            // Once for each mount, should they be stacked.
            Found::Namespace(id) => {
                rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                    .map_err(named("unmount"))?;
                tracing::debug!(path = %path.display(), netns = %id, "unpinned a network namespace");
            }
            Found::EmptyFile => return rustix::fs::unlink(&path).map_err(named("remove")),
            Found::Other(found) => return Err(Error::NotANamespace { path, found }),
        }
    }
}

pub(super) fn list(dir: &Path) -> Result<Vec<Pin>, Error> {
    let failed = |source| Error::io("list", dir.display().to_string(), source);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut pins = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        match look(&entry.path())? {
            Found::Namespace(id) => pins.push(Pin { name, id: Some(id) }),
            Found::EmptyFile => pins.push(Pin { name, id: None }),
            // Gone since it was listed, or a stranger's.
            Found::Nothing | Found::Other(_) => {}
        }
    }
    pins.sort();
    Ok(pins)
}

pub(super) fn remove_dir(dir: &Path) -> Result<(), Error> {
    if let Some(pin) = list(dir)?.into_iter().next() {
        return Err(Error::Busy { path: dir.to_owned(), holder: pin.name });
    }
    loop {
        match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // EINVAL: it is no mount point (any more).
            Err(Errno::INVAL) => break,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(Error::errno("unmount", dir.display().to_string(), errno)),
        }
    }
    fs::remove_dir(dir).map_err(|source| Error::io("remove", dir.display().to_string(), source))
}

/// Binds the namespace of `netns` on the mount point `path`.
fn pin(netns: &Netns, path: &Path) -> Result<(), Error> {
    let target = path.to_owned();
    netns
        .run_blocking(move || rustix::mount::mount_bind(enter::OWN, &target))?
        .map_err(|errno| Error::errno("pin a network namespace at", path.display().to_string(), errno))
}

/// Makes `dir` a mount point whose mounts propagate, as iproute2 does (ip/ipnetns.c, `netns_add`).
fn share(dir: &Path) -> Result<(), Error> {
    let failed = |op| move |errno| Error::errno(op, dir.display().to_string(), errno);
    // Not below it as well: what is mounted on a shared mount is shared, and thousands of pins would be visited each time.
    match rustix::mount::mount_change(dir, MountPropagationFlags::SHARED) {
        // EINVAL: it is no mount point.
        Err(Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(dir, dir).map_err(failed("bind"))?;
            let flags = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
            rustix::mount::mount_change(dir, flags).map_err(failed("share"))
        }
        changed => changed.map_err(failed("share")),
    }
}

/// Keeps two creators from binding `dir` twice; iproute2 takes the same lock. Held until the file is closed.
fn lock(dir: &Path) -> Result<OwnedFd, Error> {
    let failed = |errno| Error::errno("lock", dir.display().to_string(), errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let file = rustix::fs::open(dir, flags, Mode::empty()).map_err(failed)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(failed)?;
    Ok(file)
}

fn make_mount_point(path: &Path) -> Result<(), Error> {
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(_) => Ok(()),
        Err(Errno::EXIST) => Err(Error::AlreadyExists { path: path.to_owned() }),
        Err(errno) => Err(Error::errno("create", path.display().to_string(), errno)),
    }
}

/// Looks at `path` itself: a symbolic link is a stranger's.
fn look(path: &Path) -> Result<Found, Error> {
    let failed = |errno| Error::errno("inspect", path.display().to_string(), errno);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Found::Nothing),
        place => place.map_err(failed)?,
    };
    if is_nsfs(place.as_fd()).map_err(failed)? {
        return id_of(place.as_fd()).map(Found::Namespace);
    }
    let stat = rustix::fs::fstat(&place).map_err(failed)?;
    let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
    Ok(if is_file && stat.st_size == 0 { Found::EmptyFile } else { Found::Other(describe(place.as_fd())) })
}

fn is_nsfs(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    // The type of f_type differs between architectures.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, reason = "i64 on some architectures, u32 on others")]
    Ok(rustix::fs::fstatfs(file)?.f_type as u64 == NSFS_MAGIC)
}

fn describe(file: BorrowedFd<'_>) -> String {
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

fn path_of(dir: &Path, name: &str) -> Result<PathBuf, Error> {
    if name.is_empty() || name.len() > 255 || name == "." || name == ".." || name.contains(['/', '\0']) {
        let expected = "expected a file name of 1 to 255 bytes without '/'";
        return Err(Error::Invalid { what: "namespace name", value: name.to_owned(), expected });
    }
    Ok(dir.join(name))
}
