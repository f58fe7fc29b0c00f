//! What SECURITY.md promises names tests; each has to exist.

use super::Finding;
use super::source::SourceFile;

/// The page of promises.
const PAGE: &str = "SECURITY.md";
/// Where a file without a folder is.
const TESTS: &str = "tests/tests/";
/// Where a file with a folder is, unless it names its crate.
const SOURCES: &str = "privnet-userspace/src/";

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let Some(page) = files.iter().find(|file| file.path == PAGE) else { return Vec::new() };
    let mut findings = Vec::new();
    for (number, line) in page.text.lines().enumerate() {
        for claim in line.split('`').skip(1).step_by(2) {
            if let Some((place, test)) = claim.split_once("::")
                && !exists(files, place, test)
            {
                findings.push(Finding::new(PAGE, number + 1, format!("there is no test {claim}")));
            }
        }
    }
    findings
}

fn exists(files: &[SourceFile], place: &str, test: &str) -> bool {
    // How the page explains itself.
    if (place, test) == ("file", "function") {
        return true;
    }
    let paths = match place.strip_suffix(".rs") {
        None => [format!("{TESTS}{place}.rs"), String::new()],
        Some(_) => [format!("{SOURCES}{place}"), place.to_owned()],
    };
    let Some(file) = files.iter().find(|file| paths.contains(&file.path)) else { return false };
    // Some tests are rows of a macro: a name, a colon, the case.
    file.text.contains(&format!("fn {test}(")) || file.text.contains(&format!("    {test}:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(page: &str) -> Vec<usize> {
        let files = [
            SourceFile::new(PAGE, page),
            SourceFile::new("tests/tests/wall.rs", "fn it_holds() {}\nrows! {\n    a_row: x => y;\n}"),
            SourceFile::new("privnet-userspace/src/api/tests.rs", "async fn it_answers() {}"),
        ];
        check(&files).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_test_that_is_named_exists() {
        assert_eq!(
            findings("`wall::it_holds`, `wall::a_row` and\n`api/tests.rs::it_answers`; see `file::function`"),
            []
        );
        assert_eq!(findings("`privnet-userspace/src/api/tests.rs::it_answers` and `wg0`"), []);
        assert_eq!(findings("`wall::it_stands`\n`tower::it_holds`\n`api/tests.rs::it_asks`"), [1, 2, 3]);
    }
}
