//! Documents are wrapped, so that a terminal and a diff show them.

use super::Finding;
use super::source::SourceFile;

/// The widest line, in characters.
const COLUMNS: usize = 100;

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let documents = files.iter().filter(|file| file.path.ends_with(".md"));
    let wide = documents.flat_map(|file| wide_lines(&file.text).into_iter().map(move |line| (file, line)));
    wide.map(|(file, line)| Finding::new(&file.path, line, format!("wider than {COLUMNS} columns"))).collect()
}

/// The lines that are too wide. Blocks of code, tables, lines with a URL, and a span of code that is alone on its line stay
/// as they are.
fn wide_lines(text: &str) -> Vec<usize> {
    let mut is_code = false;
    let mut wide = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        let is_free =
            is_code || is_fence || line.trim_start().starts_with('|') || line.contains("://") || is_one_span(line);
        if !is_free && line.chars().count() > COLUMNS {
            wide.push(number + 1);
        }
    }
    wide
}

/// Whether a line is one span of code, but for the mark of a list and for punctuation.
fn is_one_span(line: &str) -> bool {
    let inside = line.trim_matches(|c: char| c.is_whitespace() || "-().,:;".contains(c));
    inside.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).is_some_and(|span| !span.contains('`'))
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
    fn a_span_of_code_needs_a_line_of_its_own_and_no_more() {
        let wide = "x".repeat(COLUMNS);
        assert_eq!(wide_lines(&format!("  - `{wide}`\n  (`{wide}`).\n")), []);
        assert_eq!(wide_lines(&format!("see `{wide}`\n`{wide}` and `{wide}`\n")), [1, 2]);
    }

    #[test]
    fn only_documents_are_looked_at() {
        let wide = "x".repeat(COLUMNS + 1);
        let files = ["wide.md", "wide.rs"].map(|path| SourceFile::new(path, wide.clone()));
        assert_eq!(check(&files).iter().map(|finding| finding.path.as_str()).collect::<Vec<_>>(), ["wide.md"]);
    }
}
