//! An error of a room below the surfaces says what happened and what to do: it implements `Explain`.
//!
//! The compiler sees to the rest: what implements `Explain` stands in the list of `agent/door/explain.rs`, whose test
//! walks every variant.

use super::Finding;
use super::source::SourceFile;

/// Where the rule holds.
const RULED: &str = "privnet-userspace/src/";

/// Errors that explain nothing, each with its reason. One that does, or is gone, is a finding.
const EXCUSED: [(&str, &str, &str); 5] = [
    ("privnet-userspace/src/agent/door/error.rs", "ControlError", "what all others become"),
    ("privnet-userspace/src/api/http.rs", "HttpError", "the client's: it says that no agent answers"),
    ("privnet-userspace/src/companion/error.rs", "Cause", "a part of that room's error, which names the process"),
    ("privnet-userspace/src/link/error.rs", "Refusal", "the kernel's words, and a source of that room's error"),
    ("privnet-userspace/src/store/path.rs", "InvalidKey", "a fault of ours: keys are made of checked names"),
];

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = silent(files, &EXCUSED);
    // A part of the tree, as in a test, lacks most of them.
    if files.iter().any(|file| file.path == "Cargo.toml") {
        findings.extend(needless(files, &EXCUSED));
    }
    findings
}

fn silent(files: &[SourceFile], excused: &[(&str, &str, &str)]) -> Vec<Finding> {
    let is_excused = |path: &str, name: &str| excused.iter().any(|(at, excused, _)| *at == path && *excused == name);
    let ruled = files.iter().filter(|file| file.is_rust() && file.path.starts_with(RULED));
    let found = ruled.flat_map(|file| silent_errors(file).into_iter().map(move |(line, name)| (file, line, name)));
    let unexcused = found.filter(|(file, _, name)| !is_excused(&file.path, name));
    let what = |name: &str| format!("the error `{name}` does not implement `Explain` in this file");
    unexcused.map(|(file, line, name)| Finding::new(&file.path, line, what(name))).collect()
}

fn needless(files: &[SourceFile], excused: &[(&str, &str, &str)]) -> Vec<Finding> {
    let is_needed = |path: &str, name: &str| {
        files.iter().any(|file| file.path == path && silent_errors(file).iter().any(|(_, silent)| *silent == name))
    };
    let idle = excused.iter().filter(|(path, name, reason)| reason.is_empty() || !is_needed(path, name));
    let what = |name: &str| format!("the excuse of `{name}` in xtask/src/tidy/errors.rs excuses nothing");
    idle.map(|(path, name, _)| Finding::new(path, 0, what(name))).collect()
}

/// The error types of a file that do not implement `Explain` there, with their lines.
fn silent_errors(file: &SourceFile) -> Vec<(usize, &str)> {
    let implements = |name: &str| {
        file.words().any(|word| word.text == "Explain" && implemented_for(word.rest).is_some_and(|found| found == name))
    };
    let errors = file.words().filter(|word| word.text == "Error").filter_map(|word| {
        let name = if word.before.ends_with("thiserror::") { defined(word.rest)? } else { implemented_for(word.rest)? };
        Some((word.line, name))
    });
    errors.filter(|(_, name)| !implements(name)).collect()
}

/// The type in `… for Type`.
fn implemented_for(rest: &str) -> Option<&str> {
    let rest = rest.strip_prefix(" for ")?;
    super::source::words(rest).next().map(|word| word.text)
}

/// The type that follows its attributes.
fn defined(rest: &str) -> Option<&str> {
    let mut words = super::source::words(rest);
    words.find(|word| matches!(word.text, "enum" | "struct"))?;
    words.next().map(|word| word.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "privnet-userspace/src/link/error.rs";
    const DERIVED: &str = "#[derive(Debug, thiserror::Error)]\n#[error(\"no\")]\npub enum Odd {}\n";
    const BY_HAND: &str = "pub struct Odd;\nimpl std::error::Error for Odd {}\n";

    fn lines(path: &str, text: &str) -> Vec<usize> {
        silent(&[SourceFile::new(path, text)], &[]).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn an_error_explains_itself_beside_its_variants() {
        for (error, line) in [(DERIVED, 1), (BY_HAND, 2)] {
            assert_eq!(lines(PATH, error), [line]);
            assert_eq!(lines(PATH, &format!("{error}impl Explain for Odd {{}}\n")), []);
            assert_eq!(lines(PATH, &format!("{error}impl Explain for Other {{}}\n")), [line], "another one's");
            assert_eq!(lines("tests/src/lab/cli.rs", error), [], "the lab tells it to nobody");
        }
        let others = "impl From<io::Error> for Odd {}\nimpl fmt::Display for Error {}\nuse std::error::Error;\n";
        assert_eq!(lines(PATH, others), []);
    }

    #[test]
    fn an_excuse_has_a_reason_and_a_silent_error() {
        let files = [SourceFile::new(PATH, DERIVED)];
        let wrong =
            |excused: &[(&str, &str, &str)]| [silent(&files, excused), needless(&files, excused)].concat().len();
        assert_eq!(wrong(&[]), 1);
        assert_eq!(wrong(&[(PATH, "Odd", "never shown")]), 0);
        assert_eq!(wrong(&[(PATH, "Odd", "")]), 1);
        assert_eq!(wrong(&[(PATH, "Odd", "never shown"), (PATH, "Even", "gone")]), 1);
        let explains = [SourceFile::new(PATH, format!("{DERIVED}impl Explain for Odd {{}}\n"))];
        assert_eq!(needless(&explains, &[(PATH, "Odd", "never shown")]).len(), 1);
    }
}
