//! Skipping: a test, or a part of one, that this machine lacks something for. There is no other way to not run.

use std::process::Command;

/// The test that runs on this thread: the harness names the thread so.
#[must_use]
pub fn test_name() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

/// Says that this test cannot show anything here, and what is missing. `cargo xtask test` counts it, and fails in a
/// continuous integration when the place may not lack that.
#[expect(clippy::print_stdout, reason = "the line is what the test runner looks for")]
pub fn skip(missing: &str) {
    println!("SKIPPED: {}: {missing}", test_name());
}

/// Says that one part of this test cannot show anything here; the rest of the test runs.
#[expect(clippy::print_stdout, reason = "the line is what the test runner looks for")]
pub fn skip_part(part: &str, missing: &str) {
    println!("SKIPPED: {} [{part}]: {missing}", test_name());
}

/// Whether a program is on this machine.
///
/// # Panics
/// When there is no shell.
#[must_use]
pub fn has_program(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().expect("sh starts");
    found.status.success()
}
