//! `test`: every check and every test, those that need root too.
//!
//! Compiles as the user who called it, in one profile, and becomes root only for the executables of `privnet-tests`.
//! Goes on after a failure, so that one run tells everything that is wrong.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::build::{self, Profile};
use crate::messages::Executable;
use crate::report::{Reader, Report};
use crate::setup::{self, Purpose};
use crate::{environment, lacks, shell, tidy};

/// The variable in which a test finds the `privnet` binary.
pub const PRIVNET_BIN: &str = "PRIVNET_BIN";
/// The package whose tests need root.
const ROOT_TESTS: &str = "privnet-tests";
/// The folder of that package.
pub const ROOT_TESTS_FOLDER: &str = "tests";
/// The file of tests there that run outside of several machines, which `cargo xtask vm` has.
pub const MACHINES: &str = "machines";
/// A test executable that takes longer hangs.
const LIMIT_SECONDS: &str = "900";
/// How long what was printed last may take to arrive after the end of a test executable.
const GRACE: Duration = Duration::from_secs(2);

/// The task. Its last line on stdout is the sum.
pub fn task(filter: Option<&str>) -> ExitCode {
    let mut steps = Steps::default();
    if let Err(error) = all(&mut steps, filter) {
        steps.fail("preparation", &error);
    }
    steps.conclude(filter)
}

/// Runs every step.
///
/// # Errors
/// The tests cannot even be built.
fn all(steps: &mut Steps, filter: Option<&str>) -> Result<()> {
    let toolchain = setup::ensure(Purpose::Test)?;
    if filter.is_none() {
        steps.check("format", || shell::run(environment::cargo().args(["fmt", "--all", "--check"])));
        steps.check("house rules", || tidy::task(false));
    }
    shell::say("eBPF programs");
    let object = build::programs(&toolchain)?;
    if filter.is_none() {
        steps.check("lints", || {
            let mut command = build::cargo("clippy", Profile::Dev, &object);
            shell::run(command.args(["--all-targets", "--", "-D", "warnings"]))
        });
    }
    shell::say("build");
    let privnet = build::privnet_with(&object, Profile::Dev)?;
    let variables = [(PRIVNET_BIN, privnet.into_os_string()), ("PATH", environment::path_with_tools())];
    steps.tests("tests without root", || host_tests(&object, filter, &variables));
    steps.tests("tests as root", || root_tests(&object, filter, &variables));
    Ok(())
}

/// What was done and what went wrong.
#[derive(Default)]
struct Steps {
    report: Report,
    failures: Vec<String>,
}

impl Steps {
    fn check(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        self.tests(name, || step().map(|()| Report::default()));
    }

    fn tests(&mut self, name: &str, step: impl FnOnce() -> Result<Report>) {
        shell::say(name);
        let start = Instant::now();
        match step() {
            Ok(report) => self.report.add(report),
            Err(error) => self.fail(name, &error),
        }
        eprintln!("    {name}: {} s", start.elapsed().as_secs());
    }

    fn fail(&mut self, name: &str, error: &anyhow::Error) {
        eprintln!("{name}: {error:#}");
        self.failures.push(name.to_owned());
    }

