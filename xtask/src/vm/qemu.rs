//! One machine in QEMU: started, listened to on two serial lines, ended.
//!
//! The first line carries jobs to init, what they print, and what init says of them; the kernel's console is the second,
//! and goes into a file that is watched.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
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
/// What init says when it wants a job.
pub const READY: &str = "ready";
/// The answer if there is none, and the last word of init.
pub const OVER: &str = "over";
/// Half of what the first file system leaves of it is how large that may grow: it holds every test, and builds of the agent.
const MEMORY_MIB: &str = "4096";
/// How often the console is looked at.
const GLANCE: Duration = Duration::from_millis(200);
/// How long a kernel in trouble may go on talking.
const GRACE: Duration = Duration::from_secs(3);
/// How long a guest whose jobs are over may take to power off; what holds it up longer is trouble.
const FAREWELL: Duration = Duration::from_secs(60);
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

impl Accelerator {
    /// How many processors a guest has. An emulated one has one: with two, QEMU 7.2 let one processor run an instruction
    /// of the kernel that the other was patching, and the guest died of it (`Oops: int3` where a static key is).
    pub fn processors(self) -> usize {
        match self {
            Self::Kvm => 2,
            Self::Tcg => 1,
        }
    }
}

/// What init is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Run the jobs.
    Jobs,
    /// Be one of several hosts: run commands, and leave alone what they leave running.
    Host,
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

/// What makes a machine one of several hosts.
pub struct Place {
    /// From 1.
    pub number: usize,
    /// Of the sockets: `line-<n>`, the machine's first serial line, which waits for a connection; `card-<n>`, its
    /// network card, which sends a datagram a frame to `port-<n>`.
    pub folder: PathBuf,
    /// The image of its disk.
    pub disk: PathBuf,
}

