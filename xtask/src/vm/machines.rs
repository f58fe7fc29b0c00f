//! Several hosts: machines side by side, and outside of them the test that owns what is between them.
//!
//! The test is `tests/tests/machines.rs`; it finds the sockets of the machines' lines and cards in a folder that a
//! variable names.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::qemu::{Machine, Place};
use crate::report::{Reader, Report};
use crate::{listen, shell};

/// The variable in which the test finds the folder of the sockets.
const FOLDER: &str = "PRIVNET_MACHINES";
/// How many machines the test wants.
const COUNT: usize = 3;
/// Of a disk: room for a file system with a state directory.
const DISK_BYTES: u64 = 64 << 20;
/// A test that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(1800);
/// How often the consoles are looked at.
const GLANCE: Duration = Duration::from_millis(500);

/// Boots the machines, the first with the first kernel of `kinds` and the others with its last, and runs the test.
///
/// # Errors
/// A machine or the test cannot be started.
pub fn run(kinds: &[Machine<'_>], executable: &Path, filters: &[String]) -> Result<(Report, bool)> {
    shell::say(&format!("{COUNT} machines on one underlay"));
    let start = Instant::now();
    let folder = Folder::new()?;
    let mut machines = Vec::new();
    let mut guests = Guests(Vec::new());
    for number in 1..=COUNT {
        let kind = if number == 1 { kinds.first() } else { kinds.last() }.context("no kernel was named")?;
        let console = kind.console.with_file_name(format!("machine-{number}.console"));
        let machine = Machine { console, ..*kind };
        let place = Place { number, folder: folder.0.clone(), disk: disk(&folder.0, number)? };
        guests.0.push(machine.start(&place)?);
        machines.push(machine);
    }
    let mut command = Command::new(executable);
    command.args(["--test-threads=1", "--show-output"]).args(filters).env(FOLDER, &folder.0);
    let mut reader = Reader::default();
    let is_over = AtomicBool::new(false);
    let (ended_well, trouble) = thread::scope(|scope| {
        let watch = scope.spawn(|| watch(&machines, &mut guests, &is_over));
        let ended_well = listen::read(&mut command, &mut reader);
        is_over.store(true, Ordering::Relaxed);
        (ended_well, watch.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let is_well = ended_well? && trouble.is_none();
    if let Some(trouble) = trouble {
        println!("{trouble}");
        reader.broken();
    }
    let report = reader.report();
    let seconds = start.elapsed().as_secs();
    println!("machines: {} passed, {} failed in {seconds} s", report.passed, report.failed);
    Ok((report, is_well))
}

/// Looks at the consoles until the test is over; a machine in trouble, or a test without end, ends them all, and the test
/// with them. Returns the trouble, up to the last word of the last machine.
fn watch(machines: &[Machine<'_>], guests: &mut Guests, is_over: &AtomicBool) -> Option<String> {
    let start = Instant::now();
    let mut is_late = false;
    while !is_over.load(Ordering::Relaxed) && !is_late && trouble(machines).is_none() {
        is_late = start.elapsed() > LIMIT;
        thread::sleep(GLANCE);
    }
    guests.end();
    let late = is_late.then(|| format!("the test was not over after {} s", LIMIT.as_secs()));
    trouble(machines).or(late)
}

/// The first trouble that a console tells of.
fn trouble(machines: &[Machine<'_>]) -> Option<String> {
    let told = |(machine, number): (&Machine<'_>, i32)| Some(format!("machine {number}: {}", machine.trouble()?));
    machines.iter().zip(1..).find_map(told)
}

/// An empty file system in a file that takes no room.
fn disk(folder: &Path, number: usize) -> Result<PathBuf> {
    let path = folder.join(format!("disk-{number}"));
    let file = fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.set_len(DISK_BYTES).with_context(|| format!("cannot size {}", path.display()))?;
    let program = crate::environment::which("mke2fs").context("mke2fs is missing")?;
    shell::run(Command::new(program).args(["-q", "-t", "ext4", "-F"]).arg(&path))?;
    Ok(path)
}

/// Processes that end when this does.
struct Guests(Vec<Child>);

impl Guests {
    fn end(&mut self) {
        for mut child in self.0.drain(..) {
            // One that ended by itself is what the test tells of.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        self.end();
    }
}

/// A folder with a short path, which the addresses of sockets need, and for our eyes only; removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("privnet-vm-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        if path.as_os_str().len() > 80 {
            bail!("{} is too long for the address of a socket: set TMPDIR to a shorter one", path.display());
        }
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::qemu::Accelerator;
    use super::*;

    #[test]
    fn what_a_console_says_when_the_test_is_over_is_read() {
        let path = std::env::temp_dir().join(format!("privnet-machine-console-{}", std::process::id()));
        let machine = Machine { kernel: &path, initramfs: &path, console: path.clone(), accelerator: Accelerator::Tcg };
        fs::write(&path, "[ 9.0] all is well\n").expect("a console");
        let last_look = || watch(std::slice::from_ref(&machine), &mut Guests(Vec::new()), &AtomicBool::new(true));
        assert_eq!(last_look(), None);
        fs::write(&path, "[ 9.1] WARNING: CPU: 0 PID: 1 at net/core/dev.c:1 f+0x1/0x2\n").expect("a console");
        assert!(last_look().is_some_and(|told| told.starts_with("machine 1: ") && told.contains("dev.c")));
        fs::remove_file(&path).expect("a clean end");
    }
}
