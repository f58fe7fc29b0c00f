//! Documents are wrapped, so that a terminal and a diff show them.

use super::Finding;
use super::source::SourceFile;

/// The widest line, in characters.
const COLUMNS: usize = 100;

/// Documents that are not wrapped yet. One that is, or is gone, is a finding.
const UNWRAPPED: [&str; 5] = ["ARCHITECTURE.md", "CHANGELOG.md", "README.md", "SECURITY.md", "STYLE.md"];

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    check_with(files, &UNWRAPPED)
}

fn check_with(files: &[SourceFile], unwrapped: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let wide = wide_lines(&file.text);
        match (unwrapped.contains(&file.path.as_str()), wide.is_empty()) {
            (true, true) => findings.push(Finding::new(&file.path, 0, "is wrapped: take it out of UNWRAPPED")),
            (true, false) | (false, true) => {}
            (false, false) => findings.extend(
                wide.iter().map(|line| Finding::new(&file.path, *line, format!("wider than {COLUMNS} columns"))),
            ),
        }
    }
    findings
}

/// The lines that are too wide. Blocks of code, tables and lines with a URL stay as they are.
fn wide_lines(text: &str) -> Vec<usize> {
    let mut is_code = false;
    let mut wide = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        let is_free = is_code || is_fence || line.trim_start().starts_with('|') || line.contains("://");
        if !is_free && line.chars().count() > COLUMNS {
            wide.push(number + 1);
        }
    }
    wide
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_wrapped_and_code_tables_and_urls_need_not_be() {
        let (fits, wide) = ("é".repeat(COLUMNS), "é".repeat(COLUMNS + 1));
        assert_eq!(wide_lines(&format!("{fits}\n{wide}\n")), [2]);
        assert_eq!(wide_lines(&format!("```sh\n{wide}\n```\n| {wide} |\nsee https://example.org/{wide}\n")), []);
        assert_eq!(wide_lines(&format!("```\n{wide}\n```\n{wide}")), [4], "behind the block");
    }

    #[test]
    fn an_excuse_excuses_a_document_that_is_too_wide() {
        let files = [("wide.md", COLUMNS + 1), ("fits.md", COLUMNS), ("wide.rs", COLUMNS + 1)];
        let files = files.map(|(path, columns)| SourceFile::new(path, "x".repeat(columns)));
        let wrong = |unwrapped: &[&str]| check_with(&files, unwrapped).into_iter().map(|f| f.path).collect::<Vec<_>>();
        assert_eq!(wrong(&[]), ["wide.md"]);
        assert_eq!(wrong(&["wide.md"]), Vec::<String>::new());
        assert_eq!(wrong(&["wide.md", "fits.md"]), ["fits.md"]);
    }
}