impl Machine<'_> {
    fn command(&self, mode: Mode) -> Result<Command> {
        let qemu = environment::which(PROGRAM).with_context(|| format!("{PROGRAM} is missing"))?;
        let (accelerator, processor) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            // Wider vectors and more levels of page tables would cost an emulator time: 25 % of it, measured.
            Accelerator::Tcg => ("tcg", "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt"),
        };
        let mode = match mode {
            Mode::Jobs => "jobs",
            Mode::Host => "host",
            Mode::Shell => "shell",
            Mode::Trial => "trial",
        };
        // A guest in trouble says so and stops. The emulator's time is no reason to distrust its clock; and what guards a
        // real machine, and nothing of ours, would only cost it time.
        let trouble = "console=ttyS1 loglevel=5 panic=-1 oops=panic";
        let speed = "tsc=reliable random.trust_cpu=on mitigations=off init_on_alloc=0 apparmor=0 audit=0 norandmaps";
        let emulated = u8::from(self.accelerator == Accelerator::Tcg);
        let line = format!("{trouble} {speed} vm.mode={mode} vm.emulated={emulated}");
        let mut command = environment::foreign(&qemu);
        command.args(["-nodefaults", "-display", "none", "-m", MEMORY_MIB]);
        command.arg("-smp").arg(self.accelerator.processors().to_string());
        command.args(["-accel", accelerator, "-cpu", processor, "-append", &line]);
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initramfs);
        Ok(command)
    }

    /// A machine by itself, whose first line is QEMU's own input and output, and which ends where it would restart.
    fn alone(&self, mode: Mode) -> Result<Command> {
        let mut command = self.command(mode)?;
        command.arg("-no-reboot");
        command.args(["-serial", if mode == Mode::Shell { "mon:stdio" } else { "stdio" }]);
        command.arg("-serial").arg(format!("file:{}", self.console.display()));
        Ok(command)
    }

    /// Starts a machine that is one of several hosts. It waits until somebody connects to its line.
    ///
    /// # Errors
    /// QEMU cannot be started.
    pub fn start(&self, place: &Place) -> Result<Child> {
        fs::write(&self.console, "").with_context(|| format!("cannot write {}", self.console.display()))?;
        let Place { number, folder, disk } = place;
        let socket = |kind: &str| folder.join(format!("{kind}-{number}")).display().to_string();
        let mut command = self.command(Mode::Host)?;
        command.arg("-chardev").arg(format!("socket,id=line,path={},server=on,wait=on", socket("line")));
        command.args(["-serial", "chardev:line"]);
        command.arg("-serial").arg(format!("file:{}", self.console.display()));
        let (card, port) = (socket("card"), socket("port"));
        let ends = format!("local.type=unix,local.path={card},remote.type=unix,remote.path={port}");
        command.arg("-netdev").arg(format!("dgram,id=card,{ends}"));
        command.arg("-device").arg(format!("virtio-net-pci,netdev=card,mac=52:54:00:00:00:{number:02x}"));
        command.arg("-drive").arg(format!("file={},format=raw,if=virtio", disk.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().with_context(|| format!("cannot start {}", shell::shown(&command)))
    }

    /// The first sign of trouble on the console, with what it ends with.
    pub fn trouble(&self) -> Option<String> {
        let line = trouble_in(&self.console)?;
        Some(format!("the guest's kernel is in trouble: {line}\n{}", self.last_lines()))
    }

    /// Lets a person use the guest; ends when it powers off.
    ///
    /// # Errors
    /// QEMU cannot be started, or fails.
    pub fn shell(&self) -> Result<()> {
        let mut command = self.alone(Mode::Shell)?;
        let status = command.status().with_context(|| format!("cannot start {}", shell::shown(&command)))?;
        if !status.success() {
            bail!("{PROGRAM} ended with {status}; its console is in {}", self.console.display());
        }
        Ok(())
    }

    /// Boots, and hands each line of the guest to `hear`, without what ends it; what that answers goes to the guest.
    ///
    /// # Errors
    /// The guest did not come to the end of its jobs: its kernel was in trouble, QEMU failed, or `limit` passed; or it did,
    /// and its kernel was in trouble at any time until it had powered off. The error ends with the console's last lines.
    pub fn run(&self, mode: Mode, limit: Duration, hear: impl FnMut(&str) -> Option<String>) -> Result<()> {
        let mut command = self.alone(mode)?;
        // What an earlier guest said is not of this one.
        fs::write(&self.console, "").with_context(|| format!("cannot write {}", self.console.display()))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if mode == Mode::Trial {
            // It may well die, and with many words.
            command.stderr(Stdio::null());
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", shell::shown(&command)))?;
        let stdout = child.stdout.take().context("QEMU has no stdout")?;
        let stdin = child.stdin.take().context("QEMU has no stdin")?;
        let heard = self.listen(stdout, stdin, limit, hear);
        let ended_by_itself = end(&mut child, if heard.is_ok() { FAREWELL } else { Duration::ZERO })?;
        heard.and_then(|()| farewell(&self.console, ended_by_itself)).with_context(|| {
            format!("the guest's console, {}, ends so:\n{}", self.console.display(), self.last_lines())
        })
    }

    fn listen(
        &self,
        stdout: ChildStdout,
        mut stdin: ChildStdin,
        limit: Duration,
        mut hear: impl FnMut(&str) -> Option<String>,
    ) -> Result<()> {
        let lines = lines_of(stdout);
        let start = Instant::now();
        let mut console = Console { path: &self.console, position: 0, text: String::new() };
        let mut trouble: Option<(String, Instant)> = None;
        loop {
            match lines.recv_timeout(GLANCE) {
                Ok(line) => {
                    let line = line.trim_end_matches(['\r', '\n']);
                    if let Some(answer) = hear(line) {
                        writeln!(stdin, "{answer}").context("the guest does not listen")?;
                    }
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
    let (accelerator, answer) = match machine.run(Mode::Trial, TRIAL, |_| None) {
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

/// Waits for the end of a process and returns whether it came by itself; after `grace` it is made to come.
fn end(child: &mut Child, grace: Duration) -> Result<bool> {
    let start = Instant::now();
    while child.try_wait().context("cannot wait for QEMU")?.is_none() {
        if start.elapsed() >= grace {
            child.kill().context("cannot end QEMU")?;
            child.wait().context("cannot wait for QEMU")?;
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(true)
}

/// The last look at the console of a guest that is gone: what its kernel said after its last job, and while it powered off,
/// counts as what it said before.
fn farewell(console: &Path, ended_by_itself: bool) -> Result<()> {
    if let Some(line) = trouble_in(console) {
        bail!("the guest's kernel is in trouble: {line}");
    }
    if !ended_by_itself {
        bail!("the guest did not power off within {} s", FAREWELL.as_secs());
    }
    Ok(())
}

/// The first line of trouble in all that a console's file holds.
fn trouble_in(console: &Path) -> Option<String> {
    let text = fs::read(console).unwrap_or_default();
    console::trouble(&String::from_utf8_lossy(&text)).map(str::to_owned)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_counts_up_to_the_last_line_of_a_console() {
        let path = std::env::temp_dir().join(format!("privnet-console-{}", std::process::id()));
        fs::write(&path, "[ 1.0] Linux version 6.12\n[ 9.0] reboot: Power down\n").expect("a console");
        farewell(&path, true).expect("a guest that is well");
        farewell(&path, false).expect_err("one that hangs as it powers off");
        let mut console = Console { path: &path, position: 0, text: String::new() };
        assert_eq!(console.read(), None);

        // It comes in pieces, and no read happened in between.
        let late = "[ 9.1] unregister_netdevice: waiting for wg0 to become free. Usage count = 2";
        let mut file = fs::File::options().append(true).open(&path).expect("the console");
        write!(file, "{}", &late[..40]).expect("a piece");
        console.read();
        writeln!(file, "{}", &late[40..]).expect("the rest");
        assert_eq!(console.read().as_deref(), Some(late));
        let error = farewell(&path, true).expect_err("trouble after the last job").to_string();
        assert!(error.contains("waiting for wg0"), "{error}");
        fs::remove_file(&path).expect("a clean end");
    }
}
