//! A binary without its symbols, and the symbols in a file beside it.
//!
//! Cargo's own `strip` throws the symbols away, and its `split-debuginfo` leaves the tables of lines in the binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell;

/// Moves the symbols of `binary` to `<binary>.debug`, which gdb, perf and the backtrace of a panic find by the link in
/// the binary. Returns the path of the symbols.
///
/// # Errors
/// `objcopy` of the binutils is missing, or the files cannot be written.
pub fn move_aside(binary: &Path) -> Result<PathBuf> {
    let mut symbols = binary.as_os_str().to_owned();
    symbols.push(".debug");
    let symbols = PathBuf::from(symbols);
    shell::run(objcopy().arg("--only-keep-debug").arg(binary).arg(&symbols))?;
    let mut link = std::ffi::OsString::from("--add-gnu-debuglink=");
    link.push(&symbols);
    // cargo has a second name for the file, which keeps its symbols: the next build finds there what it left.
    let stripped = symbols.with_extension("stripped");
    shell::run(objcopy().arg("--strip-all").arg(link).arg(binary).arg(&stripped))?;
    fs::rename(&stripped, binary).with_context(|| format!("cannot replace {}", binary.display()))?;
    Ok(symbols)
}

fn objcopy() -> Command {
    Command::new("objcopy")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stripped_binary_is_smaller_runs_and_names_its_symbols() {
        let folder = std::env::temp_dir().join(format!("privnet-symbols-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let binary = folder.join("program");
        fs::copy(std::env::current_exe().expect("this test"), &binary).expect("copied");
        let octets = |path: &Path| path.metadata().expect("a file").len();
        let before = octets(&binary);
        let symbols = move_aside(&binary).expect("moved");
        assert_eq!(symbols, folder.join("program.debug"));
        assert!(octets(&binary) < before / 2, "{} of {before}", octets(&binary));
        assert!(octets(&symbols) > before / 4, "{} of {before}", octets(&symbols));
        let stripped = fs::read(&binary).expect("read");
        assert!(stripped.windows(14).any(|bytes| bytes == b"program.debug\0"), "no link");
        assert!(Command::new(&binary).arg("--list").output().expect("started").status.success());
        let left: Vec<_> = fs::read_dir(&folder).expect("read").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        fs::remove_dir_all(folder).expect("a clean end");
    }
}
