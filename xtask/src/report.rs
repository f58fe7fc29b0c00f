//! Reads what a test executable prints: counts, and which tests skipped themselves and why.
//!
//! A test that cannot run here prints `SKIPPED: <test>: <missing kernel feature>` and returns; the harness counts it
//! as passed, this does not.

/// The sum over test executables.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tests that ran to their end and found what they looked for.
    pub passed: usize,
    /// Tests that did not, and test executables that did not end well by themselves.
    pub failed: usize,
    /// Tests that did not run.
    pub skipped: Vec<Skip>,
}

impl Report {
    /// Adds what another executable reported.
    pub fn add(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped.extend(more.skipped);
    }
}

/// A test that did not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// Its name.
    pub test: String,
    /// What this machine lacks, in the words of the test; `ignored` if it is marked so.
    pub missing: String,
}

/// Features of the kernel that the machine of a continuous integration may lack; any other skip is a failure there.
const CI_MAY_LACK: [&str; 2] = ["kernel WireGuard", "a kernel without WireGuard"];

/// What is marked so prints figures and can refuse nothing: it is run by hand, on a quiet machine.
const MEASUREMENT: &str = "ignored, a measurement";

impl Skip {
    /// Whether a continuous integration must not skip this.
    pub fn is_required(&self) -> bool {
        self.missing != MEASUREMENT && !CI_MAY_LACK.contains(&self.missing.as_str())
    }
}

/// Reads the lines of one executable after another.
#[derive(Default)]
pub struct Reader {
    report: Report,
    /// Between `successes:` and what follows: the output of tests that passed.
    in_successes: bool,
    /// Whether a sum was printed.
    has_result: bool,
}

impl Reader {
    /// Reads one line; returns whether a person wants to see it.
    pub fn line(&mut self, line: &str) -> bool {
        let skip = skip(line);
        if let Some(skip) = &skip {
            // The harness repeats nothing, but a test may say it on both of its outputs.
            if !self.report.skipped.contains(skip) {
                self.report.skipped.push(skip.clone());
            }
        }
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ if line.starts_with("test result: ") => {
                self.in_successes = false;
                self.has_result = true;
                self.result(line);
            }
            _ => {}
        }
        if let Some((test, reason)) = ignored(line) {
            self.report.skipped.push(Skip { test: test.to_owned(), missing: reason.to_owned() });
        }
        skip.is_some() || !(self.in_successes || line.is_empty())
    }

    /// Whether a failed test was named.
    pub fn has_failures(&self) -> bool {
        self.report.failed > 0
    }

    /// Counts an executable that ended well: one that has no harness, and so prints no sum, is a test by itself.
    pub fn ended_well(&mut self) {
        if !self.has_result {
            self.report.passed += 1;
        }
    }

    /// Counts an executable that crashed, hung or could not be started.
    pub fn broken(&mut self) {
        self.report.failed += 1;
    }

    /// The sum of what was read.
    pub fn report(mut self) -> Report {
        let said = self.report.skipped.iter().filter(|skip| !skip.missing.starts_with("ignored")).count();
        self.report.passed = self.report.passed.saturating_sub(said);
        self.report
    }

    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn result(&mut self, line: &str) {
        let number = |what: &str| {
            let before = &line[..line.find(what)?];
            before.split_whitespace().next_back()?.parse::<usize>().ok()
        };
        self.report.passed += number(" passed").unwrap_or(0);
        self.report.failed += number(" failed").unwrap_or(0);
    }
}

fn skip(line: &str) -> Option<Skip> {
    // With one thread and no capture, the harness has printed `test name ... ` before it.
    let (_, said) = line.split_once("SKIPPED: ")?;
    let (test, missing) = said.split_once(": ")?;
    Some(Skip { test: test.trim().to_owned(), missing: missing.trim().to_owned() })
}

/// Reads `test name ... ignored, reason`.
fn ignored(line: &str) -> Option<(&str, &str)> {
    let (test, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    outcome.starts_with("ignored").then_some((test, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> (Report, Vec<&str>) {
        let mut reader = Reader::default();
        let shown = output.lines().filter(|line| reader.line(line)).collect();
        (reader.report(), shown)
    }

    #[test]
    fn a_test_that_skipped_itself_is_not_counted_as_passed() {
        let output = "\nrunning 2 tests\ntest a ... ok\ntest b ... ok\n\nsuccesses:\n\n---- a stdout ----\n+ ip link\n\
                      ---- b stdout ----\nSKIPPED: b: kernel WireGuard\n\nsuccesses:\n    a\n    b\n\n\
                      test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        let (report, shown) = read(output);
        let skip = Skip { test: "b".to_owned(), missing: "kernel WireGuard".to_owned() };
        assert!(!skip.is_required());
        assert_eq!(report, Report { passed: 1, failed: 0, skipped: vec![skip] });
        assert!(shown.contains(&"SKIPPED: b: kernel WireGuard") && shown.contains(&"test a ... ok"));
        assert!(!shown.contains(&"+ ip link"), "what a passing test printed is of no interest");
    }

    #[test]
    fn what_a_failing_test_printed_is_shown() {
        let output = "test a ... FAILED\n\nsuccesses:\n\nsuccesses:\n\nfailures:\n\n---- a stdout ----\n+ ip link\n\n\
                      test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1s\n";
        let (report, shown) = read(output);
        assert_eq!(report, Report { passed: 0, failed: 1, skipped: vec![] });
        assert!(shown.contains(&"+ ip link"));
    }

    #[test]
    fn an_ignored_test_is_a_skip_that_names_no_feature() {
        let (report, _) = read("test a ... ignored, too slow\ntest result: ok. 0 passed; 0 failed; 1 ignored;\n");
        assert_eq!(report.skipped, [Skip { test: "a".to_owned(), missing: "ignored, too slow".to_owned() }]);
        assert!(report.skipped[0].is_required());
        assert_eq!(report.passed, 0);
        let (report, _) = read("test a ... ignored, a measurement\ntest result: ok. 0 passed; 0 failed; 1 ignored;\n");
        assert!(!report.skipped[0].is_required());
    }

    #[test]
    fn an_executable_without_a_harness_is_one_test() {
        let mut reader = Reader::default();
        reader.line("entered");
        reader.ended_well();
        assert_eq!(reader.report(), Report { passed: 1, failed: 0, skipped: vec![] });
        let mut reader = Reader::default();
        reader.line("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0s");
        reader.ended_well();
        assert_eq!(reader.report().passed, 0, "a harness that has nothing to run says so");
    }

    #[test]
    fn a_line_of_an_uncaptured_test_is_understood() {
        let (report, _) = read("test b ... SKIPPED: b: TCX\ntest result: ok. 1 passed; 0 failed; 0 ignored;\n");
        assert_eq!(report.skipped, [Skip { test: "b".to_owned(), missing: "TCX".to_owned() }]);
        assert!(report.skipped[0].is_required());
    }
}
