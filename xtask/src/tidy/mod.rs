//! `tidy`: the rules of STYLE.md that no compiler checks.
//!
//! Each check is a function from the files of the tree to findings, with a sample that fails and one that passes
//! among its tests. Checks read code with comments and strings blanked out, so a rule may be written about freely. A
//! place that a rule excuses is itself checked: an excuse that excuses nothing is a finding.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::environment;

mod abi;
mod circles;
mod claims;
mod commits;
mod crates;
mod errors;
mod form;
mod places;
mod ranks;
mod skips;
mod source;
mod wrap;

use source::SourceFile;

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// Counted from 1; 0 if the finding is about the whole file.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.path, self.what)
        } else {
            write!(f, "{}:{}: {}", self.path, self.line, self.what)
        }
    }
}

/// The task; with `accept_abi`, records the present abi.rs first.
///
/// # Errors
/// The tree cannot be read, or breaks a rule.
pub fn task(accept_abi: bool) -> Result<()> {
    let root = environment::root();
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    if accept_abi {
        abi::accept(root, &files)?;
    }
    let checks = [
        ranks::check,
        circles::check,
        crates::check,
        places::check,
        form::check,
        errors::check,
        claims::check,
        skips::check,
        wrap::check,
    ];
    let mut findings: Vec<Finding> = checks.iter().flat_map(|check| check(&files)).collect();
    let lock = fs::read_to_string(root.join(abi::LOCK)).ok();
    findings.extend(abi::check(&files, lock.as_deref()));
    match commits::check(root) {
        Ok(found) => findings.extend(found),
        Err(error) => eprintln!("tidy: no subject of a commit was checked, since there is no history: {error:#}"),
    }
    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings; STYLE.md has the reasons", findings.len());
    }
    Ok(())
}

/// Collects the text files below `folder`; what git does not track by convention (`target`, `.git`) is none of them.
fn collect(root: &Path, folder: &Path, files: &mut Vec<SourceFile>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let (path, kind) = (entry.path(), entry.file_type().context("cannot read the type of a file")?);
        // In a worktree .git is a file.
        if entry.file_name() == "target" || entry.file_name() == ".git" {
            continue;
        }
        if kind.is_dir() {
            collect(root, &path, files)?;
        } else if kind.is_file() {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            // A file that is not UTF-8 is a picture or the like.
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(SourceFile::new(relative, text));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_tree_is_read_and_a_finding_points_at_its_line() {
        let mut files = Vec::new();
        collect(environment::root(), environment::root(), &mut files).expect("the tree can be read");
        assert!(files.iter().any(|file| file.path == "xtask/src/tidy/mod.rs"));
        assert!(!files.iter().any(|file| file.path.starts_with("target/")));
        assert_eq!(Finding::new("a.rs", 3, "is wrong").to_string(), "a.rs:3: is wrong");
        assert_eq!(Finding::new("a.rs", 0, "is wrong").to_string(), "a.rs: is wrong");
    }
}
