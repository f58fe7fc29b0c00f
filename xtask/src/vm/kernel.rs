//! The kernels that a guest runs: Debian's, unpacked from their packages and never installed, or one that is given.
//!
//! Unpacked once into `target/vm/kernels`; a newer package of the same series replaces nothing until that is removed. The
//! newest kernel of all is looked for in each run that asks for it, since Debian's archive moves on.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

use super::modules;
use crate::debian::{self, Lists};
use crate::{environment, shell};

/// The series that are tried unless others are named: the oldest and the newest of Debian 12.
pub const DEFAULT: [&str; 2] = ["6.1", "6.12"];

/// The suite that has Debian's newest kernel. What Debian only tries (`experimental`) is no release of Linux yet.
const NEWEST: &str = "unstable";
/// The package that depends on the newest image of a suite.
const META: &str = "linux-image-amd64";

/// Which kernel somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Debian's newest of a series, as "6.12".
    Series(String),
    /// Debian's newest of all.
    Newest,
    /// An image, and the folder of its modules: the one that holds `modules.order`.
    Files { image: PathBuf, modules: Option<PathBuf> },
}

impl FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "newest" {
            return Ok(Self::Newest);
        }
        let is_series = text.split('.').all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()));
        if is_series {
            return Ok(Self::Series(text.to_owned()));
        }
        let (image, modules) = match text.split_once(':') {
            Some((image, modules)) => (image, Some(modules.into())),
            None => (text, None),
        };
        if !Path::new(image).is_file() {
            bail!("{image} is neither a series of kernels, as 6.12, nor `newest`, nor the image of a kernel");
        }
        Ok(Self::Files { image: image.into(), modules })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Series(series) => out.write_str(series),
            Self::Newest => out.write_str("newest"),
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
        Wanted::Newest => newest(),
        Wanted::Files { image, modules } => of_files(image, modules.as_deref()),
    }
}

fn of_series(series: &str) -> Result<Kernel> {
    let folder = kernels().join(series);
    if !folder.is_dir() {
        debian_is_here()?;
        let meta = [format!("linux-image-{series}-amd64"), META.to_owned()];
        let lists = Lists::of_machine();
        for meta in meta.iter().filter(|meta| debian::candidate(meta).is_some()) {
            if let Some(image) = image_in(&lists.dependencies(meta)?, &format!("{series}.")) {
                unpack(&lists, image, &folder)?;
                return of_folder(series, &folder);
            }
        }
        bail!("none of {} is a Linux {series} here: give --kernel IMAGE:MODULES", meta.join(" and "));
    }
    of_folder(series, &folder)
}

fn newest() -> Result<Kernel> {
    debian_is_here()?;
    let lists = Lists::of_suite(NEWEST, &kernels().join(NEWEST))?;
    let dependencies = lists.dependencies(META)?;
    let image = image_in(&dependencies, "").with_context(|| format!("{META} of {NEWEST} depends on no image"))?;
    let release = release_in(image);
    let folder = kernels().join(release);
    if !folder.is_dir() {
        unpack(&lists, image, &folder)?;
    }
    of_folder(release, &folder)
}

fn kernels() -> PathBuf {
    environment::root().join("target/vm/kernels")
}

fn debian_is_here() -> Result<()> {
    if !debian::is_here() {
        bail!("kernels are unpacked from Debian's packages, and this is no Debian: give --kernel IMAGE:MODULES");
    }
    Ok(())
}

/// The package of an image whose version begins so, among what a metapackage depends on.
fn image_in<'a>(dependencies: &'a [String], version: &str) -> Option<&'a str> {
    let is_it = |name: &&String| release_in(name).starts_with(version) && release_in(name) != name.as_str();
    dependencies.iter().find(is_it).map(String::as_str)
}

/// The release of the kernel in a package of an image, as `uname -r` says.
fn release_in(image: &str) -> &str {
    image.strip_prefix("linux-image-").unwrap_or(image)
}

