//! `vm`: the tests that need root, in virtual machines with kernels of Debian's that have everything.
//!
//! Builds as `test` does; each kernel then boots in QEMU with a file system made of this machine's programs and the
//! binaries that were built. Nothing is installed but tools, and root is needed for nothing else.

mod console;
mod cpio;
mod guest;
mod image;
mod kernel;
mod modules;
mod qemu;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::guest::{Built, Job};
use self::kernel::{Kernel, Wanted};
use self::qemu::{Accelerator, Machine, Mode};
use crate::build::{self, Profile};
use crate::messages::Executable;
use crate::report::{Reader, Report, Skip};
use crate::setup::{self, Purpose};
use crate::test::{PRIVNET_BIN, has_no_harness};
use crate::{environment, shell};

/// A guest that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(900);
/// A test executable that takes longer hangs.
const JOB_LIMIT: Duration = Duration::from_secs(300);
/// The folder of the package whose tests need root, and of its init for guests.
const ROOT_TESTS_FOLDER: &str = "tests";
const INIT: &str = "vm_init";
/// Binaries of that package that no test starts.
const NOT_IN_GUESTS: [&str; 2] = ["privnet-bench", INIT];
/// Makes the tests insist on what every one of these kernels has.
const REQUIRE: &str = "PRIVNET_REQUIRE_KERNEL_WIREGUARD";
/// Features of a kernel that one of these series lacks; any other skip is a failure.
const MAY_LACK: [(&str, &str); 1] = [("6.1", "TCX")];
/// What a test prints in front of a figure that belongs into the log of each kernel.
const FIGURE: &str = "figure: ";

/// What to run in which kernels.
#[derive(Args)]
pub struct Arguments {
    /// A series of Debian's kernels, or the path of an image with `:` and the folder of its modules; repeatable
    #[arg(long, value_name = "SERIES|IMAGE[:MODULES]", default_values = kernel::DEFAULT)]
    kernel: Vec<Wanted>,
    /// Run only the tests whose name, or whose file's name, contains this; repeatable
    #[arg(long)]
    filter: Vec<String>,
    /// Start a shell in the guest instead of the tests; `exit` powers it off
    #[arg(long)]
    shell: bool,
}

