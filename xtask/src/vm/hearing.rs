//! What is heard of a guest: shown to a person as it comes, and counted.

use std::time::{Duration, Instant};

use super::qemu;
use crate::report::{Reader, Report};

/// What a test prints in front of a figure that belongs into the log of each kernel.
const FIGURE: &str = "figure: ";
/// A test that takes longer is shown with its time.
const LONG: Duration = Duration::from_secs(5);

/// What was heard of a guest.
#[derive(Default)]
pub struct Hearing {
    /// The sum of its jobs.
    pub report: Report,
    /// How many jobs came to their end.
    pub jobs: usize,
    /// What stands before a line, for several guests talk at once.
    prefix: String,
    reader: Reader,
    /// What the present job printed before any test of it ran: of interest only if the job fails.
    held: Vec<String>,
    /// Whether a test of the present job ran.
    has_tests: bool,
    /// When the last line of the present job came.
    last: Option<Instant>,
}

impl Hearing {
    /// Of the `number`th guest.
    pub fn of_guest(number: usize) -> Self {
        Self { prefix: format!("{number}| "), ..Self::default() }
    }

    /// One line of a job, or of init: `ready`, `begin NAME`, `left WHAT`, `end NAME: ok|STATUS, N ms`.
    pub fn line(&mut self, line: &str) {
        match line.strip_prefix(qemu::MARK) {
            Some(said) => self.init(said),
            None => self.job(line),
        }
    }

    /// The guest ended before its time.
    pub fn died(&mut self, error: &anyhow::Error) {
        self.show(&format!("{error:#}"));
        self.reader.broken();
        self.end_job();
    }

    fn show(&self, line: &str) {
        println!("{}{line}", self.prefix);
    }

    fn job(&mut self, line: &str) {
        if line.starts_with("running ") && !line.starts_with("running 0 ") {
            self.has_tests = true;
        }
        let is_shown = self.reader.line(line);
        let took = self.last.replace(Instant::now()).map_or(Duration::ZERO, |last| last.elapsed());
        if !self.has_tests {
            self.held.push(line.to_owned());
        } else if line.starts_with("test ") && took > LONG {
            self.show(&format!("{line} ({} s)", took.as_secs()));
        } else if is_shown || line.contains(FIGURE) {
            self.show(line);
        }
    }

    fn init(&mut self, said: &str) {
        match said.split_once(' ') {
            Some(("begin", name)) => eprintln!("{}    Running {name}", self.prefix),
            Some(("left", what)) => {
                self.show(&format!("left behind: {what}"));
                self.reader.broken();
            }
            Some(("end", how)) => {
                self.jobs += 1;
                self.report.times.extend(time_of(how));
                if how.contains(": ok,") {
                    self.reader.ended_well();
                } else {
                    self.held.iter().for_each(|line| self.show(line));
                    if !self.reader.has_failures() {
                        self.reader.broken();
                    }
                }
                self.show(how);
                self.end_job();
            }
            Some(_) | None => {}
        }
    }

    fn end_job(&mut self) {
        self.report.add(std::mem::take(&mut self.reader).report());
        self.held.clear();
        self.has_tests = false;
    }
}

/// Reads `NAME: HOW, N ms`.
fn time_of(how: &str) -> Option<(String, Duration)> {
    let (name, how) = how.split_once(": ")?;
    let took = how.rsplit_once(", ")?.1.strip_suffix(" ms")?.parse().ok()?;
    Some((name.to_owned(), Duration::from_millis(took)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_summed_by_what_they_print_and_how_they_end() {
        let mut hearing = Hearing::default();
        for line in [
            "@@vm begin a",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "@@vm end a: ok, 12 ms",
            "@@vm begin demo",
            "9 of 9 steps held",
            "@@vm end demo: ok, 12 ms",
            "@@vm begin crash",
            "@@vm end crash: signal 11, 3 ms",
            "@@vm begin untidy",
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "@@vm left process 77 privnet",
            "@@vm end untidy: ok, 9 ms",
        ] {
            hearing.line(line);
        }
        assert_eq!((hearing.report.passed, hearing.report.failed), (5, 2));
        assert_eq!(hearing.report.times[1], ("demo".to_owned(), Duration::from_millis(12)));
        assert_eq!(hearing.report.times.len(), 4);
        assert_eq!(hearing.jobs, 4);
    }
}
