//! A change of what crosses to the kernel raises the version of what crosses.
//!
//! `privnet-ebpf/abi.lock` holds the version and a fingerprint of abi.rs (of its code: comments may change freely).

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::Finding;
use super::source::{SourceFile, words};

/// What is fingerprinted.
const ABI: &str = "privnet-ebpf/src/abi.rs";
/// Where the fingerprint is.
pub const LOCK: &str = "privnet-ebpf/abi.lock";
/// What to do about a finding.
const ACCEPT: &str = "`cargo xtask tidy --accept-abi`";

/// A version and the fingerprint of its layout.
#[derive(Debug, PartialEq, Eq)]
struct Abi {
    version: u32,
    fingerprint: u64,
}

/// Checks abi.rs, if the tree has one, against the text of the lock, if there is one.
pub fn check(files: &[SourceFile], lock: Option<&str>) -> Vec<Finding> {
    let Some(file) = files.iter().find(|file| file.path == ABI) else { return Vec::new() };
    let what = match (present(file), lock.and_then(locked)) {
        (Err(error), _) => format!("{error:#}"),
        (Ok(_), None) => format!("{LOCK} is missing or unreadable: record the layout with {ACCEPT}"),
        (Ok(now), Some(then)) if now == then => return Vec::new(),
        (Ok(now), Some(then)) if now.version == then.version => {
            format!("what crosses has changed, but ABI_VERSION is still {}: raise it, then {ACCEPT}", now.version)
        }
        (Ok(now), Some(then)) => {
            format!(
                "ABI_VERSION is {}, and {LOCK} is of {}: record the layout with {ACCEPT}",
                now.version, then.version
            )
        }
    };
    vec![Finding::new(ABI, 0, what)]
}

/// Records the present abi.rs.
///
/// # Errors
/// There is none, or it differs from the recorded one under the same version.
pub fn accept(root: &Path, files: &[SourceFile]) -> Result<()> {
    let file = files.iter().find(|file| file.path == ABI).with_context(|| format!("{ABI} does not exist"))?;
    let now = present(file)?;
    let path = root.join(LOCK);
    let then = fs::read_to_string(&path).ok().as_deref().and_then(locked);
    if let Some(then) = then
        && then != now
        && now.version <= then.version
    {
        bail!(
            "ABI_VERSION is {}; a layout other than that of version {} needs a higher one",
            now.version,
            then.version
        );
    }
    fs::write(&path, text(&now)).with_context(|| format!("cannot write {}", path.display()))
}

fn text(abi: &Abi) -> String {
    let Abi { version, fingerprint } = abi;
    format!(
        "# The layout of ABI_VERSION; written by {ACCEPT}.\nversion = {version}\nfingerprint = {fingerprint:016x}\n"
    )
}

fn locked(lock: &str) -> Option<Abi> {
    let value = |key: &str| lock.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix('='));
    let version = value("version")?.trim().parse().ok()?;
    let fingerprint = u64::from_str_radix(value("fingerprint")?.trim(), 16).ok()?;
    Some(Abi { version, fingerprint })
}

fn present(file: &SourceFile) -> Result<Abi> {
    let declared =
        words(&file.code).find(|word| word.text == "ABI_VERSION" && word.before.trim_end().ends_with("const"));
    let declared = declared.with_context(|| format!("{ABI} declares no `const ABI_VERSION: u32 = …;`"))?;
    let value = declared.rest.split(';').next().and_then(|value| value.split_once('=')).map(|(_, value)| value.trim());
    let version = value.and_then(|value| value.replace('_', "").parse().ok());
    let version = version.with_context(|| format!("ABI_VERSION in {ABI} is not a plain number"))?;
    Ok(Abi { version, fingerprint: fingerprint(&production(&file.code)) })
}

/// The code without its unit tests, which stand at the end.
fn production(code: &str) -> String {
    let end = code.find("#[cfg(test)]").unwrap_or(code.len());
    code[..end].to_owned()
}

/// FNV-1a over the code without white space; it guards against forgetting, not against malice.
fn fingerprint(code: &str) -> u64 {
    let bytes = code.bytes().filter(|byte| !byte.is_ascii_whitespace());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "//! What crosses.\npub const ABI_VERSION: u32 = 3;\npub struct Key { pub a: u32 }\n";

    fn abi(text: &str) -> Vec<SourceFile> {
        vec![SourceFile::new(ABI, text)]
    }

    fn lock_of(source: &str) -> String {
        text(&present(&abi(source)[0]).expect("a version"))
    }

    #[test]
    fn comments_spaces_and_tests_may_change_under_one_version() {
        let lock = lock_of(BEFORE);
        assert_eq!(check(&abi(BEFORE), Some(&lock)), []);
        let after = BEFORE.replace("struct Key {", "struct Key // a key\n{") + "#[cfg(test)]\nmod tests {}\n";
        assert_eq!(check(&abi(&after), Some(&lock)), []);
    }

    #[test]
    fn a_field_may_not_change_under_one_version_and_may_with_a_new_one_that_is_recorded() {
        let lock = lock_of(BEFORE);
        let changed = BEFORE.replace("a: u32", "a: u64");
        assert_eq!(check(&abi(&changed), Some(&lock)).len(), 1);
        let raised = changed.replace("= 3", "= 4");
        assert_eq!(check(&abi(&raised), Some(&lock)).len(), 1, "not recorded");
        assert_eq!(check(&abi(&raised), Some(&lock_of(&raised))), []);
    }

    #[test]
    fn a_missing_lock_or_version_is_found_and_a_tree_without_abi_is_not() {
        assert_eq!(check(&abi(BEFORE), None).len(), 1);
        assert_eq!(check(&abi("//! What crosses.\n"), Some(&lock_of(BEFORE))).len(), 1);
        assert_eq!(check(&[], None), []);
    }

    #[test]
    fn a_layout_is_recorded_only_under_a_version_of_its_own() {
        let root = std::env::temp_dir().join(format!("privnet-tidy-abi-{}", std::process::id()));
        fs::create_dir_all(root.join("privnet-ebpf")).expect("a folder");
        accept(&root, &abi(BEFORE)).expect("the first layout");
        accept(&root, &abi(BEFORE)).expect("the same again");
        let changed = BEFORE.replace("a: u32", "a: u64");
        accept(&root, &abi(&changed)).expect_err("another layout under the same version");
        accept(&root, &abi(&changed.replace("= 3", "= 4"))).expect("under a new version");
        fs::remove_dir_all(root).expect("a clean end");
    }
}
