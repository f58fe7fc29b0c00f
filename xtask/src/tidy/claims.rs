//! What SECURITY.md promises names tests; each has to exist, to be a test, and to run.

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
            let wrong = match claim.split_once("::") {
                Some((place, test)) => refuse(files, place, test).map(|why| format!("{claim}: {why}")),
                None => is_file_of_tests(files, claim).then(|| format!("{claim} is a file: name its tests")),
            };
            findings.extend(wrong.map(|what| Finding::new(PAGE, number + 1, what)));
        }
    }
    findings
}

/// Why a name is none of a test that runs.
fn refuse(files: &[SourceFile], place: &str, test: &str) -> Option<&'static str> {
    // How the page explains itself.
    if (place, test) == ("file", "function") {
        return None;
    }
    let paths = match place.strip_suffix(".rs") {
        None => [format!("{TESTS}{place}.rs"), String::new()],
        Some(_) => [format!("{SOURCES}{place}"), place.to_owned()],
    };
    let Some(file) = files.iter().find(|file| paths.contains(&file.path)) else { return Some("there is no such file") };
    if let Some(attributes) = attributes_of(&file.code, test) {
        return refuse_attributes(&attributes);
    }
    // Some tests are rows of a macro: a name, a colon, the case. Its own text says what becomes of a row.
    let is_row = file.code.lines().any(|line| line.trim_start().strip_prefix(test).is_some_and(|l| l.starts_with(':')));
    match attributes_of(&file.code, "$name") {
        Some(attributes) if is_row => refuse_attributes(&attributes),
        Some(_) | None => Some("there is no such test"),
    }
}

/// The attributes of a function, a line each; `None` when there is no such function.
fn attributes_of<'a>(code: &'a str, function: &str) -> Option<Vec<&'a str>> {
    let (before, _) = code.split_once(&format!("fn {function}("))?;
    let mut lines = before.lines().rev();
    // Its own line: `async`, or nothing.
    if !before.ends_with('\n') {
        lines.next();
    }
    // A comment is blank in code.
    let above =
        lines.map(str::trim).take_while(|line| line.is_empty() || line.starts_with("#[") || line.starts_with("$("));
    Some(above.collect())
}

fn refuse_attributes(attributes: &[&str]) -> Option<&'static str> {
    let any = |is: &dyn Fn(&str) -> bool| attributes.iter().any(|line| line.split("#[").skip(1).any(is));
    if !any(&|attribute| attribute.starts_with("test]") || attribute.starts_with("tokio::test")) {
        Some("it is no test")
    } else if any(&|attribute| attribute.starts_with("ignore") || attribute.contains(", ignore")) {
        Some("it is ignored")
    } else {
        None
    }
}

/// Whether a word of the page is the name of a file of tests, which does not say which test shows what.
fn is_file_of_tests(files: &[SourceFile], word: &str) -> bool {
    files.iter().any(|file| file.path.strip_prefix(TESTS) == Some(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(page: &str) -> Vec<usize> {
        let wall = "/// Holds.\n#[test]\n/// Really.\nfn it_holds() {}\nfn it_helps() {}\n\
            // #[test]\nfn it_held() {}\n#[test]\n#[ignore = \"slow\"]\nfn it_waits() {}\n\
            proptest! {\n    #[test]\n    fn it_never_falls(height: u8) {}\n}\n\
            macro_rules! rows {\n    ($($name:ident: $x:ident => $y:ident;)+) => {\n        $(\n            #[test]\n\
            fn $name() {}\n        )+\n    };\n}\nrows! {\n    a_row: x => y;\n}";
        let answers =
            "#[tokio::test(flavor = \"multi_thread\")]\nasync fn it_answers() {}\nstruct S {\n    a_field: u8,\n}";
        let files = [
            SourceFile::new(PAGE, page),
            SourceFile::new("tests/tests/wall.rs", wall),
            SourceFile::new("privnet-userspace/src/api/tests.rs", answers),
        ];
        check(&files).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_test_that_is_named_exists() {
        let page = "`wall::it_holds`, `wall::a_row` and\n`api/tests.rs::it_answers`, `wall::it_never_falls`; see `file::function`";
        assert_eq!(findings(page), []);
        assert_eq!(findings("`privnet-userspace/src/api/tests.rs::it_answers` and `wg0`"), []);
        assert_eq!(findings("`wall::it_stands`\n`tower::it_holds`\n`api/tests.rs::it_asks`"), [1, 2, 3]);
    }

    #[test]
    fn what_is_named_is_a_test_and_runs() {
        assert_eq!(findings("`wall::it_helps`\n`wall::it_held`\n`wall::it_waits`\n`wall::it_holds`"), [1, 2, 3]);
        assert_eq!(findings("`api/tests.rs::a_field`"), [1], "a field looks like a row, and there is no macro");
    }

    #[test]
    fn a_file_shows_nothing() {
        assert_eq!(findings("all of `wall.rs`"), [1]);
        assert_eq!(findings("the checks of `forward.rs`, `wall::it_holds`"), []);
    }
}
