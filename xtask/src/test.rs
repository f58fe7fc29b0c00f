//! `test`: every check and every test, those that need root too.
//!
//! Compiles as the user who called it, in one profile, and becomes root only for the executables of `privnet-tests`.
//! Goes on after a failure, so that one run tells everything that is wrong.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::build::{self, Profile};
use crate::messages::Executable;
use crate::report::{Reader, Report};
use crate::setup::{self, Purpose};
use crate::{environment, lacks, lanes, listen, shell, tidy};

/// The variable in which a test finds the `privnet` binary.
pub const PRIVNET_BIN: &str = "PRIVNET_BIN";
/// The variable in which a test finds this program, to build the Debian package of the binary.
const PRIVNET_XTASK: &str = "PRIVNET_XTASK";
/// The package whose tests need root.
const ROOT_TESTS: &str = "privnet-tests";
/// The folder of that package.
pub const ROOT_TESTS_FOLDER: &str = "tests";
/// The file of tests there that run outside of several machines, which `cargo xtask vm` has.
pub const MACHINES: &str = "machines";
/// How many tests without root run at once for each processor: some of them wait, for an etcd to be missed most of all.
const TESTS_PER_PROCESSOR: usize = 2;

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
    let own = std::env::current_exe().context("cannot find this program")?.into_os_string();
    let variables = [
        (PRIVNET_BIN, privnet.into_os_string()),
        (PRIVNET_XTASK, own),
        ("PATH", environment::path_with_tools()),
        (environment::NEWER_PODMAN, environment::newer_podman()),
    ];
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
    command.arg(format!("--test-threads={}", lanes::processors() * TESTS_PER_PROCESSOR));
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let mut reader = Reader::default();
    listen::read(&mut command, &mut reader)?;
    Ok(reader.report())
}

/// The executables of [`ROOT_TESTS`], each one test at a time, in lanes.
fn root_tests(object: &Path, filter: Option<&str>, variables: &[(&str, OsString)]) -> Result<Report> {
    let mut command = build::cargo("test", Profile::Dev, object);
    let folder = environment::root().join(ROOT_TESTS_FOLDER);
    let is_of_machines = |built: &Executable| built.file_name().starts_with(&format!("{}-", MACHINES));
    let is_meant =
        |test: &Executable| filter.is_none_or(|filter| !has_no_harness(test) || test.file_name().contains(filter));
    let is_one = |built: &Executable| {
        built.is_test && built.manifest.parent() == Some(&folder) && !is_of_machines(built) && is_meant(built)
    };
    let mut tests: Vec<Executable> = build::executables(command.arg("--no-run"))?.into_iter().filter(is_one).collect();
    tests.sort_by_key(Executable::file_name);
    lanes::run(tests, &folder, filter, variables)
}

/// Whether the executable is one test that knows no filter.
pub fn has_no_harness(test: &Executable) -> bool {
    let manifest = fs::read_to_string(&test.manifest).unwrap_or_default();
    let name = test.stem();
    let named = format!("name = \"{name}\"");
    manifest.split("\n[").any(|section| section.contains("harness = false") && section.contains(&named))
}
