//! A file that root was told to write: reached without a symbolic link, regular, and not the host's own.
//!
//! A file that exists is written in place and never replaced by rename. A runtime mounts it into its container (Docker, Podman,
//! `ip netns exec`), and a mount follows the file and not its name: programs that run would go on reading the old file, and
//! inside of the container the kernel refuses the rename with EBUSY. A file that does not exist is mounted nowhere, and appears
//! by rename, whole.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::agent::door::views::ProblemView;
use crate::failpoint::{self, Step};
use crate::model::explain::file_system_remedy;

/// The largest file that is read, in bytes: resolv.conf(5) needs far less.
const MOST_BYTES: u64 = 64 << 10;
/// The mode of a file that is made: every program reads it.
const MODE: Mode = Mode::from_raw_mode(0o644);

/// Where a file is: a directory that was reached without a link, and a name in it.
pub struct Place {
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
}

/// A regular file, as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileId {
    /// The number of its file system.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
}

/// A file that may be written.
pub struct Opened {
    file: File,
    path: PathBuf,
    /// Which file it is.
    pub id: FileId,
}

impl Place {
    /// Reaches the directory of `path`.
    ///
    /// # Errors
    /// When the path leads through a symbolic link, be it one of `/proc`: in a file system that a container writes, a link leads
    /// where the container wants.
    pub fn find(path: &Path) -> Result<Self, ProblemView> {
        let (Some(directory), Some(name), true) = (path.parent(), path.file_name(), path.is_absolute()) else {
            return Err(problem(
                path,
                "it is not the absolute path of a file",
                "give the path of the container's resolv.conf",
            ));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat2(CWD, directory, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
        let directory = opened.map_err(|errno| refused(path, errno))?;
        Ok(Self { directory, name: name.to_owned(), path: path.to_owned() })
    }

    /// Opens the file; nothing when there is none. `host` is the host's own, which is never opened.
    ///
    /// # Errors
    /// When it is a link, not a regular file, or the host's own.
    pub fn open(&self, host: &Path) -> Result<Option<Opened>, ProblemView> {
        // Opened as a path first: to open a device or a FIFO may act or wait.
        let place = match self.open_at(OFlags::PATH | OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            place => place.map_err(|errno| refused(&self.path, errno))?,
        };
        let stat = rustix::fs::fstat(&place).map_err(|errno| refused(&self.path, errno))?;
        let remedy = "give the path of the container's own resolv.conf, a regular file";
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => return Err(refused(&self.path, Errno::LOOP)),
            FileType::Directory
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Err(problem(&self.path, "it is not a regular file", remedy)),
        }
        let id = FileId { dev: stat.st_dev, ino: stat.st_ino };
        if std::fs::metadata(host).is_ok_and(|found| FileId { dev: found.dev(), ino: found.ino() } == id) {
            return Err(problem(&self.path, "it is the host's own resolv.conf", remedy));
        }
        let through = format!("/proc/thread-self/fd/{}", place.as_fd().as_raw_fd());
        let file = File::options().read(true).write(true).open(through);
        let file = file.map_err(|error| failed("open", &self.path, &error))?;
        Ok(Some(Opened { file, path: self.path.clone(), id }))
    }

    /// Makes the file, whole; false when one has appeared meanwhile.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self, text: &str) -> Result<bool, ProblemView> {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(".privnet");
        let failed = |errno: Errno| failed("create", &self.path, &errno.into());
        // What an agent left that died here.
        match rustix::fs::unlinkat(&self.directory, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, &name, flags, MODE).map_err(failed)?;
        // Whatever the umask.
        let written = rustix::fs::fchmod(&file, MODE)
            .map_err(io::Error::from)
            .and_then(|()| File::from(file).write_all_at(text.as_bytes(), 0))
            .map_err(|error| self::failed("write", &self.path, &error))
            .and_then(|()| {
                let (from, to) = (&self.directory, &self.directory);
                match rustix::fs::renameat_with(from, &name, to, &self.name, RenameFlags::NOREPLACE) {
                    Ok(()) => Ok(true),
                    Err(Errno::EXIST) => Ok(false),
                    Err(errno) => Err(failed(errno)),
                }
            });
        if !matches!(written, Ok(true)) {
            // The first error says more.
            let _ = rustix::fs::unlinkat(&self.directory, &name, AtFlags::empty());
        }
        written
    }

    /// Removes the file; absent is done.
    ///
    /// # Errors
    /// When it cannot be removed: it is mounted, or the file system is read-only.
    pub fn remove(&self) -> Result<(), ProblemView> {
        match rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("remove", &self.path, &errno.into())),
        }
    }

    fn open_at(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.directory, &self.name, flags | OFlags::CLOEXEC, Mode::empty(), within) {
            // With NOFOLLOW and NO_SYMLINKS a link in the last place is opened as itself or refused, by kernel.
            Err(Errno::XDEV) => Err(Errno::LOOP),
            opened => opened,
        }
    }
}

impl Opened {
    /// What it says.
    ///
    /// # Errors
    /// When it is too long or no text.
    pub fn read(&self) -> Result<String, ProblemView> {
        let mut bytes = Vec::new();
        let mut from_start = &self.file;
        io::Seek::rewind(&mut from_start).map_err(|error| failed("read", &self.path, &error))?;
        from_start.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed("read", &self.path, &error))?;
        let is_short = u64::try_from(bytes.len()).is_ok_and(|length| length <= MOST_BYTES);
        let text = String::from_utf8(bytes).ok().filter(|_| is_short);
        text.ok_or_else(|| {
            problem(&self.path, "it is no resolv.conf: it is no text, or longer than 64 KiB", "give another path")
        })
    }

    /// Writes it in place: first the new text over the old one, then the end. Killed in between, it says the new text and the
    /// rest of the old one.
    ///
    /// # Errors
    /// When it cannot be written; it may be in part.
    pub fn write(&self, text: &str) -> Result<(), ProblemView> {
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let written = self.file.write_all_at(text.as_bytes(), 0).and_then(|()| {
            failpoint::passed(Step::ResolvConf);
            self.file.set_len(length)
        });
        written.map_err(|error| failed("write", &self.path, &error))
    }
}

