//! A test that cannot run here says so in the words that the runner counts, and nothing returns in silence.

use super::Finding;
use super::source::{SourceFile, Word};
use crate::lacks;

/// What the places may lack.
const LACKS: &str = "xtask/src/lacks.rs";

/// The tests that depend on what a machine has.
const TESTS: &str = "tests/";
/// In its name: what prints the line of a skip.
const SKIP: &str = "skip";
/// The one place that prints it.
const SKIP_PLACE: &str = "tests/src/lab/skip.rs";
/// What the runner counts, and what was once printed instead. In pieces, because this file is in the tree.
const PRINTED: [&str; 2] = [concat!("SKIPPED", ": "), concat!("not ", "exercised")];

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let of_tests = files.iter().filter(|file| file.is_rust() && file.path.starts_with(TESTS));
    let found = of_tests.flat_map(|file| printed_by_hand(file).into_iter().chain(silent_returns(file)));
    found.chain(idle_lacks(files)).chain(idle_place(files)).collect()
}

/// What a place may lack, and no test asks for.
fn idle_lacks(files: &[SourceFile]) -> Vec<Finding> {
    if !files.iter().any(|file| file.path == LACKS) {
        return Vec::new();
    }
    let is_asked_for = |what: &str| {
        let named = format!("\"{what}\"");
        files.iter().any(|file| file.path.starts_with(TESTS) && file.text.contains(&named))
    };
    let mut listed: Vec<&str> =
        lacks::MACHINE.iter().chain(lacks::GUESTS.iter().map(|(_, what)| what)).copied().collect();
    listed.sort_unstable();
    listed.dedup();
    let idle = listed.into_iter().filter(|what| !is_asked_for(what));
    idle.map(|what| Finding::new(LACKS, 0, format!("`{what}` may be missing, and no test skips for it"))).collect()
}

/// The place that may print a skip, and does not.
fn idle_place(files: &[SourceFile]) -> Option<Finding> {
    let place = files.iter().find(|file| file.path == SKIP_PLACE)?;
    let is_idle = !place.text.lines().any(is_printed);
    is_idle.then(|| Finding::new(SKIP_PLACE, 0, "prints no skip: the rule of xtask/src/tidy/skips.rs looks elsewhere"))
}

fn is_printed(line: &str) -> bool {
    PRINTED.iter().any(|printed| line.contains(printed))
}

fn printed_by_hand(file: &SourceFile) -> Vec<Finding> {
    let lines = file.text.lines().enumerate().filter(|(_, line)| file.path != SKIP_PLACE && is_printed(line));
    let what = format!("a skip is printed by `{SKIP}` of {SKIP_PLACE} only, so that it is counted");
    lines.map(|(number, _)| Finding::new(&file.path, number + 1, &*what)).collect()
}

fn silent_returns(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for function in file.words().filter(|word| word.text == "fn" && is_test(word)) {
        for word in super::source::words(body(function.rest)) {
            let is_bare = word.text == "return" && word.rest.trim_start().starts_with(';');
            if is_bare && !last_statements(word.before).contains(SKIP) {
                let line = function.line + word.line - 1;
                findings.push(Finding::new(
                    &file.path,
                    line,
                    format!("a test that returns early calls `{SKIP}` first"),
                ));
            }
        }
    }
    findings
}

/// Whether the attributes above a function say that it is a test.
fn is_test(function: &Word<'_>) -> bool {
    let (above, _) = function.before.rsplit_once('\n').unwrap_or_default();
    let above = above.lines().rev().map(str::trim).take_while(|line| line.is_empty() || line.starts_with("#["));
    above.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
}

/// The code from behind `fn` to the end of the function.
fn body(rest: &str) -> &str {
    let mut depth = 0_usize;
    for (at, character) in rest.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth <= 1 => return &rest[..at],
            '}' => depth -= 1,
            _ => {}
        }
    }
    rest
}

/// The statement that leads to what follows `code`, and the one before it.
fn last_statements(code: &str) -> &str {
    let ends = code.char_indices().rev().filter(|(_, character)| [';', '}'].contains(character));
    let start = ends.map(|(at, _)| at).nth(1).unwrap_or(0);
    &code[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        check(&[SourceFile::new("tests/tests/a.rs", text)]).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_test_that_returns_early_skips() {
        let test = |body: &str| format!("#[test]\nfn it_holds() {{\n    a();\n{body}\n    b();\n}}\n");
        assert_eq!(lines(&test("    if !has(\"dig\") {\n        return;\n    }")), [5]);
        assert_eq!(lines(&test("    if !has(\"dig\") {\n        skip(\"dig\");\n        return;\n    }")), []);
        assert_eq!(lines(&test("    if !has(\"dig\") {\n        return skip(\"dig\");\n    }")), []);
        assert_eq!(lines(&test("    let Some(dig) = found_or_skipped(\"dig\") else {\n        return;\n    };")), []);
        assert_eq!(lines(&test("    skip(\"dig\");\n    c();\n    if d() {\n        return;\n    }")), [7]);
    }

    #[test]
    fn other_functions_may_return() {
        assert_eq!(lines("#[test]\nfn a() {\n    b();\n}\n\nfn b() {\n    return;\n}\n"), []);
        assert_eq!(lines("#[tokio::test]\nasync fn a() {\n    return;\n}\n"), [3]);
    }

    #[test]
    fn what_a_place_may_lack_is_skipped_for_by_a_test() {
        let lacks = || SourceFile::new(LACKS, "");
        let tests = |text: &str| SourceFile::new("tests/tests/a.rs", text);
        let all = "skip(\"kernel WireGuard\"); skip(\"a kernel without WireGuard\"); skip_part(\"TCX\", \"TCX\"); \
                   skip(\"Docker Compose 2\"); skip(\"Podman with netavark\")";
        assert_eq!(check(&[lacks(), tests(all)]), []);
        let found = check(&[lacks(), tests(&all.replace("a kernel without", "no"))]);
        assert_eq!(found.len(), 1, "once, though it is in both lists: {found:?}");
        assert!(found[0].what.contains("a kernel without WireGuard"));
    }

    #[test]
    fn a_skip_is_printed_in_one_place() {
        for printed in PRINTED {
            let text = format!("fn f() {{ println!(\"{printed}dig\") }}");
            assert_eq!(lines(&text), [1]);
            assert_eq!(check(&[SourceFile::new(SKIP_PLACE, text.clone())]), []);
            assert_eq!(check(&[SourceFile::new("xtask/src/a.rs", text)]), []);
        }
        assert_eq!(check(&[SourceFile::new(SKIP_PLACE, "fn f() {}")]).len(), 1, "the place has moved");
    }
}