/// The task. Its last line on stdout is the sum.
pub fn task(arguments: &Arguments) -> ExitCode {
    match all(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn all(arguments: &Arguments) -> Result<bool> {
    let (built, variables) = build(&arguments.filter)?;
    let mut is_well = true;
    for wanted in &arguments.kernel {
        let kernel = kernel::obtain(wanted)?;
        let guest = Guest::prepare(&kernel, &built, &variables)?;
        if arguments.shell {
            return guest.machine().shell().map(|()| true);
        }
        is_well &= guest.run(&built.jobs)?;
    }
    Ok(is_well)
}

/// Builds what the guests run, and says with which variables.
fn build(filters: &[String]) -> Result<(Built, Vec<(&'static str, OsString)>)> {
    let toolchain = setup::ensure(Purpose::Vm)?;
    shell::say("build");
    let object = build::programs(&toolchain)?;
    let privnet = build::privnet_with(&object, Profile::Dev)?;
    let folder = environment::root().join(ROOT_TESTS_FOLDER);
    let mut command = build::cargo("test", Profile::Dev, &object);
    let mut all = build::executables(command.arg("--no-run"))?;
    all.retain(|built| built.manifest.parent() == Some(&folder));
    all.sort_by_key(Executable::file_name);
    let init = all.iter().find(|built| built.file_name() == INIT).map(|built| built.path.clone());
    let init = init.with_context(|| format!("the build gave no binary `{INIT}`"))?;

    let mut executables = vec![privnet.clone()];
    let mut jobs = demos(&privnet, filters);
    for built in &all {
        if !built.is_test && !NOT_IN_GUESTS.contains(&built.file_name().as_str()) {
            executables.push(built.path.clone());
        }
        if let Some(job) = test_job(built, &folder, filters) {
            executables.push(built.path.clone());
            jobs.push(job);
        }
    }
    let search = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut path = environment::tools().into_os_string();
    path.push(":");
    path.push(search);
    let variables = vec![(PRIVNET_BIN, privnet.into_os_string()), ("PATH", path), (REQUIRE, "1".into())];
    Ok((Built { executables, init, jobs }, variables))
}

/// The demo by every road that a packet can take.
fn demos(privnet: &Path, filters: &[String]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (wireguard, datapath) in
        [("kernel", "ebpf"), ("kernel", "bridge"), ("userspace", "ebpf"), ("userspace", "bridge")]
    {
        let arguments = ["demo", "--wireguard", wireguard, "--datapath", datapath];
        let words =
            std::iter::once(privnet.to_string_lossy().into_owned()).chain(arguments.map(str::to_owned)).collect();
        let name = format!("demo {wireguard} {datapath}");
        if filters.is_empty() || is_named(&name, filters) {
            jobs.push(Job { name, folder: "/root".into(), limit: JOB_LIMIT, words });
        }
    }
    jobs
}

/// The job of an executable that holds the tests of a file in `tests/tests`; `None` if it holds none, or none for us.
fn test_job(built: &Executable, folder: &Path, filters: &[String]) -> Option<Job> {
    let file = built.file_name();
    let (name, _hash) = file.rsplit_once('-')?;
    if !built.is_test || !folder.join("tests").join(format!("{name}.rs")).is_file() {
        return None;
    }
    if let Some(why) = guest::elsewhere(built) {
        eprintln!("    {name} is left to `cargo xtask test`: {why}");
        return None;
    }
    let is_whole = filters.is_empty() || is_named(name, filters);
    if has_no_harness(built) && !is_whole {
        return None;
    }
    let mut words = vec![built.path.to_string_lossy().into_owned()];
    if !has_no_harness(built) {
        words.extend(["--test-threads=1".to_owned(), "--show-output".to_owned()]);
    }
    if !is_whole {
        words.extend(filters.iter().cloned());
    }
    Some(Job { name: name.to_owned(), folder: folder.to_path_buf(), limit: JOB_LIMIT, words })
}

fn is_named(name: &str, filters: &[String]) -> bool {
    filters.iter().any(|filter| name.contains(filter))
}

/// A kernel with its file system, ready to boot.
struct Guest<'a> {
    kernel: &'a Kernel,
    initramfs: PathBuf,
    console: PathBuf,
    accelerator: Accelerator,
}

impl<'a> Guest<'a> {
    fn prepare(kernel: &'a Kernel, built: &Built, variables: &[(&str, OsString)]) -> Result<Self> {
        let folder = environment::root().join("target/vm");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let initramfs = folder.join(format!("{}.cpio", kernel.name));
        let console = folder.join(format!("{}.console", kernel.name));
        shell::say(&format!("a file system for Linux {}", kernel.name));
        guest::write(built, kernel, variables, &initramfs)?;
        let accelerator = qemu::accelerator(&kernel.image, &initramfs, &console);
        Ok(Self { kernel, initramfs, console, accelerator })
    }

    fn machine(&self) -> Machine<'_> {
        let Self { kernel, initramfs, console, accelerator } = self;
        Machine { kernel: &kernel.image, initramfs, console: console.clone(), accelerator: *accelerator }
    }

    /// Runs the jobs; returns whether all went well.
    fn run(&self, jobs: &[Job]) -> Result<bool> {
        let name = &self.kernel.name;
        let release = self.kernel.release.as_deref().unwrap_or(name);
        shell::say(&format!("Linux {release} in QEMU, {:?}, {} jobs", self.accelerator, jobs.len()));
        let start = Instant::now();
        let mut hearing = Hearing::default();
        let ended = self.machine().run(Mode::Jobs, LIMIT, |line| hearing.line(line));
        if let Err(error) = &ended {
            println!("{error:#}");
            hearing.reader.broken();
            hearing.end_job();
        }
        let (ran, Report { passed, failed, skipped }) = (hearing.jobs, hearing.report);
        let is_required =
            |skip: &&Skip| skip.is_required() && !MAY_LACK.contains(&(name.as_str(), skip.missing.as_str()));
        for skip in &skipped {
            println!("skipped: {}: {}{}", skip.test, skip.missing, if is_required(&skip) { " (required)" } else { "" });
        }
        let required = skipped.iter().filter(is_required).count();
        let seconds = start.elapsed().as_secs();
        let skipped = skipped.len();
        println!("Linux {release}: {passed} passed, {failed} failed, {skipped} skipped, {ran} jobs in {seconds} s");
        if passed == 0 && failed == 0 {
            bail!("no test ran");
        }
        Ok(ended.is_ok() && failed == 0 && required == 0 && ran == jobs.len())
    }
}

/// What was heard of a guest.
#[derive(Default)]
struct Hearing {
    reader: Reader,
    report: Report,
    jobs: usize,
    /// What the present job printed before any test of it ran: of interest only if the job fails.
    held: Vec<String>,
    /// Whether a test of the present job ran.
    has_tests: bool,
    /// When the last line of the present job came.
    last: Option<Instant>,
}

/// A test that takes longer is shown with its time.
const LONG: Duration = Duration::from_secs(5);

impl Hearing {
    /// One line of a job, or of init: `begin NAME`, `left WHAT`, `end NAME: ok|STATUS, N ms`.
    fn line(&mut self, line: &str) {
        match line.strip_prefix(qemu::MARK) {
            Some(said) => self.init(said),
            None => self.job(line),
        }
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
            println!("{line} ({} s)", took.as_secs());
        } else if is_shown || line.contains(FIGURE) {
            println!("{line}");
        }
    }

    fn init(&mut self, said: &str) {
        match said.split_once(' ') {
            Some(("begin", name)) => eprintln!("     Running {name}"),
            Some(("left", what)) => {
                println!("left behind: {what}");
                self.reader.broken();
            }
            Some(("end", how)) => {
                self.jobs += 1;
                if how.contains(": ok,") {
                    self.reader.ended_well();
                } else {
                    self.held.iter().for_each(|line| println!("{line}"));
                    if !self.reader.has_failures() {
                        self.reader.broken();
                    }
                }
                println!("{how}");
                self.end_job();
            }
            Some(_) | None => eprintln!("     {said}"),
        }
    }

    fn end_job(&mut self) {
        self.report.add(std::mem::take(&mut self.reader).report());
        self.held.clear();
        self.has_tests = false;
    }
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
        assert_eq!(hearing.report, Report { passed: 5, failed: 2, skipped: vec![] });
        assert_eq!(hearing.jobs, 4);
    }
}
