//! Pins of namespaces, as `ip netns` makes them: creating, listing and removing them.
//!
//! Never enters a namespace. Never removes a file that is neither a pin nor an empty mount point.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};

use super::{Error, Netns, NetnsId, file};
use crate::failpoint::{self, Step};

/// A name in a directory of pins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// The file name.
    pub name: String,
    /// The namespace; `None` for an empty mount point that a crash left behind. [`Netns::create`] uses it again, and
    /// [`Netns::remove`] removes it.
    pub id: Option<NetnsId>,
}

/// The file at the path of a pin.
enum Found {
    Nothing,
    Namespace(NetnsId),
    EmptyFile,
    Other(String),
}

impl Netns {
    /// Creates a namespace and pins it as `<dir>/<name>`, as `ip netns add` does, so that `ip netns` lists it.
    ///
    /// A missing `dir` is created. `dir` becomes a shared mount, so that every mount namespace sees the pin. A mount
    /// point without a mount, which a crash leaves behind, is used again. No interface is set up.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when the name is pinned. After an error this call leaves no pin of that name.
    pub fn create(dir: &Path, name: &str) -> Result<Self, Error> {
        let path = path_of(dir, name)?;
        fs::create_dir_all(dir).map_err(|source| Error::io("create", dir.display().to_string(), source))?;
        let _lock = lock(dir)?;
        share(dir)?;
        match inspect(&path)? {
            Found::Nothing => {
                make_mount_point(&path)?;
                failpoint::passed(Step::MountPoint);
            }
            Found::EmptyFile => tracing::debug!(path = %path.display(), "using a mount point that was left behind"),
            Found::Namespace(_) | Found::Other(_) => return Err(Error::AlreadyExists { path }),
        }
        let pinned = Self::create_anonymous().and_then(|netns| pin(&netns, &path).map(|()| netns));
        match &pinned {
            Ok(netns) => {
                failpoint::passed(Step::Pin);
                tracing::debug!(path = %path.display(), netns = %netns.id(), "created a network namespace");
            }
            // The first error is reported. The next call uses a mount point that stays.
            Err(_) => drop(rustix::fs::unlink(&path)),
        }
        pinned
    }

    /// Removes the pin `<dir>/<name>`, if it exists. The kernel deletes the namespace when nothing else holds it.
    ///
    /// # Errors
    /// [`Error::NotANamespace`] when the file is neither a pin nor an empty mount point: it is left alone.
    pub fn remove(dir: &Path, name: &str) -> Result<(), Error> {
        let path = path_of(dir, name)?;
        let _lock = match lock(dir) {
            Err(Error::NotFound { .. }) => return Ok(()),
            locked => locked?,
        };
        let named = |op| move |errno| Error::errno(op, dir.join(name).display().to_string(), errno);
        loop {
            match inspect(&path)? {
                Found::Nothing => return Ok(()),
                // Once for each mount: mounts can be stacked.
                Found::Namespace(id) => {
                    rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                        .map_err(named("unmount"))?;
                    tracing::debug!(path = %path.display(), netns = %id, "unpinned a network namespace");
                    failpoint::passed(Step::Unpin);
                }
                Found::EmptyFile => return rustix::fs::unlink(&path).map_err(named("remove")),
                Found::Other(found) => return Err(Error::NotANamespace { path, found }),
            }
        }
    }

    /// The pins in `dir`, by name; none when `dir` does not exist. Foreign files are not listed.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the directory cannot be read to its end.
    pub fn list(dir: &Path) -> Result<Vec<Pin>, Error> {
        let failed = |source| Error::io("list", dir.display().to_string(), source);
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut pins = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match inspect(&entry.path())? {
                Found::Namespace(id) => pins.push(Pin { name, id: Some(id) }),
                Found::EmptyFile => pins.push(Pin { name, id: None }),
                // Removed since the listing, or a foreign file.
                Found::Nothing | Found::Other(_) => {}
            }
        }
        pins.sort();
        Ok(pins)
    }

    /// The name of a pin of a namespace in `dir`, of those whose names `is_meant` accepts. One question to the kernel each, where
    /// [`Netns::list`] has four: an attach looks through the pins of all containers of the host.
    ///
    /// # Errors
    /// As of [`Netns::list`].
    pub fn find_pin(dir: &Path, id: NetnsId, is_meant: impl Fn(&str) -> bool) -> Result<Option<String>, Error> {
        let failed = |source| Error::io("list", dir.display().to_string(), source);
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Some(name) = entry.file_name().into_string().ok().filter(|name| is_meant(name)) else { continue };
            // Of the file itself: a symbolic link is foreign. No file elsewhere has a namespace's device and number.
            match entry.metadata() {
                Ok(found) if (NetnsId { dev: found.dev(), ino: found.ino() }) == id => return Ok(Some(name)),
                Ok(_) => {}
                // Removed since the listing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(None)
    }

    /// Removes a directory of pins that [`Netns::create`] made and that has no pin left: its mount, then itself.
    ///
    /// For throw-away directories (the demo, tests), never for [`super::DEFAULT_DIR`].
    ///
    /// # Errors
    /// [`Error::Busy`] when a namespace is pinned there.
    pub fn remove_dir(dir: &Path) -> Result<(), Error> {
        if let Some(pin) = Self::list(dir)?.into_iter().next() {
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
}

/// Binds the namespace of `netns` on the mount point `path`.
fn pin(netns: &Netns, path: &Path) -> Result<(), Error> {
    let target = path.to_owned();
    netns
        .run_blocking(move || rustix::mount::mount_bind(file::OWN, &target))?
        .map_err(|errno| Error::errno("pin a network namespace at", path.display().to_string(), errno))
}

/// Makes `dir` a shared mount, as iproute2 does (ip/ipnetns.c, `netns_add`).
fn share(dir: &Path) -> Result<(), Error> {
    let failed = |op| move |errno| Error::errno(op, dir.display().to_string(), errno);
    // Not recursive: mounts made on a shared mount are shared, and each call would visit thousands of pins.
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

/// Locks `dir`, so that two processes do not bind it twice; iproute2 takes the same lock. Held until the file is
/// closed.
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

/// Inspects `path` itself: a symbolic link is foreign and not followed.
fn inspect(path: &Path) -> Result<Found, Error> {
    let failed = |errno| Error::errno("inspect", path.display().to_string(), errno);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Found::Nothing),
        opened => opened.map_err(failed)?,
    };
    if file::is_nsfs(found.as_fd()).map_err(failed)? {
        return file::id_of(found.as_fd()).map(Found::Namespace);
    }
    let stat = rustix::fs::fstat(&found).map_err(failed)?;
    let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
    Ok(if is_file && stat.st_size == 0 { Found::EmptyFile } else { Found::Other(file::describe(found.as_fd())) })
}

fn path_of(dir: &Path, name: &str) -> Result<PathBuf, Error> {
    if name.is_empty() || name.len() > 255 || name == "." || name == ".." || name.contains(['/', '\0']) {
        let expected = "expected a file name of 1 to 255 bytes without '/'";
        return Err(Error::Invalid { what: "namespace name", value: name.to_owned(), expected });
    }
    Ok(dir.join(name))
}
