//! Images of containers, made of programs of this machine: no registry is asked.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What stands in for an image of a registry.
pub const IMAGE: &str = "tools";
/// Stands for a database: it answers `INCR` alone.
const DATABASE: &str = "#!/bin/busybox sh\nexec busybox nc -ll -p 6379 -e /bin/counter\n";
const COUNTER: &str = "#!/bin/busybox sh\nread line\nn=$(($(busybox cat /count 2>/dev/null || echo 0) + 1))\necho $n > /count\necho :$n\n";

/// Packs an image, for a daemon to import: files, and where they are in the image. Its output is the archive.
///
/// # Panics
/// When a program is not there.
#[must_use]
pub(super) fn pack(root: &Path, programs: &[(PathBuf, &str)]) -> Child {
    for (program, place) in programs {
        put(root, program, place);
        for library in libraries(program) {
            put(root, &library, &library.display().to_string());
        }
    }
    std::fs::create_dir_all(root.join("etc")).expect("made");
    std::fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n").expect("written");
    let tar = Command::new("tar").arg("-C").arg(root).args(["-c", "."]).stdout(Stdio::piped()).spawn();
    tar.expect("tar starts")
}

/// What stands for the database of the examples, made in `directory`: files, and where they are in an image with busybox.
///
/// # Panics
/// When a file cannot be written.
#[must_use]
pub fn database(directory: &Path) -> Vec<(PathBuf, &'static str)> {
    let script = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
        path
    };
    vec![(script("redis-server", DATABASE), "/bin/redis-server"), (script("counter", COUNTER), "/bin/counter")]
}

/// Where a program of this machine is.
///
/// # Panics
/// When there is no shell.
#[must_use]
pub fn which(program: &str) -> PathBuf {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().expect("sh starts");
    PathBuf::from(String::from_utf8_lossy(&found.stdout).trim_end())
}

/// Copies a file into an image.
fn put(root: &Path, file: &Path, place: &str) {
    let to = root.join(place.trim_start_matches('/'));
    std::fs::create_dir_all(to.parent().expect("a folder")).expect("made");
    std::fs::copy(file, &to).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

/// The libraries of a program, and what loads them; none of one that is linked statically.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd starts");
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}
