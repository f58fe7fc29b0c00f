//! The guest's file system as a value: what of this machine is in it, and where.
//!
//! Whatever is taken from this machine has the path that it has here, with the symbolic links on the way: programs
//! find their libraries, and tests the binaries whose paths they were compiled with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::cpio::Archive;

/// A path with more symbolic links than this has a loop.
const MOST_LINKS: usize = 40;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Folder {
        permissions: u32,
    },
    Link {
        target: PathBuf,
    },
    /// The content of a file of this machine.
    Copy {
        from: PathBuf,
        permissions: u32,
    },
    Text {
        content: String,
        permissions: u32,
    },
}

/// The guest's files, by paths without symbolic links.
#[derive(Debug, Default)]
pub struct Image {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Image {
    /// Adds an empty folder.
    pub fn folder(&mut self, path: &str, permissions: u32) {
        self.parents(Path::new(path));
        self.entries.insert(path.into(), Entry::Folder { permissions });
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.parents(Path::new(path));
        self.entries.insert(path.into(), Entry::Link { target: target.into() });
    }

    /// Adds a file with this content.
    pub fn text(&mut self, path: &str, permissions: u32, content: impl Into<String>) {
        self.parents(Path::new(path));
        self.entries.insert(path.into(), Entry::Text { content: content.into(), permissions });
    }

    /// Adds the content of the file `from` at another path.
    pub fn copy(&mut self, path: &Path, from: &Path, permissions: u32) {
        self.parents(path);
        self.entries.insert(path.into(), Entry::Copy { from: from.into(), permissions });
    }

    /// Adds a file of this machine under its own path, with the symbolic links that lead to it.
    ///
    /// # Errors
    /// It is not there, or leads nowhere.
    pub fn file_of_host(&mut self, path: &Path) -> Result<()> {
        self.file_of_host_as(path, None)
    }

    /// Adds a program of this machine, and the libraries that it loads.
    ///
    /// # Errors
    /// As [`Image::file_of_host`].
    pub fn programs_of_host(&mut self, programs: &[PathBuf]) -> Result<()> {
        for path in programs.iter().chain(&libraries(programs)?) {
            self.file_of_host(path)?;
        }
        Ok(())
    }

    /// Adds `path` with the content of `stripped`, a smaller copy of it; and the libraries that it loads.
    ///
    /// # Errors
    /// As [`Image::file_of_host`].
    pub fn program_as(&mut self, path: &Path, stripped: &Path) -> Result<()> {
        self.file_of_host_as(path, Some(stripped))?;
        for library in libraries(&[path.to_path_buf()])? {
            self.file_of_host(&library)?;
        }
        Ok(())
    }

    fn file_of_host_as(&mut self, path: &Path, content: Option<&Path>) -> Result<()> {
        let mut wanted = path.to_path_buf();
        for _ in 0..MOST_LINKS {
            match self.links_on_the_way(&wanted)? {
                Some(next) => wanted = next,
                None => {
                    let found = fs::metadata(&wanted).with_context(|| format!("cannot find {}", path.display()))?;
                    let permissions = found.permissions().mode() & 0o7777;
                    self.copy(&wanted.clone(), content.unwrap_or(&wanted), permissions);
                    return Ok(());
                }
            }
        }
        bail!("{} has a loop of symbolic links", path.display())
    }

    /// Adds the first symbolic link of `path`, and returns where the path leads with that one followed; `None` if it
    /// has none.
    fn links_on_the_way(&mut self, path: &Path) -> Result<Option<PathBuf>> {
        let mut so_far = PathBuf::new();
        let mut rest = path.components();
        while let Some(component) = rest.next() {
            match component {
                Component::CurDir => continue,
                Component::ParentDir => {
                    so_far.pop();
                    continue;
                }
                Component::Prefix(_) | Component::RootDir | Component::Normal(_) => so_far.push(component),
            }
            let found = fs::symlink_metadata(&so_far)
                .with_context(|| format!("cannot find {} of {}", so_far.display(), path.display()))?;
            if found.is_symlink() {
                let target = fs::read_link(&so_far).with_context(|| format!("cannot read {}", so_far.display()))?;
                let folder = so_far.parent().unwrap_or(Path::new("/"));
                // Not by joining: an empty rest would put a slash behind the name of a file.
                let next = folder.join(&target).components().chain(rest).collect();
                self.parents(&so_far);
                self.entries.insert(so_far, Entry::Link { target });
                return Ok(Some(next));
            }
        }
        // Without links, but perhaps with "..".
        Ok((so_far != path).then_some(so_far))
    }

