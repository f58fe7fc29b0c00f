//! The form of files: not too long, opened by a sentence, and true on every machine.

use super::Finding;
use super::source::{SourceFile, is_word};

/// A longer file is cut by meaning, or has a reason to be one file.
const LINES: usize = 400;

/// Files that are longer, each with its reason. One that is short, or gone, is a finding.
const EXCUSED: [(&str, &str); 0] = [];

/// Folders of one machine that have no business in the tree; in pieces, because this file is in the tree.
const MACHINE_PATHS: [&str; 3] = [concat!("/", "work"), concat!("/", "root/"), concat!("/tmp/", "wt")];

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        if file.is_rust() {
            findings.extend(opening(file));
        }
        findings.extend(machine_paths(file));
    }
    findings.extend(lengths(files, &EXCUSED));
    findings
}

fn lengths(files: &[SourceFile], excused: &[(&str, &str)]) -> Vec<Finding> {
    let long = |file: &&SourceFile| file.is_rust() && file.text.lines().count() > LINES;
    let long: Vec<&str> = files.iter().filter(long).map(|file| file.path.as_str()).collect();
    let unexcused = long.iter().filter(|path| !excused.iter().any(|(excused, _)| excused == *path));
    let needless = excused.iter().filter(|(path, reason)| !long.contains(path) || reason.is_empty());
    let asks = format!("more than {LINES} lines need a reason in xtask/src/tidy/form.rs, or a cut by meaning");
    let excuses = "its excuse in xtask/src/tidy/form.rs excuses nothing, or has no reason";
    let mut findings: Vec<Finding> = unexcused.map(|path| Finding::new(path, 0, &*asks)).collect();
    findings.extend(needless.map(|(path, _)| Finding::new(path, 0, excuses)));
    findings
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
    fn an_excuse_has_a_reason_and_a_long_file() {
        let files =
            [("long.rs", 401), ("short.rs", 400)].map(|(path, lines)| SourceFile::new(path, "\n".repeat(lines)));
        let wrong = |excused: &[(&str, &str)]| lengths(&files, excused).into_iter().map(|f| f.path).collect::<Vec<_>>();
        assert_eq!(wrong(&[]), ["long.rs"]);
        assert_eq!(wrong(&[("long.rs", "one contract, to be read as one text")]), Vec::<String>::new());
        assert_eq!(wrong(&[("long.rs", "")]), ["long.rs"]);
        assert_eq!(wrong(&[("long.rs", "why"), ("short.rs", "why"), ("gone.rs", "why")]), ["short.rs", "gone.rs"]);
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
