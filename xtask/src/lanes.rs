//! The executables whose tests need root, two side by side: most of what a test does is to wait.
//!
//! Each names its processes, namespaces and pins after itself, so two do not meet. The labs with agents are as many at once
//! as there are lanes (`tests/src/lab/process.rs`).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::listen::read_with;
use crate::messages::Executable;
use crate::report::{Reader, Report};
use crate::{environment, shell};

/// More at once would be late where their tests have bounds.
const MOST_LANES: usize = 2;
/// The variable in which a lab finds how many may be there at once.
const LABS: &str = "PRIVNET_LABS";
/// A test executable that takes longer hangs.
const LIMIT_SECONDS: &str = "900";
/// Tests that run before the others and have the machine to themselves, with the reason.
const ALONE: [(&str, &str); 2] = [
    ("names_agent", "asks thousands of names a second, and none may be late"),
    ("security_flood", "compares what a container gets beside a flood with what it gets without"),
];

/// How many processors this machine has.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Runs the executables in a folder.
///
/// # Errors
/// One could not be started.
pub fn run(
    tests: Vec<Executable>,
    folder: &Path,
    filter: Option<&str>,
    variables: &[(&str, OsString)],
) -> Result<Report> {
    let start = |prefix: &str, test: &Executable, variables: &[(&str, OsString)]| {
        let timeout = environment::which("timeout").context("`timeout` of the coreutils is missing")?;
        let mut command = shell::as_root(&timeout, variables)?;
        command.args(["--foreground", "--kill-after=10", LIMIT_SECONDS]).arg(&test.path);
        // A filter that names a file asks for all of it.
        let within = filter.filter(|filter| !test.file_name().contains(filter));
        command.args(["--test-threads=1", "--show-output"]).args(within).current_dir(folder);
        run_one(prefix, test, command)
    };
    let (alone, mut rest): (Vec<_>, Vec<_>) = tests.into_iter().partition(is_alone);
    // Those that take longest have names at the end of the alphabet; the lanes are to end together.
    rest.reverse();
    let lanes = processors().clamp(1, MOST_LANES);
    let mut variables = variables.to_vec();
    variables.push((LABS, lanes.to_string().into()));
    let mut report = Report::default();
    for test in &alone {
        report.add(start("", test, &variables)?);
    }
    let queue = Mutex::new(VecDeque::from(rest));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let reports: Vec<Result<Report>> = thread::scope(|scope| {
        let lane = |number: usize| {
            let (prefix, variables, start) = (format!("{number}| "), &variables, &start);
            scope.spawn(move || {
                let mut report = Report::default();
                while let Some(test) = next() {
                    report.add(start(&prefix, &test, variables)?);
                }
                Ok(report)
            })
        };
        let lanes: Vec<_> = (1..=lanes).map(lane).collect();
        lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    for of_lane in reports {
        report.add(of_lane?);
    }
    Ok(report)
}

fn is_alone(test: &Executable) -> bool {
    ALONE.iter().any(|(name, _)| test.stem() == *name)
}

fn run_one(prefix: &str, test: &Executable, mut command: Command) -> Result<Report> {
    eprintln!("{prefix}     Running {} as root", test.path.display());
    let (mut reader, start) = (Reader::default(), Instant::now());
    if read_with(prefix, &mut command, &mut reader)? {
        reader.ended_well();
    }
    let mut report = reader.report();
    report.times.push((test.stem(), start.elapsed()));
    Ok(report)
}