    fn parents(&mut self, path: &Path) {
        for folder in path.ancestors().skip(1).filter(|folder| *folder != Path::new("/")) {
            let entry = self.entries.entry(folder.to_path_buf());
            entry.or_insert(Entry::Folder { permissions: 0o755 });
        }
    }

    /// Writes the archive and returns its size in bytes.
    ///
    /// # Errors
    /// A file cannot be read, or the archive not be written.
    pub fn write(&self, to: &Path) -> Result<u64> {
        let file = fs::File::create(to).with_context(|| format!("cannot make {}", to.display()))?;
        let mut archive = Archive::new(BufWriter::new(file));
        for (path, entry) in &self.entries {
            let name = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
            let name = name.trim_start_matches('/');
            let written = match entry {
                Entry::Folder { permissions } => archive.folder(name, *permissions),
                Entry::Link { target } => archive.link(name, &target.to_string_lossy()),
                Entry::Text { content, permissions } => archive.file(name, *permissions, content.as_bytes()),
                Entry::Copy { from, permissions } => {
                    let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
                    archive.file(name, *permissions, &content)
                }
            };
            written.with_context(|| format!("cannot write {} to {}", path.display(), to.display()))?;
        }
        let done = archive.finish().and_then(|mut out| out.flush().map(|()| out));
        let done = done.with_context(|| format!("cannot write {}", to.display()))?;
        Ok(done.get_ref().metadata().with_context(|| format!("cannot look at {}", to.display()))?.len())
    }
}

/// The libraries that `programs` load, and the loader that loads them.
fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut command = Command::new("ldd");
    command.args(programs).env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::null());
    // It fails if one of them is a script or static, which is no reason to.
    let output = command.output().context("cannot start ldd")?;
    Ok(loaded(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads the lines `libc.so.6 => /lib/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)` of ldd.
fn loaded(output: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let file = line.split_once(" => ").map_or(line, |(_, file)| file).trim();
        let (path, _address) = file.split_once(" (0x")?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    output.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_read_from_what_ldd_says() {
        let said = "/usr/bin/a:\n\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/libc.so.6 (0x0000)\n\
                    \t/lib64/ld.so (0x00007f)\n/bin/script:\n\tnot a dynamic executable\n\tlibx.so => not found\n";
        let paths: Vec<PathBuf> = loaded(said).into_iter().collect();
        assert_eq!(paths, [Path::new("/lib/libc.so.6"), Path::new("/lib64/ld.so")]);
    }

    #[test]
    fn a_file_comes_with_the_links_and_folders_on_its_way() {
        let root = std::env::temp_dir().join(format!("privnet-image-{}", std::process::id()));
        let root_path = |name: &str| root.join(name);
        fs::create_dir_all(root_path("usr/bin")).expect("a folder");
        fs::write(root_path("usr/bin/real"), "").expect("a file");
        std::os::unix::fs::symlink("usr/bin", root_path("bin")).expect("a link");
        std::os::unix::fs::symlink("../bin/real", root_path("usr/bin/name")).expect("a link");
        let mut image = Image::default();
        image.file_of_host(&root_path("bin/name")).expect("it is there");
        assert_eq!(image.entries[&root_path("bin")], Entry::Link { target: "usr/bin".into() });
        assert_eq!(image.entries[&root_path("usr/bin/name")], Entry::Link { target: "../bin/real".into() });
        assert!(matches!(image.entries[&root_path("usr/bin/real")], Entry::Copy { .. }));
        assert!(matches!(image.entries[&root_path("usr")], Entry::Folder { .. }));
        assert!(!image.entries.contains_key(&root_path("bin/name")), "nothing stands behind a link");
        image.file_of_host(&root_path("bin/other")).expect_err("it is not there");
        fs::remove_dir_all(&root).expect("a clean end");
    }
}
