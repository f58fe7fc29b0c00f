//! `vm`: the tests that need root, in virtual machines with kernels of Debian's that have everything.
//!
//! Builds as `test` does; each kernel then boots in QEMU with a file system made of this machine's programs and the
//! binaries that were built. Nothing is installed but tools, and root is needed for nothing else. As many guests as this
//! machine has processors for share the jobs of a kernel: each takes the next one when it is done with one.

mod console;
mod cpio;
mod guest;
mod hearing;
mod image;
mod kernel;
mod machines;
mod modules;
mod qemu;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::guest::{Built, Job};
use self::hearing::Hearing;
use self::kernel::{Kernel, Wanted};
use self::qemu::{Accelerator, Machine, Mode};
use crate::build::{self, Profile};
use crate::messages::Executable;
use crate::report::{Report, Skip};
use crate::setup::{self, Purpose};
use crate::test::{MACHINES, PRIVNET_BIN, ROOT_TESTS_FOLDER, has_no_harness};
use crate::{environment, lacks, lanes, shell};

/// A guest that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(3600);
/// A test executable that takes longer hangs.
const JOB_LIMIT: Duration = Duration::from_secs(900);
/// The first process of a guest, of the package whose tests need root.
const INIT: &str = "vm_init";
/// Binaries of that package that no test starts.
const NOT_IN_GUESTS: [&str; 2] = ["privnet-bench", INIT];
/// More guests than this at once would only read the same file system.
const MOST_GUESTS: usize = 4;

/// What to run in which kernels.
#[derive(Args)]
pub struct Arguments {
    /// A series of Debian's kernels, `newest` for its newest of all (from its unstable suite), or the path of an image with
    /// `:` and the folder of its modules; repeatable
    #[arg(long, value_name = "SERIES|newest|IMAGE[:MODULES]", default_values = kernel::DEFAULT)]
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
    // A shell is in one guest, of the first kernel.
    let wanted = arguments.kernel.iter().take(if arguments.shell { 1 } else { usize::MAX });
    let kernels: Vec<Kernel> = wanted.map(kernel::obtain).collect::<Result<_>>()?;
    let mut guests = Vec::new();
    for kernel in &kernels {
        guests.push(Guest::prepare(kernel, &built, &variables)?);
    }
    if let (true, Some(guest)) = (arguments.shell, guests.first()) {
        return guest.machine(1).shell().map(|()| true);
    }
    let (mut sum, mut is_well) = (Report::default(), true);
    for (number, guest) in guests.iter().enumerate() {
        let jobs: Vec<&Job> = built.jobs.iter().filter(|job| number == 0 || !job.is_once()).collect();
        if jobs.is_empty() {
            continue;
        }
        let (report, went_well) = guest.run(&jobs);
        sum.add(report);
        is_well &= went_well;
    }
    if let Some(test) = &built.machines {
        let kinds: Vec<Machine<'_>> = guests.iter().map(|guest| guest.machine(1)).collect();
        // A filter that names the file asks for all of it.
        let filters = if is_named(MACHINES, &arguments.filter) { &[][..] } else { &arguments.filter };
        let (report, went_well) = machines::run(&kinds, test, filters)?;
        sum.add(report);
        is_well &= went_well;
    }
    let Report { passed, failed, skipped, .. } = sum;
    println!("{passed} passed, {failed} failed, {} skipped", skipped.len());
    if passed + failed == 0 {
        bail!("no test ran");
    }
    Ok(is_well && failed == 0)
}

/// Builds what the guests run, and says with which variables.
fn build(filters: &[String]) -> Result<(Built, Vec<(&'static str, OsString)>)> {
    let toolchain = setup::ensure(Purpose::Vm)?;
    shell::say("build");
    let object = build::programs(&toolchain)?;
    let privnet = build::privnet_with(&object, Profile::Dev)?;
    let folder = environment::root().join(ROOT_TESTS_FOLDER);
    let mut command = build::cargo("test", Profile::Dev, &object);
    // Not the unit tests, which no guest runs.
    let mut all = build::executables(command.args(["--no-run", "--bins", "--test", "*"]))?;
    all.retain(|built| built.manifest.parent() == Some(&folder));
    all.sort_by_key(Executable::file_name);
    // Those that take longest have names at the end of the alphabet; the last jobs are to be short ones, so that the guests
    // end together.
    all.reverse();
    let init = all.iter().find(|built| built.file_name() == INIT).map(|built| built.path.clone());
    let init = init.with_context(|| format!("the build gave no binary `{INIT}`"))?;

    let mut executables = build::binaries(&privnet).to_vec();
    let mut jobs = Vec::new();
    let mut machines = None;
    for built in &all {
        if !built.is_test && !NOT_IN_GUESTS.contains(&built.file_name().as_str()) {
            executables.push(built.path.clone());
        }
        if built.is_test && !has_tests(built, filters)? {
            continue;
        }
        if built.is_test && built.stem() == MACHINES {
            machines = Some(built.path.clone());
        } else if let Some(job) = test_job(built, &folder, filters) {
            executables.push(built.path.clone());
            jobs.push(job);
        }
    }
    jobs.extend(demos(&privnet, filters));
    let search = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut path = environment::tools().into_os_string();
    path.push(":");
    path.push(search);
    let variables = vec![(PRIVNET_BIN, privnet.into_os_string()), ("PATH", path)];
    Ok((Built { executables, init, jobs, machines }, variables))
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
    let name = &built.stem();
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
    Some(Job { name: name.clone(), folder: folder.to_path_buf(), limit: JOB_LIMIT, words })
}

/// Whether filters let a test of an executable through. One that is a test by itself is asked for by its name.
fn has_tests(built: &Executable, filters: &[String]) -> Result<bool> {
    if filters.is_empty() || is_named(&built.file_name(), filters) || has_no_harness(built) {
        return Ok(true);
    }
    let mut command = Command::new(&built.path);
    command.args(["--list", "--format=terse"]).args(filters);
    let output = command.output().with_context(|| format!("cannot start {}", shell::shown(&command)))?;
    Ok(!output.stdout.is_empty())
}

fn is_named(name: &str, filters: &[String]) -> bool {
    filters.iter().any(|filter| name.contains(filter))
}

/// A kernel with its file system, ready to boot.
struct Guest<'a> {
    kernel: &'a Kernel,
    initramfs: PathBuf,
    /// Where the files of its machines are.
    folder: PathBuf,
    accelerator: Accelerator,
}

