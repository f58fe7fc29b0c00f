//! What the binaries need of other packages: the C library, from the version on whose symbols they use.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell;

/// What stands before a version of the C library's symbols.
const SYMBOLS: &str = "GLIBC_";

/// The `Depends:` of these binaries.
///
/// # Errors
/// `readelf` of the binutils is missing, or a binary uses no C library.
pub fn of(binaries: &[&Path]) -> Result<String> {
    let versions = shell::output(Command::new("readelf").args(["--version-info", "--wide"]).args(binaries))?;
    let (major, minor) = newest(&versions).context("the binaries use no symbol of a C library")?;
    Ok(format!("libc6 (>= {major}.{minor}), libgcc-s1, init-system-helpers"))
}

fn newest(text: &str) -> Option<(u32, u32)> {
    let versions = text.split(SYMBOLS).skip(1).filter_map(|rest| {
        let version = rest.split(|letter: char| !letter.is_ascii_digit() && letter != '.').next()?;
        let mut parts = version.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    });
    versions.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_counts_by_number_and_not_by_letter() {
        let text = "0x0010:   Name: GLIBC_2.9  Flags: none  Version: 5\n  0x0020:   Name: GLIBC_2.34  Flags: none\n \
                    0x0030:   Name: GLIBC_2.2.5  Flags: none\n  Name: GCC_3.0\n Name: GLIBC_PRIVATE\n";
        assert_eq!(newest(text), Some((2, 34)));
        assert_eq!(newest("Name: GCC_3.0"), None);
    }
}
