//! `deb`: the Debian package, by `dpkg-deb`, which every machine with packages has.
//!
//! cargo-deb would be a tool with many crates to fetch and build for what is a table of files here, and knows neither a set of
//! sockets nor what makes a downgrade safe. The package has two parts: `privnet`, and `privnet-dbgsym` with the symbols.

mod layout;
mod needs;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use self::layout::{CONFIGURATION, DOCUMENTATION, FILES, LINKS, SCRIPTS, UNITS};
use crate::build::{self, Profile};
use crate::setup::Purpose;
use crate::{environment, shell, symbols};

/// The version of the package, which is that of all crates.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The oldest version that reads what this one writes: records of the store, the journal, pins. Raise it with one of their
/// versions; a downgrade below it is refused (CONTRIBUTING.md, "Changing what outlives a build").
const OLDEST_READER: &str = "0.1.0";
/// Where the package's own files are.
const SOURCES: &str = "package";

/// What the task accepts.
#[derive(clap::Args)]
pub struct Arguments {
    /// Package the binaries of this folder; without it they are built for release
    #[arg(long, value_name = "DIR")]
    of: Option<PathBuf>,
    /// Where the package goes
    #[arg(long, value_name = "DIR", default_value = "target/deb")]
    into: PathBuf,
}

/// The task.
///
/// # Errors
/// The binaries cannot be built, or a file of the package cannot be written.
pub fn task(arguments: &Arguments) -> Result<()> {
    let (binaries, is_release) = match &arguments.of {
        Some(folder) => (build::binaries(&folder.join("privnet")), false),
        None => (build::binaries(&build::privnet(Purpose::Build, Profile::Release)?), true),
    };
    let architecture = shell::output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let into = environment::root().join(&arguments.into);
    fs::create_dir_all(&into).with_context(|| format!("cannot make {}", into.display()))?;
    let packages = Packages { into, architecture, is_release };
    for package in packages.build(&binaries)? {
        let octets = package.metadata().with_context(|| format!("cannot look at {}", package.display()))?.len();
        println!("{} ({:.1} MB)", package.display(), octets as f64 / 1e6);
    }
    Ok(())
}

/// How the packages are made.
struct Packages {
    into: PathBuf,
    architecture: String,
    /// Compressed.
    is_release: bool,
}

