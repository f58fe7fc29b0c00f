//! The kernels that a guest runs: Debian's, unpacked from their packages and never installed, or one that is given.
//!
//! Unpacked once into `target/vm/kernels`; a newer package of the same series replaces nothing until that is removed.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

use super::modules;
use crate::{debian, environment, shell};

/// The series that are tried unless others are named: the oldest and the newest of Debian 12.
pub const DEFAULT: [&str; 2] = ["6.1", "6.12"];

/// Which kernel somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Debian's newest of a series, as "6.12".
    Series(String),
    /// An image, and the folder of its modules: the one that holds `modules.order`.
    Files { image: PathBuf, modules: Option<PathBuf> },
}

impl FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_series = text.split('.').all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()));
        if is_series {
            return Ok(Self::Series(text.to_owned()));
        }
        let (image, modules) = match text.split_once(':') {
            Some((image, modules)) => (image, Some(modules.into())),
            None => (text, None),
        };
        if !Path::new(image).is_file() {
            bail!("{image} is neither a series of kernels, as 6.12, nor the image of one");
        }
        Ok(Self::Files { image: image.into(), modules })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Series(series) => out.write_str(series),
            Self::Files { image, .. } => image.display().fmt(out),
        }
    }
}

/// A kernel that can be booted.
#[derive(Debug)]
pub struct Kernel {
    /// How it is called in files and output.
    pub name: String,
    /// Its release, as `uname -r` says; where its modules are in a guest, too.
    pub release: Option<String>,
    /// What the boot loader loads.
    pub image: PathBuf,
    /// The folder of its modules, indexed by depmod.
    pub modules: Option<PathBuf>,
}

impl Kernel {
    /// The first two numbers of its release.
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.as_deref()?.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

/// Finds or unpacks a kernel.
///
/// # Errors
/// There is no such package, or it cannot be fetched or unpacked; the given files are not there.
pub fn obtain(wanted: &Wanted) -> Result<Kernel> {
    match wanted {
        Wanted::Series(series) => of_series(series),
        Wanted::Files { image, modules } => of_files(image, modules.as_deref()),
    }
}

fn of_series(series: &str) -> Result<Kernel> {
    let folder = environment::root().join("target/vm/kernels").join(series);
    if !folder.join("boot").is_dir() {
        let package = package_of(series)?;
        shell::say(&format!(
            "unpacking Linux {series} from the package {package} into {}, to boot it",
            folder.display()
        ));
        // In one step, so that an interrupted one leaves nothing that looks whole.
        let aside = folder.with_extension("new");
        if aside.exists() {
            fs::remove_dir_all(&aside).with_context(|| format!("cannot remove {}", aside.display()))?;
        }
        debian::unpack(&package, &aside)?;
        fs::rename(&aside, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let image = only_entry(&folder.join("boot"), "vmlinuz-")?;
    let modules = ["lib/modules", "usr/lib/modules"].map(|inside| folder.join(inside));
    let modules = modules.iter().find(|path| path.is_dir()).context("the package of the kernel has no modules")?;
    let modules = only_entry(modules, "")?;
    let release = modules.file_name().map(|name| name.to_string_lossy().into_owned());
    modules::index(&modules)?;
    Ok(Kernel { name: series.to_owned(), release, image, modules: Some(modules) })
}

/// The package that Debian's metapackage for a series stands for.
fn package_of(series: &str) -> Result<String> {
    if !debian::is_here() {
        bail!("kernels are unpacked from Debian's packages, and this is no Debian: give --kernel IMAGE:MODULES");
    }
    let meta = [format!("linux-image-{series}-amd64"), "linux-image-amd64".to_owned()];
    for meta in meta.iter().filter(|meta| debian::candidate(meta).is_some()) {
        let mut command = Command::new("apt-cache");
        let depends = shell::output(command.args(["depends", "--important", meta]).env("LC_ALL", "C"))?;
        if let Some(package) = dependency(&depends, series) {
            return Ok(package.to_owned());
        }
    }
    bail!("none of {} is a Linux {series} here: give --kernel IMAGE:MODULES", meta.join(" and "))
}

fn dependency<'a>(depends: &'a str, series: &str) -> Option<&'a str> {
    let prefix = format!("linux-image-{series}.");
    depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).find(|name| name.starts_with(&prefix))
}

fn of_files(image: &Path, modules: Option<&Path>) -> Result<Kernel> {
    let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let modules = modules.map(|path| path.canonicalize().with_context(|| format!("cannot find {}", path.display())));
    let modules = modules.transpose()?;
    if let Some(modules) = &modules {
        modules::index(modules)?;
    }
    let of_folder = || Some(modules.as_ref()?.file_name()?.to_string_lossy().into_owned());
    let release = release_of(image)?.or_else(of_folder);
    Ok(Kernel { name, release, image: image.to_path_buf(), modules })
}

/// The release that an image says it is of; `None` if it is no bzImage of x86.
///
/// The header of setup has its magic at 0x202, and at 0x20e where the text begins, less 0x200
/// (<https://github.com/torvalds/linux/blob/v6.12/Documentation/arch/x86/boot.rst#L460>).
fn release_of(image: &Path) -> Result<Option<String>> {
    let mut head = Vec::new();
    let file = fs::File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
    file.take(1 << 16).read_to_end(&mut head).with_context(|| format!("cannot read {}", image.display()))?;
    if head.get(0x202..0x206) != Some(b"HdrS") {
        return Ok(None);
    }
    let start = usize::from(u16::from_le_bytes([head[0x20e], head[0x20f]])) + 0x200;
    let text = head.get(start..).unwrap_or_default().split(|byte| matches!(byte, 0 | b' ')).next();
    Ok(text.map(|text| String::from_utf8_lossy(text).into_owned()).filter(|text| !text.is_empty()))
}

fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let is_it = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    let mut found = entries.flatten().map(|entry| entry.path()).filter(is_it);
    found.next().with_context(|| format!("{} has no {prefix}*", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_told_from_the_path_of_an_image() {
        assert_eq!("6.12".parse::<Wanted>().expect("a series"), Wanted::Series("6.12".to_owned()));
        let files = Wanted::Files { image: "/proc/self/exe".into(), modules: Some("/lib/modules".into()) };
        assert_eq!("/proc/self/exe:/lib/modules".parse::<Wanted>().expect("files"), files);
        "6.".parse::<Wanted>().expect_err("neither");
        "/no/such/image".parse::<Wanted>().expect_err("not there");
    }

    #[test]
    fn the_package_is_of_the_series_that_was_asked_for() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.12.117+deb12-amd64\n";
        assert_eq!(dependency(depends, "6.12"), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(dependency(depends, "6.1"), None);
    }

    #[test]
    fn a_kernel_that_is_given_as_files_has_the_version_that_its_image_says() {
        let path = std::env::temp_dir().join(format!("privnet-image-of-6.1-{}", std::process::id()));
        let version = || of_files(&path, None).expect("a kernel").version();
        fs::write(&path, "no image of x86").expect("a file");
        assert_eq!(version(), None);
        let mut image = vec![0_u8; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x150_u16.to_le_bytes());
        let text = b"6.1.0-44-amd64 (debian-kernel@lists.debian.org) #1 SMP\0";
        image[0x350..0x350 + text.len()].copy_from_slice(text);
        fs::write(&path, image).expect("a file");
        assert_eq!(version(), Some((6, 1)));
        fs::remove_file(&path).expect("a clean end");
    }
}