/// A problem with the file at `path`.
pub fn problem(path: &Path, why: impl Into<String>, remedy: impl Into<String>) -> ProblemView {
    ProblemView { what: path.display().to_string(), why: why.into(), remedy: remedy.into() }
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> ProblemView {
    let remedy = file_system_remedy(error, &path.display().to_string());
    let remedy = remedy.unwrap_or_else(|| "see its permissions and its file system, and attach again".to_owned());
    problem(path, format!("cannot {verb} it: {error}"), remedy)
}

/// A path that the kernel does not open.
fn refused(path: &Path, errno: Errno) -> ProblemView {
    match errno {
        Errno::LOOP => {
            let remedy = format!("give the path without links: `realpath {}` shows it", path.display());
            problem(path, "it leads through a symbolic link, which may lead elsewhere tomorrow", remedy)
        }
        Errno::NOENT | Errno::NOTDIR => {
            problem(path, "its directory does not exist", "make the directory, and attach again")
        }
        errno => failed("open", path, &errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A directory without a link in its path.
    fn directory() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().canonicalize().expect("it exists");
        (directory, path)
    }

    fn why(path: &Path, host: &Path) -> String {
        let opened = Place::find(path).and_then(|place| place.open(host).map(|_| ()));
        opened.map_or_else(|problem| format!("{}: {}", problem.why, problem.remedy), |()| "opened".to_owned())
    }

    #[test]
    fn only_a_regular_file_is_opened_that_no_link_leads_to_and_that_is_not_the_hosts() {
        let (_keep, dir) = directory();
        let (own, host) = (dir.join("c/etc/resolv.conf"), dir.join("host"));
        fs::create_dir_all(dir.join("c/etc")).expect("made");
        fs::write(&own, "nameserver 192.0.2.1\n").expect("written");
        fs::write(&host, "nameserver 192.0.2.2\n").expect("written");
        // The twin of all that follows.
        assert_eq!(why(&own, &host), "opened");
        assert_eq!(why(&dir.join("c/etc/none"), &host), "opened", "it can be made");
        let neighbour = dir.join("neighbour");
        fs::write(&neighbour, "").expect("written");
        for (link, target) in
            [("c/etc/abroad", "../../host"), ("c/etc/absolute", "/etc/hosts"), ("c/etc/near", "resolv.conf")]
        {
            symlink(target, dir.join(link)).expect("linked");
            assert!(why(&dir.join(link), &host).contains("symbolic link"), "{link}: {}", why(&dir.join(link), &host));
        }
        symlink(dir.join("c/etc"), dir.join("c/link")).expect("linked");
        let through = why(&dir.join("c/link/resolv.conf"), &host);
        assert!(through.contains("symbolic link") && through.contains("realpath"), "{through}");
        let magic = format!("/proc/self/root{}", own.display());
        assert!(why(Path::new(&magic), &host).contains("symbolic link"), "{}", why(Path::new(&magic), &host));
        // The host's own, by its name, by a hard link, and where its name is a link.
        assert!(why(&host, &host).contains("host's own"));
        fs::hard_link(&host, dir.join("c/etc/hard")).expect("linked");
        assert!(why(&dir.join("c/etc/hard"), &host).contains("host's own"));
        symlink(&own, dir.join("stub")).expect("linked");
        assert!(why(&own, &dir.join("stub")).contains("host's own"));
        rustix::fs::mkfifoat(CWD, dir.join("fifo"), Mode::RUSR | Mode::WUSR).expect("made");
        for other in [dir.join("fifo"), dir.join("c"), "/dev/null".into()] {
            assert!(why(&other, &host).contains("not a regular file"), "{}: {}", other.display(), why(&other, &host));
        }
        assert!(why(&dir.join("nowhere/resolv.conf"), &host).contains("directory does not exist"));
        assert!(why(Path::new("resolv.conf"), &host).contains("absolute"));
    }

    #[test]
    fn a_file_is_written_in_place_and_one_that_is_new_appears_whole() {
        let (_keep, dir) = directory();
        let path = dir.join("resolv.conf");
        let place = Place::find(&path).expect("found");
        let none = || place.open(Path::new("/nonexistent")).expect("looked at");
        assert!(none().is_none());
        assert!(place.create("one\n").expect("made"));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o644);
        assert!(!place.create("two\n").expect("it exists"), "what has appeared is another program's");
        let names: Vec<_> = fs::read_dir(&dir).expect("listed").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["resolv.conf"]);
        // A mount follows the inode.
        let inode = || fs::metadata(&path).expect("there").ino();
        let before = inode();
        let opened = none().expect("there");
        for text in ["something longer\n", "short\n", ""] {
            opened.write(text).expect("written");
            assert_eq!(
                (opened.read().expect("read"), fs::read_to_string(&path).expect("read")),
                (text.to_owned(), text.to_owned())
            );
        }
        assert_eq!(inode(), before);
        fs::write(&path, [0xff, 0xfe]).expect("written");
        assert!(opened.read().expect_err("no text").why.contains("no resolv.conf"));
        fs::write(&path, "#".repeat(70_000)).expect("written");
        assert!(opened.read().expect_err("too long").why.contains("no resolv.conf"));
        place.remove().expect("removed");
        place.remove().expect("absent is done");
        assert!(none().is_none());
    }
}
