//! One machine in QEMU: started, listened to on two serial lines, ended.
//!
//! The first line carries what the jobs print and what init says of them; the kernel's console is the second, and goes
//! into a file that is watched.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::console;
use crate::{environment, shell};

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// What init puts in front of what it says.
pub const MARK: &str = "@@vm ";
/// The last word of init.
pub const OVER: &str = "over";
/// How often the console is looked at.
const GLANCE: Duration = Duration::from_millis(200);
/// How long a kernel in trouble may go on talking, and a guest whose jobs are over may take to power off.
const GRACE: Duration = Duration::from_secs(3);
/// A guest that has a processor to itself is up in a second or two.
const TRIAL: Duration = Duration::from_secs(15);

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// An emulator.
    Tcg,
}

/// What init is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Run the jobs.
    Jobs,
    /// Run a shell for a person.
    Shell,
    /// Say that it is up.
    Trial,
}

/// What to boot.
pub struct Machine<'a> {
    /// The kernel's image.
    pub kernel: &'a Path,
    /// The first file system.
    pub initramfs: &'a Path,
    /// Where the console goes.
    pub console: PathBuf,
    /// What runs it.
    pub accelerator: Accelerator,
}

impl Machine<'_> {
    fn command(&self, mode: Mode) -> Result<Command> {
        let qemu = environment::which(PROGRAM).with_context(|| format!("{PROGRAM} is missing"))?;
        let (accelerator, processor) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            // Wider vectors and more levels of page tables would cost an emulator time: 25 % of it, measured.
            Accelerator::Tcg => ("tcg,thread=multi", "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt"),
        };
        let mode = match mode {
            Mode::Jobs => "jobs",
            Mode::Shell => "shell",
            Mode::Trial => "trial",
        };
        // A guest in trouble says so and stops. The emulator's time is no reason to distrust its clock; and what guards a
        // real machine, and nothing of ours, would only cost it time.
        let trouble = "console=ttyS1 loglevel=5 panic=-1 oops=panic";
        let speed = "tsc=reliable random.trust_cpu=on mitigations=off init_on_alloc=0 apparmor=0 audit=0";
        let emulated = u8::from(self.accelerator == Accelerator::Tcg);
        let line = format!("{trouble} {speed} vm.mode={mode} vm.emulated={emulated}");
        let mut command = environment::foreign(&qemu);
        command.args(["-nodefaults", "-no-reboot", "-display", "none", "-smp", "2", "-m", "2048"]);
        command.args(["-accel", accelerator, "-cpu", processor, "-append", &line]);
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initramfs);
        command.args(["-serial", if mode == "shell" { "mon:stdio" } else { "stdio" }]);
        command.arg("-serial").arg(format!("file:{}", self.console.display()));
        Ok(command)
    }

    /// Lets a person use the guest; ends when it powers off.
    ///
    /// # Errors
    /// QEMU cannot be started, or fails.
    pub fn shell(&self) -> Result<()> {
        let mut command = self.command(Mode::Shell)?;
        let status = command.status().with_context(|| format!("cannot start {}", shell::shown(&command)))?;
        if !status.success() {
            bail!("{PROGRAM} ended with {status}; its console is in {}", self.console.display());
        }
        Ok(())
    }

    /// Runs the jobs and hands each line of the guest to `hear`, without what ends it.
    ///
    /// # Errors
    /// The guest did not come to the end of its jobs: its kernel was in trouble, QEMU failed, or `limit` passed. The
    /// error ends with the console's last lines.
    pub fn run(&self, mode: Mode, limit: Duration, hear: impl FnMut(&str)) -> Result<()> {
        let mut command = self.command(mode)?;
        // What an earlier guest said is not of this one.
        fs::write(&self.console, "").with_context(|| format!("cannot write {}", self.console.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        if mode == Mode::Trial {
            // It may well die, and with many words.
            command.stderr(Stdio::null());
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", shell::shown(&command)))?;
        let stdout = child.stdout.take().context("QEMU has no stdout")?;
        let heard = self.listen(stdout, limit, hear);
        end(&mut child, if heard.is_ok() { GRACE } else { Duration::ZERO })?;
        heard.with_context(|| {
            format!("the guest's console, {}, ends so:\n{}", self.console.display(), self.last_lines())
        })
    }

    fn listen(&self, stdout: ChildStdout, limit: Duration, mut hear: impl FnMut(&str)) -> Result<()> {
        let lines = lines_of(stdout);
        let start = Instant::now();
        let mut console = Console { path: &self.console, position: 0, text: String::new() };
        let mut trouble: Option<(String, Instant)> = None;
        loop {
            match lines.recv_timeout(GLANCE) {
                Ok(line) => {
                    let line = line.trim_end_matches(['\r', '\n']);
                    hear(line);
                    if line.strip_prefix(MARK) == Some(OVER) {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let trouble = console.read();
                    bail!("{}", trouble.as_deref().unwrap_or("the guest stopped before its jobs were over"));
                }
            }
            if trouble.is_none() {
                trouble = console.read().map(|line| (line, Instant::now()));
            }
            if let Some((line, _)) = trouble.as_ref().filter(|(_, since)| since.elapsed() > GRACE) {
                bail!("the guest's kernel is in trouble: {line}");
            }
            if start.elapsed() > limit {
                bail!("the guest was not done after {} s", limit.as_secs());
            }
        }
    }

    fn last_lines(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// KVM if a guest comes up with it, else the emulator. That `/dev/kvm` is there says little: below another hypervisor
/// a guest may die in its first instructions.
pub fn accelerator(kernel: &Path, initramfs: &Path, console: &Path) -> Accelerator {
    let device = Path::new("/dev/kvm");
    if fs::File::options().read(true).write(true).open(device).is_err() {
        return Accelerator::Tcg;
    }
    // Of this boot of this machine: another one may have another hypervisor.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let known = environment::root().join("target/vm/kvm");
    let remembered = fs::read_to_string(&known).unwrap_or_default();
    if let Some(answer) = remembered.strip_prefix(boot.trim()).map(str::trim) {
        return if answer == "works" { Accelerator::Kvm } else { Accelerator::Tcg };
    }
    shell::say("a trial boot with KVM");
    let machine = Machine { kernel, initramfs, console: console.to_path_buf(), accelerator: Accelerator::Kvm };
    let (accelerator, answer) = match machine.run(Mode::Trial, TRIAL, |_| {}) {
        Ok(()) => (Accelerator::Kvm, "works"),
        Err(error) => {
            let reason = error.root_cause().to_string();
            eprintln!("    {} is there, but a guest does not come up with it ({reason}): emulating", device.display());
            (Accelerator::Tcg, "does not")
        }
    };
    // Without the file, the next run tries again.
    let _ = fs::write(&known, format!("{} {answer}\n", boot.trim()));
    accelerator
}

fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let lines = BufReader::new(stdout).split(b'\n').map_while(Result::ok);
        lines.map(|line| String::from_utf8_lossy(&line).into_owned()).try_for_each(|line| sender.send(line))
    });
    lines
}

fn end(child: &mut Child, grace: Duration) -> Result<()> {
    let start = Instant::now();
    while child.try_wait().context("cannot wait for QEMU")?.is_none() {
        if start.elapsed() >= grace {
            child.kill().context("cannot end QEMU")?;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A console's file, read as it grows.
struct Console<'a> {
    path: &'a Path,
    position: u64,
    text: String,
}

impl Console<'_> {
    /// The first line of trouble so far. A file that cannot be read has nothing to say; the limit ends the guest.
    fn read(&mut self) -> Option<String> {
        let mut file = fs::File::open(self.path).ok()?;
        file.seek(SeekFrom::Start(self.position)).ok()?;
        let mut new = Vec::new();
        self.position += u64::try_from(file.read_to_end(&mut new).ok()?).ok()?;
        self.text.push_str(&String::from_utf8_lossy(&new));
        console::trouble(&self.text).map(str::to_owned)
    }
}