impl<'a> Guest<'a> {
    fn prepare(kernel: &'a Kernel, built: &Built, variables: &[(&str, OsString)]) -> Result<Self> {
        let folder = environment::root().join("target/vm");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let initramfs = folder.join(format!("{}.cpio", kernel.name));
        shell::say(&format!("a file system for Linux {}", kernel.name));
        guest::write(built, kernel, variables, &initramfs)?;
        let accelerator = qemu::accelerator(&kernel.image, &initramfs, &folder.join("trial.console"));
        Ok(Self { kernel, initramfs, folder, accelerator })
    }

    /// The `number`th of its machines.
    fn machine(&self, number: usize) -> Machine<'_> {
        let console = self.folder.join(format!("{}.{number}.console", self.kernel.name));
        let (kernel, initramfs) = (&self.kernel.image, &self.initramfs);
        Machine { kernel, initramfs, console, accelerator: self.accelerator }
    }

    /// Runs the jobs; returns their sum, and whether all went well.
    fn run(&self, jobs: &[&Job]) -> (Report, bool) {
        let name = &self.kernel.name;
        let release = self.kernel.release.as_deref().unwrap_or(name);
        let guests = (lanes::processors() / self.accelerator.processors()).clamp(1, MOST_GUESTS.min(jobs.len().max(1)));
        shell::say(&format!("Linux {release} in {guests} guests, {:?}, {} jobs", self.accelerator, jobs.len()));
        let start = Instant::now();
        let queue = Mutex::new(jobs.iter().copied().collect());
        let heard: Vec<(Hearing, bool)> = thread::scope(|scope| {
            let guests: Vec<_> = (1..=guests)
                .map(|number| {
                    scope.spawn({
                        let queue = &queue;
                        move || self.share(number, queue)
                    })
                })
                .collect();
            guests
                .into_iter()
                .map(|guest| guest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let (mut report, mut ran, mut is_well) = (Report::default(), 0, true);
        for (hearing, ended_well) in heard {
            report.add(hearing.report);
            ran += hearing.jobs;
            is_well &= ended_well;
        }
        let Report { passed, failed, skipped, .. } = &report;
        let version = self.kernel.version();
        let is_required = |skip: &&Skip| lacks::is_required_in_a_guest(skip, version);
        for skip in skipped {
            println!("skipped: {}: {}{}", skip.test, skip.missing, if is_required(&skip) { " (required)" } else { "" });
        }
        let required = skipped.iter().filter(is_required).count();
        let seconds = start.elapsed().as_secs();
        let skipped = skipped.len();
        println!("Linux {release}: {passed} passed, {failed} failed, {skipped} skipped, {ran} jobs in {seconds} s");
        println!("{}", report.slowest().unwrap_or_default());
        let is_well = is_well && *failed == 0 && required == 0 && ran == jobs.len();
        (report, is_well)
    }

    /// One machine's share of the jobs: what was heard of it, and whether it came to its end.
    fn share(&self, number: usize, queue: &Mutex<VecDeque<&Job>>) -> (Hearing, bool) {
        let mut hearing = Hearing::of_guest(number);
        let ended = self.machine(number).run(Mode::Jobs, LIMIT, |line| {
            hearing.line(line);
            let is_ready = line.strip_prefix(qemu::MARK) == Some(qemu::READY);
            let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            is_ready.then(|| next().map_or_else(|| qemu::OVER.to_owned(), Job::line))
        });
        if let Err(error) = &ended {
            hearing.died(error);
        }
        (hearing, ended.is_ok())
    }
}
