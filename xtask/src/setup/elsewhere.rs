//! Programs of another suite of Debian's than this machine's: another version of one that it has, for the tests alone.
//!
//! One that needs a newer C library than this machine has is given that of its own suite, in a folder beside it. Its other
//! libraries are this machine's, which an older C library built, and a newer one loads.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::debian::Lists;
use crate::{environment, shell};

/// Sets the loader and the libraries of a program.
pub const PATCHELF: &str = "patchelf";

/// Where a program comes from.
pub struct Elsewhere {
    /// The suite of Debian's.
    pub suite: &'static str,
    /// The file in the package.
    pub file: &'static str,
    /// The packages of the libraries that it takes from its own suite.
    pub libraries: &'static [&'static str],
}

/// A suite whose lists are here. Dropping it removes them, and what else was unpacked.
pub struct Suite {
    name: &'static str,
    folder: PathBuf,
    lists: Lists,
}

impl Suite {
    /// Fetches the lists of a suite.
    ///
    /// # Errors
    /// They cannot be fetched.
    pub fn fetch(name: &'static str) -> Result<Self> {
        let folder = environment::tools().with_file_name(name);
        let lists = Lists::of_suite(name, &folder.join("apt"))?;
        Ok(Self { name, folder, lists })
    }

    /// Unpacks `program` from `package` into the tools of this clone.
    ///
    /// # Errors
    /// The package cannot be fetched, or has no such file.
    pub fn unpack(&self, program: &str, package: &str, from: &Elsewhere) -> Result<()> {
        shell::say(&format!("unpacking {program} from the package {package} of {}", self.name));
        let unpacked = self.folder.join(package);
        self.lists.unpack(&[package], &unpacked)?;
        let (file, to) = (unpacked.join(from.file), environment::tools().join(program));
        let place = to.parent().with_context(|| format!("{} has no folder", to.display()))?;
        fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
        if !from.libraries.is_empty() {
            self.give_libraries(&file, &place.join("lib"), from.libraries)?;
        }
        // Last: it is there when it runs.
        move_to(&file, &to)
    }

    /// Has a program load the libraries of these packages, which are put into `folder` unless they are there.
    fn give_libraries(&self, program: &Path, folder: &Path, packages: &[&str]) -> Result<()> {
        let loader = shell::output(Command::new(PATCHELF).arg("--print-interpreter").arg(program))?;
        let loader = Path::new(loader.trim()).file_name().context("a program without a loader")?;
        if !folder.join(loader).is_file() {
            let unpacked = self.folder.join("libraries");
            self.lists.unpack(packages, &unpacked)?;
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            for library in libraries_below(&unpacked.join("usr/lib"))? {
                take(&library, folder)?;
            }
        }
        // The path stays in the program: it leads there from another clone as well that has these tools by a link.
        let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
        let mut command = Command::new(PATCHELF);
        command.arg("--set-interpreter").arg(folder.join(loader));
        // The libraries that those of this machine load are found there, too.
        shell::run(command.args(["--force-rpath", "--set-rpath"]).arg(folder).arg(program))
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The shared objects in the folders that Debian has for the architectures.
fn libraries_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for architecture in entries(folder)?.into_iter().filter(|path| path.to_string_lossy().contains("-linux-gnu")) {
        found.extend(entries(&architecture)?.into_iter().filter(|path| is_library(path)));
    }
    Ok(found)
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".so") || name.contains(".so.")
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("cannot read {}", folder.display());
    let entries = fs::read_dir(folder).with_context(unreadable)?;
    entries.map(|entry| Ok(entry.with_context(unreadable)?.path())).collect()
}

/// Moves a library, or makes the same link to one, into a folder.
fn take(library: &Path, folder: &Path) -> Result<()> {
    let to = folder.join(library.file_name().unwrap_or_default());
    match fs::read_link(library) {
        Ok(target) => {
            let _ = fs::remove_file(&to);
            symlink(target, &to).with_context(|| format!("cannot make {}", to.display()))
        }
        Err(_) => move_to(library, &to),
    }
}

fn move_to(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_a_package_are_its_shared_objects_with_their_links() {
        let folder = std::env::temp_dir().join(format!("privnet-libraries-{}", std::process::id()));
        let of_package = folder.join("usr/lib/x86_64-linux-gnu");
        fs::create_dir_all(of_package.join("gconv")).expect("a folder");
        for file in ["libc.so.6", "libsubid.so.5.0.0", "crt1.o", "gconv/UTF-7.so"] {
            fs::write(of_package.join(file), file).expect("written");
        }
        symlink("libsubid.so.5.0.0", of_package.join("libsubid.so.5")).expect("a link");
        let taken = folder.join("lib");
        fs::create_dir_all(&taken).expect("a folder");
        // Also twice: an attempt before may have ended half way.
        for _ in 0..2 {
            for library in libraries_below(&folder.join("usr/lib")).expect("read") {
                take(&library, &taken).expect("taken");
            }
        }
        let mut names: Vec<PathBuf> = entries(&taken).expect("read");
        names.sort();
        assert_eq!(names, ["libc.so.6", "libsubid.so.5", "libsubid.so.5.0.0"].map(|name| taken.join(name)));
        assert_eq!(fs::read_to_string(taken.join("libsubid.so.5")).expect("it leads there"), "libsubid.so.5.0.0");
        fs::remove_dir_all(folder).expect("a clean end");
    }
}
