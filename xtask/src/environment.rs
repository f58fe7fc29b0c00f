//! What of the environment reaches the programs that a task starts.
//!
//! `cargo xtask` runs inside `cargo run`, which adds variables of its own. A build script that watches one of them
//! would make every build through a task invalidate the builds without it, and a second toolchain would be led to
//! the libraries of the first.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set by `cargo run` for the package that it runs (xtask), and for no other program.
const OF_THE_RUNNING_PACKAGE: [&str; 5] =
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];

/// Choose or steer a toolchain, and must not reach the one that compiles for BPF.
const OF_A_TOOLCHAIN: [&str; 9] = [
    "RUSTC",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "RUST_RECURSION_COUNT",
    "CARGO_BUILD_",
    "CARGO_ENCODED_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
];

/// The root of the workspace.
pub fn root() -> &'static Path {
    // Known when xtask was compiled; a moved clone compiles it again, because cargo's fingerprint holds the path.
    let manifest: &Path = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Where tools that setup builds for this clone live.
pub fn tools() -> PathBuf {
    root().join("target/tools/bin")
}

/// The cargo that started this task, in the environment that this cargo was started in.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    without(&mut command, &OF_THE_RUNNING_PACKAGE);
    plain_library_path(&mut command);
    command
}

/// A program of another toolchain: nothing of the one that started this task leaks into it.
pub fn foreign(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    without(&mut command, &OF_THE_RUNNING_PACKAGE);
    without(&mut command, &OF_A_TOOLCHAIN);
    command.env_remove("CARGO");
    plain_library_path(&mut command);
    command
}

/// The variables that name a folder with another version of what the tests run: a Docker (`dockerd`, `docker`, `containerd` and
/// its shim), an `etcd`.
const OTHERS_OF_TESTS: [&str; 2] = ["PRIVNET_TEST_DOCKER", "PRIVNET_TEST_ETCD"];

/// The variable that names a folder with a Podman of 4.5 or later for the tests: `podman` and `netavark`.
pub const NEWER_PODMAN: &str = "PRIVNET_TEST_PODMAN";

/// That folder: the one that the user named, else the one that setup unpacked.
pub fn newer_podman() -> OsString {
    let named = env::var_os(NEWER_PODMAN).filter(|folder| !folder.is_empty());
    let folder = tools().join("podman-5");
    let is_whole = ["podman", "netavark"].iter().all(|program| folder.join(program).is_file());
    named.unwrap_or_else(|| if is_whole { folder.into_os_string() } else { OsString::new() })
}

/// `PATH` with the tools of this clone in front, and the system's behind; a Docker or etcd that the user named comes before all.
pub fn path_with_tools() -> OsString {
    let present = env::var_os("PATH").unwrap_or_default();
    let others = OTHERS_OF_TESTS.iter().filter_map(env::var_os).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    // A user's shell often leaves the directories of system tools out.
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let directories = others.chain([tools()]).chain(env::split_paths(&present)).chain(system);
    env::join_paths(directories).unwrap_or(present)
}

/// Finds `program` among the tools of this clone and on `PATH`; the directories of system tools count as on it.
pub fn which(program: &str) -> Option<PathBuf> {
    env::split_paths(&path_with_tools()).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// Whether no person can answer a question here, and a skipped test is a failure.
pub fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}

fn without(command: &mut Command, prefixes: &[&str]) {
    for (name, _) in env::vars_os() {
        if has_prefix(&name, prefixes) {
            command.env_remove(name);
        }
    }
}

fn has_prefix(name: &OsStr, prefixes: &[&str]) -> bool {
    let name = name.to_string_lossy();
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// Takes out of `LD_LIBRARY_PATH` what `cargo run` put in.
fn plain_library_path(command: &mut Command) {
    let Some(present) = env::var_os("LD_LIBRARY_PATH") else { return };
    let kept: Vec<PathBuf> = env::split_paths(&present).filter(|directory| !is_cargos(directory)).collect();
    match env::join_paths(&kept) {
        Ok(joined) if !kept.is_empty() => command.env("LD_LIBRARY_PATH", joined),
        Ok(_) | Err(_) => command.env_remove("LD_LIBRARY_PATH"),
    };
}

fn is_cargos(directory: &Path) -> bool {
    let text = directory.to_string_lossy();
    text.contains("/rustlib/") || text.contains("/toolchains/") || text.contains("/target/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_toolchain_are_recognized_and_the_users_own_are_not() {
        for name in ["RUSTC", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET"] {
            assert!(has_prefix(OsStr::new(name), &OF_A_TOOLCHAIN), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_PROXY", "RUSTUP_HOME", "PATH", "RUST_LOG"] {
            assert!(!has_prefix(OsStr::new(name), &OF_A_TOOLCHAIN), "{name}");
        }
    }

    #[test]
    fn cargos_library_directories_are_recognized_and_the_users_own_are_not() {
        assert!(is_cargos(Path::new("/home/me/.rustup/toolchains/stable/lib")));
        assert!(is_cargos(Path::new("/home/me/privnet/target/debug/deps")));
        assert!(!is_cargos(Path::new("/opt/cuda/lib")));
    }
}
