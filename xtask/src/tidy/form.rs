//! The form of files: not too long, opened by a sentence, and true on every machine.

use super::Finding;
use super::source::{SourceFile, is_word};

/// A longer file asks to be looked at again.
const LINES: usize = 400;

/// Files that were looked at again, with the reason why they stay long.
const EXCUSED: [(&str, &str); 2] = [
    ("privnet-userspace/src/store/conformance.rs", "the contract of every store, to be read as one text"),
    ("privnet-userspace/src/dns/client.rs", "one conversation with one process, five lines over"),
];

/// Folders of one machine that have no business in the tree; in pieces, because this file is in the tree.
const MACHINE_PATHS: [&str; 3] = [concat!("/", "work"), concat!("/", "root/"), concat!("/tmp/", "wt")];

/// Files that others make.
const GENERATED: [&str; 1] = ["Cargo.lock"];

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| !GENERATED.contains(&file.path.as_str())) {
        if file.is_rust() {
            findings.extend(length(file));
            findings.extend(opening(file));
        }
        findings.extend(machine_paths(file));
    }
    findings
}

fn length(file: &SourceFile) -> Option<Finding> {
    let lines = file.text.lines().count();
    if lines <= LINES || EXCUSED.iter().any(|(path, _)| *path == file.path) {
        return None;
    }
    let what = format!("{lines} lines; more than {LINES} need a reason in xtask/src/tidy/form.rs, or another cut");
    Some(Finding::new(&file.path, 0, what))
}

fn opening(file: &SourceFile) -> Option<Finding> {
    let what = match file.text.lines().find(|line| !line.trim().is_empty()) {
        Some(line) if line.starts_with("//! ") => return None,
        Some(_) => "opens with a `//!` that says what the module owns",
        None => "is empty",
    };
    Some(Finding::new(&file.path, 1, what))
}

fn machine_paths(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        if let Some(path) = MACHINE_PATHS.iter().find(|path| names(line, path)) {
            findings.push(Finding::new(&file.path, number + 1, format!("`{path}` exists on one machine only")));
        }
    }
    findings
}

/// Whether `line` holds `path` as the start of an absolute path.
fn names(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        let is_start = before.is_none_or(|c| !is_word(c) && !['.', '-', '/', '~', '}', ')', '>'].contains(&c));
        is_start && (path.ends_with('/') || after.is_none_or(|c| !is_word(c) && c != '-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&[SourceFile::new(path, text)]).len()
    }

    #[test]
    fn a_file_of_400_lines_passes_and_one_of_401_does_not() {
        let text = |lines: usize| format!("//! Long.\n{}", "\n".repeat(lines - 1));
        assert_eq!(findings("a.rs", &text(400)), 0);
        assert_eq!(findings("a.rs", &text(401)), 1);
        assert_eq!(findings("a.md", &text(401)), 0, "prose may be long");
    }

    #[test]
    fn a_module_opens_with_a_sentence() {
        assert_eq!(findings("a.rs", "//! Owns a.\nfn a() {}\n"), 0);
        assert_eq!(findings("a.rs", "fn a() {}\n"), 1);
        assert_eq!(findings("a.rs", "//!\nfn a() {}\n"), 1);
        assert_eq!(findings("a.rs", "\n"), 1);
    }

    #[test]
    fn paths_of_one_machine_are_found_and_their_likes_are_not() {
        for path in MACHINE_PATHS {
            assert_eq!(findings("a.md", &format!("see {path}/main\n")), 1, "{path}");
            assert_eq!(findings("a.md", &format!("`{path}`\n")), 1, "{path}");
            assert_eq!(findings("a.md", &format!("see docs{path}/main\n")), 0, "{path}");
        }
        assert_eq!(findings("a.rs", &format!("//! {}er\n", MACHINE_PATHS[0])), 0);
        assert_eq!(findings("a.rs", "//! root:x:0:0:root:/root:/bin/sh\n"), 0, "root has a home everywhere");
    }
}
