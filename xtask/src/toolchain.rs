//! The compiler and the linker for BPF: which are here, which fit together, and how to get them.
//!
//! Two things must come together: a rustc that has the source of `core` (there is no ready-made `core` for BPF), and a
//! `bpf-linker` whose LLVM can read the bitcode of that rustc. On one machine that is a toolchain of rustup's with the
//! component `rust-src`, on another Debian's `rustc-web` and `rust-web-src`; either builds the same programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use crate::{debian, environment, shell};

/// The version of bpf-linker that setup builds.
const LINKER_VERSION: &str = "0.13.0";
/// The LLVMs that this version can be built with.
const LINKER_LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// A rustc with the source of `core`, and its cargo.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// The cargo of the same toolchain: never a proxy of rustup's.
    pub cargo: PathBuf,
    /// The compiler itself.
    pub rustc: PathBuf,
    /// The major version of its LLVM.
    pub llvm: u32,
    /// Its release, for people.
    pub release: String,
}

/// A compiler and a linker that fit together.
#[derive(Debug)]
pub struct Toolchain {
    /// Compiles to LLVM bitcode.
    pub compiler: Compiler,
    /// Turns the bitcode into an eBPF object.
    pub linker: PathBuf,
}

/// Finds a pair.
pub fn find() -> Option<Toolchain> {
    pair(&compilers())
}

/// Finds a pair, or makes one by the first of these that works: a linker for a compiler that is here; the source of
/// `core` for the toolchain in use, from rustup; Debian's compiler and LLVM.
///
/// # Errors
/// None of them worked; says how each failed and what to do by hand.
pub fn find_or_install() -> Result<Toolchain> {
    if let Some(found) = find() {
        return Ok(found);
    }
    shell::say("eBPF: no rustc with the source of core and a bpf-linker of the same LLVM yet");
    let mut failures = Vec::new();
    for way in ["what is here", "rustup", "Debian"] {
        let prepared = match way {
            "rustup" => source_from_rustup(),
            "Debian" => compiler_from_debian(),
            _ => Ok(()),
        };
        if let Err(error) = prepared {
            failures.push(format!("{way}: {error:#}"));
            continue;
        }
        let here = compilers();
        if let Some(found) = pair(&here) {
            return Ok(found);
        }
        for compiler in &here {
            match install_linker(compiler) {
                Ok(linker) => return Ok(Toolchain { compiler: compiler.clone(), linker }),
                Err(error) => failures.push(format!("{way}, rustc {}: {error:#}", compiler.release)),
            }
        }
    }
    bail!(
        "no toolchain for eBPF could be found or made.\n  {}\nBy hand: `rustup component add rust-src`, and a bpf-linker \
         {LINKER_VERSION} or later on PATH whose LLVM is at least that of `rustc -vV` (https://github.com/aya-rs/bpf-linker)",
        failures.join("\n  ")
    )
}

fn pair(compilers: &[Compiler]) -> Option<Toolchain> {
    if compilers.is_empty() {
        return None;
    }
    let linkers: Vec<(PathBuf, u32)> = linkers();
    compilers.iter().find_map(|compiler| {
        // The same LLVM if there is one; a newer one reads older bitcode, an older one fails in odd ways.
        let fitting = linkers.iter().filter(|(_, llvm)| *llvm >= compiler.llvm).min_by_key(|(_, llvm)| *llvm)?;
        Some(Toolchain { compiler: compiler.clone(), linker: fitting.0.clone() })
    })
}

