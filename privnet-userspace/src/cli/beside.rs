//! `privnet` and `privnet-demo` are installed in one directory, and each starts the other.

use std::env;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::api::{ControlError, ErrorCode};

/// The program `name`: in the directory of the running one, else on the PATH.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let search = env::var_os("PATH").unwrap_or_default();
    find_in(own_directory().into_iter().chain(env::split_paths(&search)), name)
}

/// The program `name` on the PATH.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    find_in(env::split_paths(&env::var_os("PATH").unwrap_or_default()), name)
}

/// The error when [`find`] finds no program `name`; `why` ends in a verb or a preposition that takes its name.
#[must_use]
pub fn missing(name: &str, why: &str) -> ControlError {
    let directory = own_directory().map_or_else(|| "this program".to_owned(), |path| path.display().to_string());
    let message = format!("{why} `{name}`, which is neither in {directory} nor on the PATH");
    let remedy = format!("install {name} in {directory}; in a checkout, `cargo xtask run demo` builds both programs");
    ControlError::new(ErrorCode::Internal, message, remedy)
}

fn own_directory() -> Option<PathBuf> {
    Some(env::current_exe().ok()?.parent()?.to_owned())
}

/// Relative directories are passed over: the demo runs as root, wherever it is called.
fn find_in(directories: impl Iterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    directories
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|p| is_program(p))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn the_first_executable_file_is_found() {
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        let find = || find_in(["".into(), one.path().into(), two.path().into()].into_iter(), "program");
        assert_eq!(find(), None);
        let make = |directory: &Path, mode| {
            fs::write(directory.join("program"), "").expect("written");
            fs::set_permissions(directory.join("program"), Permissions::from_mode(mode)).expect("permitted");
        };
        make(two.path(), 0o755);
        make(one.path(), 0o644);
        assert_eq!(find(), Some(two.path().join("program")), "a file that cannot be executed is passed over");
        make(one.path(), 0o755);
        assert_eq!(find(), Some(one.path().join("program")));
        fs::remove_file(one.path().join("program")).expect("removed");
        fs::create_dir(one.path().join("program")).expect("made");
        assert_eq!(find(), Some(two.path().join("program")), "a directory is passed over");
    }
}
