//! Reads what a test executable prints: counts, and which tests skipped themselves and why.
//!
//! A test that cannot run here prints `SKIPPED: <test>: <what is missing>` and returns; the harness counts it as passed, this
//! does not. A test of which a part cannot run prints `SKIPPED: <test> [<part>]: <what is missing>`, and has passed.

use std::time::Duration;

/// How many of the slowest files of tests are told.
const SLOWEST: usize = 10;

/// The sum over test executables.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tests that ran to their end and found what they looked for.
    pub passed: usize,
    /// Tests that did not, and test executables that did not end well by themselves.
    pub failed: usize,
    /// Tests that did not run.
    pub skipped: Vec<Skip>,
    /// What took how long: a file of tests, or what runs as one.
    pub times: Vec<(String, Duration)>,
}

impl Report {
    /// Adds what another executable reported.
    pub fn add(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped.extend(more.skipped);
        self.times.extend(more.times);
    }

    /// The files that took longest, the slowest first, in one line; nothing where only one ran.
    pub fn slowest(&self) -> Option<String> {
        let mut times: Vec<&(String, Duration)> = self.times.iter().collect();
        times.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then(a.cmp(b)));
        let told: Vec<String> =
            times.iter().take(SLOWEST).map(|(name, time)| format!("{name} {:.0} s", time.as_secs_f64())).collect();
        (told.len() > 1).then(|| format!("slowest of {}: {}", times.len(), told.join(", ")))
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

impl Skip {
    /// Whether only a part of the test did not run.
    fn is_partial(&self) -> bool {
        self.test.ends_with(']')
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
        let is_counted = |skip: &&Skip| !skip.missing.starts_with("ignored") && !skip.is_partial();
        let said = self.report.skipped.iter().filter(is_counted).count();
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
        assert_eq!(report, Report { passed: 1, failed: 0, skipped: vec![skip], ..Report::default() });
        assert!(shown.contains(&"SKIPPED: b: kernel WireGuard") && shown.contains(&"test a ... ok"));
        assert!(!shown.contains(&"+ ip link"), "what a passing test printed is of no interest");
    }

    #[test]
    fn a_test_of_which_a_part_did_not_run_has_passed_and_the_part_is_counted() {
        let (report, _) =
            read("SKIPPED: a [kernel]: kernel WireGuard\ntest result: ok. 1 passed; 0 failed; 0 ignored;\n");
        let skip = Skip { test: "a [kernel]".to_owned(), missing: "kernel WireGuard".to_owned() };
        assert_eq!(report, Report { passed: 1, skipped: vec![skip], ..Report::default() });
    }

    #[test]
    fn the_slowest_files_are_told_in_order_and_one_alone_is_not() {
        let mut report = Report::default();
        let time = |name: &str, seconds| Report {
            times: vec![(name.to_owned(), Duration::from_secs(seconds))],
            ..Report::default()
        };
        report.add(time("a", 3));
        assert_eq!(report.slowest(), None);
        (1..12).for_each(|seconds| report.add(time(&format!("b{seconds}"), seconds)));
        let told = report.slowest().expect("a line");
        assert!(told.starts_with("slowest of 12: b11 11 s, b10 10 s, ") && told.ends_with("a 3 s, b3 3 s"), "{told}");
    }

    #[test]
    fn what_a_failing_test_printed_is_shown() {
        let output = "test a ... FAILED\n\nsuccesses:\n\nsuccesses:\n\nfailures:\n\n---- a stdout ----\n+ ip link\n\n\
                      test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1s\n";
        let (report, shown) = read(output);
        assert_eq!(report, Report { passed: 0, failed: 1, ..Report::default() });
        assert!(shown.contains(&"+ ip link"));
    }

    #[test]
    fn an_ignored_test_is_a_skip_that_names_no_feature() {
        let (report, _) = read("test a ... ignored, too slow\ntest result: ok. 0 passed; 0 failed; 1 ignored;\n");
        assert_eq!(report.skipped, [Skip { test: "a".to_owned(), missing: "ignored, too slow".to_owned() }]);
        assert_eq!(report.passed, 0);
    }

    #[test]
    fn an_executable_without_a_harness_is_one_test() {
        let mut reader = Reader::default();
        reader.line("entered");
        reader.ended_well();
        assert_eq!(reader.report(), Report { passed: 1, failed: 0, ..Report::default() });
        let mut reader = Reader::default();
        reader.line("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0s");
        reader.ended_well();
        assert_eq!(reader.report().passed, 0, "a harness that has nothing to run says so");
    }

    #[test]
    fn a_line_of_an_uncaptured_test_is_understood() {
        let (report, _) = read("test b ... SKIPPED: b: TCX\ntest result: ok. 1 passed; 0 failed; 0 ignored;\n");
        assert_eq!(report.skipped, [Skip { test: "b".to_owned(), missing: "TCX".to_owned() }]);
    }
}