impl Packages {
    fn build(&self, binaries: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let [tree, of_symbols] = ["tree", "tree-dbgsym"].map(|name| self.into.join(name));
        for tree in [&tree, &of_symbols] {
            remove(tree)?;
        }
        for binary in binaries {
            let name = binary.file_name().with_context(|| format!("{} has no name", binary.display()))?;
            let installed = tree.join("usr/bin").join(name);
            copy(binary, &installed, 0o755)?;
            let symbols = symbols::move_aside(&installed)?;
            let mut of_binary = name.to_owned();
            of_binary.push(".debug");
            move_to(&symbols, &of_symbols.join("usr/lib/debug/usr/bin").join(of_binary))?;
        }
        for (source, target) in FILES {
            copy(&source_path(source), &tree.join(target), 0o644)?;
        }
        for (link, target) in LINKS {
            let link = tree.join(link);
            make_parent(&link)?;
            symlink(target, &link).with_context(|| format!("cannot make {}", link.display()))?;
        }
        for document in DOCUMENTATION {
            let name = Path::new(document).file_name().unwrap_or_default();
            copy(&source_path(document), &tree.join("usr/share/doc/privnet").join(name), 0o644)?;
        }
        pages(&binaries[0], &tree)?;
        let needs = needs::of(&binaries.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
        let description = "private networks for containers\n \
            Gives any set of containers a network of their own, on one host or across hosts: each packet between two\n \
            containers is encrypted with WireGuard under a key of the sending container, and other containers cannot\n \
            reach them.";
        let mut built = vec![self.package(&tree, "privnet", "net", &needs, description)?];
        copy(&source_path("package/copyright"), &of_symbols.join("usr/share/doc/privnet-dbgsym/copyright"), 0o644)?;
        let needs = format!("privnet (= {VERSION})");
        built.push(self.package(&of_symbols, "privnet-dbgsym", "debug", &needs, "debug symbols of privnet")?);
        for tree in [&tree, &of_symbols] {
            remove(tree)?;
        }
        Ok(built)
    }

    /// Makes a package of a tree.
    fn package(&self, tree: &Path, name: &str, section: &str, needs: &str, description: &str) -> Result<PathBuf> {
        let control = tree.join("DEBIAN");
        let octets: u64 = files_below(tree)?.iter().map(|file| file.metadata().map_or(0, |found| found.len())).sum();
        let sums = sums(tree)?;
        fs::create_dir_all(&control).with_context(|| format!("cannot make {}", control.display()))?;
        let architecture = &self.architecture;
        let fields = format!(
            "Package: {name}\nVersion: {VERSION}\nArchitecture: {architecture}\nMaintainer: The privnet authors \
             <privnet@localhost>\nInstalled-Size: {}\nDepends: {needs}\nSection: {section}\nPriority: optional\n\
             Description: {description}\n",
            octets.div_ceil(1024)
        );
        write(&control.join("control"), &fields, 0o644)?;
        write(&control.join("md5sums"), &sums, 0o644)?;
        if name == "privnet" {
            let configuration: String = CONFIGURATION.iter().map(|file| format!("/{file}\n")).collect();
            write(&control.join("conffiles"), &configuration, 0o644)?;
            for script in SCRIPTS {
                write(&control.join(script), &filled(&read(&source_path(&format!("{SOURCES}/{script}")))?), 0o755)?;
            }
        }
        let package = self.into.join(format!("{name}_{VERSION}_{architecture}.deb"));
        let compression = if self.is_release { "-Zxz" } else { "-Znone" };
        let mut command = Command::new("dpkg-deb");
        command.args(["--root-owner-group", compression, "--build"]).arg(tree).arg(&package);
        shell::run(&mut command)?;
        Ok(package)
    }
}

/// A script with the words that stand for what this file and the table know.
fn filled(script: &str) -> String {
    let sockets: Vec<&str> = UNITS.into_iter().filter(|unit| unit.ends_with(".socket")).collect();
    script
        .replace("@UNITS@", &UNITS.join(" "))
        .replace("@SOCKETS@", &sockets.join(" "))
        .replace("@OLDEST@", OLDEST_READER)
        .replace("@VERSION@", VERSION)
}

/// The manual pages and completions, which the binary writes.
fn pages(privnet: &Path, tree: &Path) -> Result<()> {
    let written = tree.join("pages");
    shell::run(Command::new(privnet).arg("pages").arg(&written))?;
    let manual = tree.join("usr/share/man");
    fs::create_dir_all(&manual).with_context(|| format!("cannot make {}", manual.display()))?;
    move_to(&written.join("man1"), &manual.join("man1"))?;
    for page in files_below(&manual)? {
        shell::run(Command::new("gzip").args(["-9", "-n"]).arg(page))?;
    }
    for (completion, target) in layout::COMPLETIONS {
        move_to(&written.join("completions").join(completion), &tree.join(target))?;
    }
    remove(&written)
}

/// The sums of all files, as dpkg verifies them.
fn sums(tree: &Path) -> Result<String> {
    let mut relative: Vec<PathBuf> = Vec::new();
    for file in files_below(tree)? {
        relative.push(file.strip_prefix(tree).with_context(|| format!("{} is elsewhere", file.display()))?.to_owned());
    }
    relative.sort();
    shell::output(Command::new("md5sum").args(relative).current_dir(tree))
}

/// The files of a folder and those below it, without links.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else if !path.is_symlink() {
            files.push(path);
        }
    }
    Ok(files)
}

fn source_path(source: &str) -> PathBuf {
    environment::root().join(source)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    set_mode(path, mode)
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    make_parent(to)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    set_mode(to, mode)
}

fn move_to(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { bail!("{} has no folder", path.display()) };
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

fn remove(tree: &Path) -> Result<()> {
    match fs::remove_dir_all(tree) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", tree.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
