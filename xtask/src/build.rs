//! `build`: the eBPF programs, and the binaries that embed them: `privnet`, and `privnet-demo` beside it.
//!
//! The programs are built by a cargo of their own (another toolchain, another target folder), so neither build ever
//! waits for or invalidates the other.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use anyhow::{Context as _, Result, bail};

use crate::beside::Libraries;
use crate::environment;
use crate::messages;
use crate::object;
use crate::setup::{self, Purpose};
use crate::shell;
use crate::symbols;
use crate::toolchain::Toolchain;

/// The binary that `privnet demo` becomes, and finds beside itself.
pub const DEMO: &str = "privnet-demo";
/// The variable in which the build of `privnet` finds the path of the programs.
const EBPF_OBJECT: &str = "PRIVNET_EBPF_OBJECT";

/// How the host's side is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// To test: with assertions, and with the libraries optimized.
    Dev,
    /// To try: what a release does, and soon built.
    Quick,
    /// To install.
    Release,
}

/// The task.
///
/// # Errors
/// Something is missing and could not be installed, or does not compile.
pub fn task(release: bool, ebpf_only: bool) -> Result<()> {
    let built = match (ebpf_only, release) {
        (true, _) => vec![programs(&setup::ensure(Purpose::Build)?)?],
        (false, false) => binaries(&privnet(Purpose::Build, Profile::Dev)?).to_vec(),
        (false, true) => {
            let binaries = binaries(&privnet(Purpose::Build, Profile::Release)?);
            let symbols: Vec<PathBuf> = binaries.iter().map(|path| symbols::move_aside(path)).collect::<Result<_>>()?;
            [&binaries[..], &symbols].concat()
        }
    };
    for path in built {
        let octets = path.metadata().with_context(|| format!("cannot look at {}", path.display()))?.len();
        eprintln!("{} ({:.1} MB)", path.display(), octets as f64 / 1e6);
    }
    Ok(())
}

/// Builds the programs and returns the path of the object.
///
/// # Errors
/// The programs do not compile, or the object lacks something.
pub fn programs(toolchain: &Toolchain) -> Result<PathBuf> {
    let built = compile_programs(toolchain).with_context(|| {
        let compiler = &toolchain.compiler;
        format!("cannot build the eBPF programs with {} {}", compiler.rustc.display(), compiler.release)
    })?;
    object::check(&built)?;
    let object = object_path();
    replace_if_different(&built, &object)?;
    Ok(object)
}

/// Where [`programs`] leaves the object.
fn object_path() -> PathBuf {
    environment::root().join("target/ebpf/privnet-programs")
}

/// From whatever is here to `privnet` and [`DEMO`], in three steps that a person can follow; returns the path of `privnet`.
///
/// # Errors
/// As [`setup::ensure`] and [`programs`]; or the binaries do not compile.
pub fn privnet(purpose: Purpose, profile: Profile) -> Result<PathBuf> {
    let object = object_path();
    // Where the programs are, there was a build before.
    let is_first = !object.exists() && !setup::is_complete(purpose);
    let libraries = is_first.then(|| Libraries::start(binaries_with(&object, profile))).transpose()?;
    shell::say("step 1 of 3: tools, and a toolchain for eBPF (the first time: a minute or two, and 120 MB to fetch)");
    let toolchain = setup::ensure(purpose)?;
    shell::say("step 2 of 3: the eBPF programs (the first time: half a minute)");
    let object = programs(&toolchain)?;
    shell::say("step 3 of 3: privnet (the first time: some minutes, for its libraries)");
    if let Some(libraries) = libraries {
        libraries.wait()?;
    }
    privnet_with(&object, profile)
}

/// Builds `privnet` and [`DEMO`] with the programs in `object`, and returns the path of `privnet`.
///
/// # Errors
/// They do not compile.
pub fn privnet_with(object: &Path, profile: Profile) -> Result<PathBuf> {
    binary_of(&mut binaries_with(object, profile), "privnet")
}

/// The cargo that builds `privnet` and [`DEMO`] with the programs in `object`.
fn binaries_with(object: &Path, profile: Profile) -> Command {
    let mut command = cargo("build", profile, object);
    command.args(["--bin", "privnet", "--bin", DEMO]);
    command
}

/// The binaries of a build whose `privnet` is at this path.
pub fn binaries(privnet: &Path) -> [PathBuf; 2] {
    [privnet.to_owned(), privnet.with_file_name(DEMO)]
}

/// A `cargo TASK` on the workspace.
///
/// Every build of a task goes through here, so that all share what was compiled: cargo chooses the features of
/// libraries by the packages that are selected.
pub fn cargo(task: &str, profile: Profile, object: &Path) -> Command {
    let mut command = environment::cargo();
    command.args([task, "--workspace"]).env(EBPF_OBJECT, object);
    match profile {
        Profile::Dev => {}
        Profile::Quick => {
            command.args(["--profile", "quick"]);
        }
        Profile::Release => {
            command.arg("--release");
        }
    }
    command
}

/// Runs a cargo that builds, and returns the executables that it names.
///
/// # Errors
/// It failed; what it had to say is on stderr.
pub fn executables(command: &mut Command) -> Result<Vec<messages::Executable>> {
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped()).stderr(Stdio::inherit());
    let shown = shell::shown(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed: {}", output.status);
    }
    Ok(messages::executables(&String::from_utf8_lossy(&output.stdout)))
}

/// Runs a cargo that builds the binary `name`, and returns its path.
///
/// # Errors
/// It failed, or built no such binary.
pub fn binary_of(command: &mut Command, name: &str) -> Result<PathBuf> {
    let built = executables(command)?;
    let found = built.into_iter().find(|executable| executable.file_name() == name);
    Ok(found.with_context(|| format!("the build gave no binary `{name}`"))?.path)
}

fn compile_programs(toolchain: &Toolchain) -> Result<PathBuf> {
    let target = "bpfel-unknown-none";
    let target_dir = environment::root().join("target/ebpf-build");
    // aya's bindings to the kernel's types differ between the host's architectures.
    let flags =
        format!("--cfg=bpf_target_arch=\"{}\"\u{1f}-Cdebuginfo=2\u{1f}-Clink-arg=--btf", std::env::consts::ARCH);
    let mut command = environment::foreign(&toolchain.compiler.cargo);
    command
        .args(["build", "--release", "--package", "privnet-ebpf", "--bin", "privnet-programs"])
        .args(["--target", target, "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("RUSTC", &toolchain.compiler.rustc)
        // A released compiler refuses to build core for a target unless told that we know what we do.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", OsString::from(flags))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2");
    shell::run(&mut command)?;
    Ok(target_dir.join(target).join("release/privnet-programs"))
}

/// Copies `from` to `to` unless they are equal: a new time stamp would compile `privnet` again for nothing.
fn replace_if_different(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    match fs::read(to) {
        Ok(old) if old == new => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", to.display())),
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // A build that reads at this moment sees the old object or the new one, never half of one.
    let aside = to.with_extension("new");
    fs::write(&aside, new).with_context(|| format!("cannot write {}", aside.display()))?;
    fs::rename(&aside, to).with_context(|| format!("cannot replace {}", to.display()))
}