/// Unpacks the package of an image and what it was split into: the program, the modules, what both have in common.
fn unpack(lists: &Lists, image: &str, folder: &Path) -> Result<()> {
    let release = release_in(image);
    shell::say(&format!(
        "unpacking Linux {release} from the package {image} into {}, to boot it (5 to 130 MB to fetch)",
        folder.display()
    ));
    let dependencies = lists.dependencies(image)?;
    let parts = parts_of(&dependencies, release);
    let packages: Vec<&str> = std::iter::once(image).chain(parts).collect();
    // In one step, so that an interrupted one leaves nothing that looks whole.
    let aside = folder.with_file_name("new");
    if aside.exists() {
        fs::remove_dir_all(&aside).with_context(|| format!("cannot remove {}", aside.display()))?;
    }
    lists.unpack(&packages, &aside)?;
    fs::rename(&aside, folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// The packages of the same release among what the package of an image depends on.
fn parts_of<'a>(dependencies: &'a [String], release: &str) -> impl Iterator<Item = &'a str> {
    let suffix = format!("-{release}");
    dependencies.iter().map(String::as_str).filter(move |name| name.ends_with(&suffix))
}

/// A kernel that was unpacked.
fn of_folder(name: &str, folder: &Path) -> Result<Kernel> {
    let modules = ["lib/modules", "usr/lib/modules"].map(|inside| folder.join(inside));
    let modules = modules.iter().find(|path| path.is_dir()).context("the package of the kernel has no modules")?;
    let modules = only_entry(modules, "")?;
    // Newer packages have the image beside the modules.
    let beside = modules.join("vmlinuz");
    let image = if beside.is_file() { beside } else { only_entry(&folder.join("boot"), "vmlinuz-")? };
    let release = modules.file_name().map(|name| name.to_string_lossy().into_owned());
    modules::index(&modules)?;
    Ok(Kernel { name: name.to_owned(), release, image, modules: Some(modules) })
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
        assert_eq!("newest".parse::<Wanted>().expect("the newest"), Wanted::Newest);
        "6.".parse::<Wanted>().expect_err("neither");
        "/no/such/image".parse::<Wanted>().expect_err("not there");
    }

    #[test]
    fn the_package_is_of_the_series_that_was_asked_for() {
        let dependencies = ["linux-base", "linux-image-6.12.117+deb12-amd64"].map(str::to_owned);
        assert_eq!(image_in(&dependencies, "6.12."), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(image_in(&dependencies, ""), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(image_in(&dependencies, "6.1."), None);
        assert_eq!(image_in(&dependencies[..1], ""), None);
    }

    #[test]
    fn a_kernel_comes_with_the_packages_that_it_was_split_into_and_with_no_others() {
        let release = "7.2.13+deb14-amd64";
        let names =
            ["<linux-initramfs-tool>", "linux-base", "linux-binary-7.2.13+deb14-amd64", "linux-modules-7.2.12-amd64"];
        let dependencies = names.map(str::to_owned);
        assert_eq!(parts_of(&dependencies, release).collect::<Vec<_>>(), [names[2]]);
    }

    #[test]
    fn the_image_is_found_in_boot_or_beside_the_modules() {
        let root = std::env::temp_dir().join(format!("privnet-kernels-{}", std::process::id()));
        for (release, image) in [("6.1.0", "boot/vmlinuz-6.1.0"), ("7.2.0", "lib/modules/7.2.0/vmlinuz")] {
            let folder = root.join(release);
            let modules = folder.join("lib/modules").join(release);
            fs::create_dir_all(&modules).expect("a folder");
            fs::create_dir_all(folder.join("boot")).expect("a folder");
            of_folder(release, &folder).expect_err("it has no image");
            fs::write(folder.join(image), "").expect("an image");
            fs::write(modules.join("modules.dep.bin"), "").expect("an index");
            let kernel = of_folder(release, &folder).expect("a kernel");
            assert_eq!((kernel.image, kernel.release.as_deref()), (folder.join(image), Some(release)));
        }
        fs::remove_dir_all(&root).expect("a clean end");
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