/// Every rustc that is recent enough and has the source of `core`: rustup's nightlies, its others, the system's.
fn compilers() -> Vec<Compiler> {
    let mut toolchains: Vec<PathBuf> = rustup_home()
        .and_then(|home| fs::read_dir(home.join("toolchains")).ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    toolchains.sort();
    let is_nightly =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nightly"));
    toolchains.sort_by_key(|path| !is_nightly(path));
    toolchains.extend(["/usr/local", "/usr"].map(PathBuf::from));
    toolchains.iter().filter_map(|prefix| compiler_in(prefix)).collect()
}

fn compiler_in(prefix: &Path) -> Option<Compiler> {
    let (cargo, rustc) = (prefix.join("bin/cargo"), prefix.join("bin/rustc"));
    let source = prefix.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !cargo.is_file() || !rustc.is_file() || !source.is_file() {
        return None;
    }
    let version = shell::output(environment::foreign(&rustc).arg("-vV")).ok()?;
    let (release, llvm) = release_and_llvm(&version)?;
    is_recent_enough(&release).then_some(Compiler { cargo, rustc, llvm, release })
}

/// Reads `rustc -vV`.
fn release_and_llvm(version: &str) -> Option<(String, u32)> {
    let value = |key: &str| version.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let llvm = value("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((value("release:")?.to_owned(), llvm))
}

/// The programs share a library with the agent, so they need the Rust of the workspace.
fn is_recent_enough(release: &str) -> bool {
    major_and_minor(release) >= major_and_minor(env!("CARGO_PKG_RUST_VERSION"))
}

fn major_and_minor(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Every bpf-linker with the major version of its LLVM, ours first.
fn linkers() -> Vec<(PathBuf, u32)> {
    let path = environment::path_with_tools();
    let of_cargo = cargo_home().map(|home| home.join("bin"));
    let mut files: Vec<PathBuf> = env::split_paths(&path).chain(of_cargo).map(|dir| dir.join("bpf-linker")).collect();
    files.dedup();
    files.into_iter().filter(|file| file.is_file()).filter_map(|file| Some((file.clone(), llvm_of(&file)?))).collect()
}

/// The LLVM of a linker: the library that it names, or the version string of the one inside it.
///
/// `bpf-linker --version` does not tell.
fn llvm_of(linker: &Path) -> Option<u32> {
    let mut grep = Command::new("grep");
    grep.args(["-a", "-o", "-m1", "-E", r"libLLVM(\.so\.|-)[0-9]+|LLVM[0-9]+\.[0-9]+\.[0-9]+"]).arg(linker);
    llvm_in(&shell::output(grep.env("LC_ALL", "C")).ok()?)
}

fn llvm_in(found: &str) -> Option<u32> {
    let digits = found.lines().next()?.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split('.').next()?.parse().ok()
}

/// Adds the source of `core` to the toolchain in use: a few megabytes, and no second toolchain.
fn source_from_rustup() -> Result<()> {
    if environment::which("rustup").is_none() {
        bail!("rustup is not here");
    }
    shell::say("eBPF: `rustup component add rust-src`, the source of core for the toolchain in use");
    let mut command = Command::new("rustup");
    command.args(["component", "add", "rust-src"]).stdin(Stdio::null());
    shell::run(&mut command)
}

fn compiler_from_debian() -> Result<()> {
    if !debian::is_here() {
        bail!("this is not Debian");
    }
    // The -web packages follow the releases of Rust also in stable suites; in testing the plain ones do.
    let names = [["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];
    let recent = || {
        let is_recent = |package| debian::candidate(package).is_some_and(|version| is_recent_enough(&version));
        names.iter().find(|packages| is_recent(packages[0]))
    };
    // Old lists know the release of Rust that the suite started with.
    if let Some(packages) = recent().or_else(|| debian::update().ok().and_then(|()| recent())) {
        return debian::install(packages, "eBPF: a rustc with the source of core");
    }
    bail!("no rustc of at least {} among its packages", env!("CARGO_PKG_RUST_VERSION"))
}

/// Builds a bpf-linker with the LLVM of `compiler`, or the next newer one that can be had.
fn install_linker(compiler: &Compiler) -> Result<PathBuf> {
    let wanted = compiler.llvm.max(*LINKER_LLVMS.start())..=*LINKER_LLVMS.end();
    let Some((llvm, prefix)) = wanted.clone().find_map(|llvm| Some((llvm, llvm_prefix(llvm)?))) else {
        bail!("no LLVM of {wanted:?} is here or among the packages of this machine");
    };
    shell::say(&format!(
        "eBPF: building bpf-linker {LINKER_VERSION} with LLVM {llvm} into target/tools (half a minute)"
    ));
    let root = environment::tools().parent().map(Path::to_owned).context("the folder of tools has no parent")?;
    let path = env::join_paths(
        std::iter::once(prefix.join("bin")).chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    )
    .context("cannot put LLVM on PATH")?;
    let mut command = environment::cargo();
    command
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--no-default-features", "--force"])
        .args(["--features", &format!("llvm-{llvm}")])
        .arg("--root")
        .arg(&root)
        .env("PATH", path)
        .env("LLVM_PREFIX", &prefix)
        // The work is LLVM's, which is built already: optimized, the linker would take three times as long to build, and
        // link the same object half a second sooner.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env_remove("CARGO_TARGET_DIR");
    shell::run(&mut command)?;
    Ok(environment::tools().join("bpf-linker"))
}

/// Where the LLVM `major` with its headers is, installing Debian's if need be.
fn llvm_prefix(major: u32) -> Option<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    if !debian::is_here() {
        let of_the_system = shell::output(Command::new("llvm-config").args(["--version", "--prefix"])).ok()?;
        let (version, prefix) = of_the_system.split_once('\n')?;
        return (major_and_minor(version)?.0 == major).then(|| PathBuf::from(prefix.trim()));
    }
    let (llvm, polly) = (format!("llvm-{major}-dev"), format!("libpolly-{major}-dev"));
    let packages = [llvm.as_str(), &polly, "zlib1g-dev", "libzstd-dev"];
    let is_complete = prefix.join("bin/llvm-config").is_file()
        && prefix.join("lib/libPolly.a").is_file()
        && Path::new("/usr/include/zlib.h").is_file()
        && Path::new("/usr/include/zstd.h").is_file();
    if !is_complete {
        debian::candidate(&llvm)?;
        if let Err(error) = debian::install(&packages, "eBPF: LLVM for bpf-linker") {
            eprintln!("    {error:#}");
            return None;
        }
    }
    Some(prefix)
}

fn rustup_home() -> Option<PathBuf> {
    env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".rustup")))
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_compiler_is_read_from_its_version() {
        let version = "rustc 1.96.0 (ac68faa20 2026-05-25)\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(release_and_llvm(version), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(release_and_llvm("release: 1.96.0\n"), None);
    }

    #[test]
    fn the_llvm_of_a_linker_is_read_from_the_library_that_it_names_or_holds() {
        assert_eq!(llvm_in("libLLVM.so.22\n"), Some(22));
        assert_eq!(llvm_in("libLLVM-21\n"), Some(21));
        assert_eq!(llvm_in("LLVM23.1.0\nLLVM23.1.0\n"), Some(23));
        assert_eq!(llvm_in(""), None);
    }

    #[test]
    fn an_older_rust_than_the_workspace_needs_is_refused_and_the_same_or_a_newer_one_is_not() {
        assert!(!is_recent_enough("1.85.0+dfsg3-1~deb12u3"));
        assert!(is_recent_enough(env!("CARGO_PKG_RUST_VERSION")));
        assert!(is_recent_enough("1.96.0+dfsg1-1~deb12u2"));
        assert!(is_recent_enough("1.97.0-nightly"));
        assert!(!is_recent_enough("nonsense"));
    }
}