    /// Says what was skipped, what failed, and the sum.
    fn conclude(self, filter: Option<&str>) -> ExitCode {
        let Report { passed, failed, skipped, .. } = &self.report;
        for skip in skipped {
            let demand =
                if environment::is_ci() && lacks::is_required_on_the_machine(skip) { " (required here)" } else { "" };
            println!("skipped: {}: {}{demand}", skip.test, skip.missing);
        }
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        if let Some(filter) = filter
            && passed + failed + skipped.len() == 0
        {
            println!("failed: no test and no file of tests has `{filter}` in its name");
        }
        println!("{}", self.report.slowest().unwrap_or_default());
        println!("{passed} passed, {failed} failed, {} skipped", skipped.len());
        let is_skip_wrong = environment::is_ci() && skipped.iter().any(lacks::is_required_on_the_machine);
        let is_well = self.failures.is_empty() && *failed == 0 && !is_skip_wrong && passed + skipped.len() > 0;
        if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Unit tests and documentation tests of everything but [`ROOT_TESTS`].
fn host_tests(object: &Path, filter: Option<&str>, variables: &[(&str, OsString)]) -> Result<Report> {
    let mut command = build::cargo("test", Profile::Dev, object);
    command.args(["--exclude", ROOT_TESTS, "--no-fail-fast"]).args(filter).args(["--", "--show-output"]);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let mut reader = Reader::default();
    read(&mut command, &mut reader)?;
    Ok(reader.report())
}

/// The executables of [`ROOT_TESTS`], one after another and one test at a time: they share the machine's namespaces.
fn root_tests(object: &Path, filter: Option<&str>, variables: &[(&str, OsString)]) -> Result<Report> {
    let mut command = build::cargo("test", Profile::Dev, object);
    let folder = environment::root().join(ROOT_TESTS_FOLDER);
    let is_of_machines = |built: &Executable| built.file_name().starts_with(&format!("{}-", MACHINES));
    let is_one =
        |built: &Executable| built.is_test && built.manifest.parent() == Some(&folder) && !is_of_machines(built);
    let mut tests: Vec<Executable> = build::executables(command.arg("--no-run"))?.into_iter().filter(is_one).collect();
    tests.sort_by_key(Executable::file_name);
    let timeout = environment::which("timeout").context("`timeout` of the coreutils is missing")?;
    let mut report = Report::default();
    for test in tests {
        if filter.is_some_and(|filter| has_no_harness(&test) && !test.file_name().contains(filter)) {
            continue;
        }
        eprintln!("     Running {} as root", test.path.display());
        let mut command = shell::as_root(&timeout, variables)?;
        command.args(["--foreground", "--kill-after=10", LIMIT_SECONDS]).arg(&test.path);
        // A filter that names a file asks for all of it.
        let within = filter.filter(|filter| !test.file_name().contains(filter));
        command.args(["--test-threads=1", "--show-output"]).args(within).current_dir(&folder);
        let (mut reader, start) = (Reader::default(), Instant::now());
        if read(&mut command, &mut reader)? {
            reader.ended_well();
        }
        report.add(reader.report());
        report.times.push((test.stem(), start.elapsed()));
    }
    Ok(report)
}

/// Whether the executable is one test that knows no filter.
pub fn has_no_harness(test: &Executable) -> bool {
    let manifest = fs::read_to_string(&test.manifest).unwrap_or_default();
    let name = test.stem();
    let named = format!("name = \"{name}\"");
    manifest.split("\n[").any(|section| section.contains("harness = false") && section.contains(&named))
}

/// Runs tests, shows what a person wants to see of them, and counts. Returns whether they ended well.
///
/// # Errors
/// They could not be started.
pub fn read(command: &mut Command, reader: &mut Reader) -> Result<bool> {
    let shown = shell::shown(command);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {shown}"))?;
    let stdout = child.stdout.take().context("the tests have no stdout")?;
    let (sender, lines) = mpsc::channel();
    // Not joined: a process that outlives the tests may hold their stdout for ever.
    thread::spawn(move || {
        BufReader::new(stdout).split(b'\n').map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    loop {
        match lines.recv_timeout(GRACE) {
            // A program that a test runs may print what is not UTF-8.
            Ok(line) => {
                let line = String::from_utf8_lossy(&line);
                if reader.line(&line) {
                    println!("{line}");
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if child.try_wait().with_context(|| format!("cannot wait for {shown}"))?.is_some() {
                    println!("something that {shown} started still runs, and holds its output");
                    reader.broken();
                    break;
                }
            }
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for {shown}"))?;
    if !status.success() && !reader.has_failures() {
        // 124: timeout(1) ended it.
        println!("{shown} ended with {status} without naming a failed test");
        reader.broken();
    }
    Ok(status.success())
}
