//! A namespace of the lab, or one of an agent's: run a command in it, or a closure.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use privnet::netns::{DEFAULT_DIR, Netns};

use super::say;
use super::wait::wait_until;

/// A pinned network namespace. A clone is the same namespace; dropping one changes nothing.
#[derive(Clone, Debug)]
pub struct Space {
    label: String,
    pin: String,
}

impl Space {
    /// Makes a namespace that is pinned as `<prefix><label>`, with `lo` up.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn create(prefix: &str, label: &str) -> Self {
        let space = Self { label: label.to_owned(), pin: format!("{prefix}{label}") };
        say(&format!("[root] ip netns add {}", space.pin));
        drop(Netns::create(Path::new(DEFAULT_DIR), &space.pin).expect("a namespace"));
        space.run("ip link set lo up");
        space
    }

    /// A namespace that somebody else pinned as `pin`; the transcript calls it `label`.
    #[must_use]
    pub fn of_pin(label: &str, pin: &str) -> Self {
        Self { label: label.to_owned(), pin: pin.to_owned() }
    }

    /// The name of the pin.
    #[must_use]
    pub fn pin(&self) -> &str {
        &self.pin
    }

    /// The path of the pin.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DEFAULT_DIR).join(&self.pin)
    }

    /// Whether it is pinned.
    #[must_use]
    pub fn exists(&self) -> bool {
        Netns::identify(&self.path()).is_ok()
    }

    /// Removes the pin.
    ///
    /// # Panics
    /// When it cannot.
    pub fn remove(&self) {
        say(&format!("[root] ip netns delete {}", self.pin));
        Netns::remove(Path::new(DEFAULT_DIR), &self.pin).expect("the pin goes");
    }

    /// A command that runs in this namespace, in everything else like one of the caller's: `/sys` stays as it is.
    ///
    /// # Panics
    /// On an empty line.
    #[must_use]
    pub fn command(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(words.next().expect("a command"));
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command, words parted by blanks, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        printed(&format!("[{}] {line}", self.label), Ok(self.attempt(line)))
    }

    /// Runs a command that may fail.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn attempt(&self, line: &str) -> Output {
        say(&format!("[{}] {line}", self.label));
        self.output(line)
    }

    /// What a command printed that the transcript does not show.
    ///
    /// A child inherits the namespace of the thread that starts it: nsenter would be a second program to start, which is
    /// what an emulated machine is slowest at.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn output(&self, line: &str) -> Output {
        let Ok(netns) = Netns::open(&self.path()) else {
            // It says that the namespace is gone, and fails.
            return self.command(line).output().expect("nsenter starts");
        };
        let owned = line.to_owned();
        let output = netns.run_blocking(move || {
            let mut words = owned.split_whitespace();
            let mut command = Command::new(words.next().expect("a command"));
            command.args(words).stdin(Stdio::null()).output()
        });
        let output = output.unwrap_or_else(|error| panic!("[{}] {error}", self.label));
        match output {
            // nsenter says that the program is missing, and fails.
            Err(error) if error.kind() == ErrorKind::NotFound => self.command(line).output().expect("nsenter starts"),
            output => output.unwrap_or_else(|error| panic!("[{}] {line}: {error}", self.label)),
        }
    }

    /// What each line of a batch of `ip` or `tc` printed as JSON, in one program; empty when one of them failed, as of a
    /// link that is being made again.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn batch(&self, program: &'static str, lines: &[String]) -> Vec<serde_json::Value> {
        let Ok(netns) = Netns::open(&self.path()) else { return Vec::new() };
        let (text, label) = (format!("{}\n", lines.join("\n")), self.label.clone());
        let output = netns.run_blocking(move || {
            let mut command = Command::new(program);
            command.args(["-d", "-j", "-force", "-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.stderr(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
            let mut stdin = child.stdin.take().expect("its input");
            // One that ended early reads no more, and its output is short.
            let _ = stdin.write_all(text.as_bytes());
            drop(stdin);
            child.wait_with_output().unwrap_or_else(|error| panic!("{program}: {error}"))
        });
        let output = output.unwrap_or_else(|error| panic!("[{label}] {error}"));
        let read = serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<Vec<_>, _>>();
        read.ok().filter(|read: &Vec<_>| read.len() == lines.len()).unwrap_or_default()
    }

    /// Whether a command succeeds.
    #[track_caller]
    pub fn succeeds(&self, line: &str) -> bool {
        self.attempt(line).status.success()
    }

    /// Runs a closure on a thread in this namespace. A socket that it returns stays in the namespace.
    ///
    /// # Panics
    /// When the namespace is gone, or the closure panics.
    #[track_caller]
    pub fn inside<T: Send + 'static>(&self, closure: impl FnOnce() -> T + Send + 'static) -> T {
        let netns = Netns::open(&self.path()).unwrap_or_else(|error| panic!("[{}] {error}", self.label));
        netns.run_blocking(closure).unwrap_or_else(|error| panic!("[{}] {error}", self.label))
    }

    /// Writes a setting below `/proc/sys/net`, `key` in the form `net.ipv4.ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) {
        self.run(&format!("sysctl -q -w {key}={value}"));
    }

    /// The index of an interface; `None` when there is none of this name.
    #[must_use]
    pub fn ifindex(&self, interface: &str) -> Option<u64> {
        self.link(interface)?.get("ifindex")?.as_u64()
    }

    /// What `ip -d -j link show` says of an interface; `None` when there is none of this name.
    #[must_use]
    pub fn link(&self, interface: &str) -> Option<serde_json::Value> {
        let output = self.output(&format!("ip -d -j link show dev {interface}"));
        let links: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).ok()?;
        links.into_iter().next()
    }

    /// The MAC address of an interface.
    ///
    /// # Panics
    /// When there is no such interface.
    #[must_use]
    #[track_caller]
    pub fn mac(&self, interface: &str) -> [u8; 6] {
        let link = self.link(interface).unwrap_or_else(|| panic!("[{}] there is no {interface}", self.label));
        let text = link.get("address").and_then(serde_json::Value::as_str).expect("an address").to_owned();
        let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
        bytes.try_into().expect("six bytes")
    }

    /// The name of the interface whose MAC address, as the tools write it, is `is_it`.
    #[must_use]
    pub fn link_with_mac(&self, is_it: impl Fn(&str) -> bool) -> Option<String> {
        let output = self.output("ip -j link show");
        let links: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON of ip");
        let text = |link: &serde_json::Value, field: &str| link.get(field)?.as_str().map(str::to_owned);
        links
            .iter()
            .find(|link| text(link, "address").is_some_and(|mac| is_it(&mac)))
            .and_then(|link| text(link, "ifname"))
    }

    /// The names of the interfaces, `lo` excluded, sorted.
    ///
    /// # Panics
    /// When `ip` fails.
    #[must_use]
    pub fn links(&self) -> Vec<String> {
        let output = self.output("ip -j link show");
        let links: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON of ip");
        let name = |link: &serde_json::Value| link.get("ifname").and_then(|name| name.as_str().map(str::to_owned));
        let mut names: Vec<String> = links.iter().filter_map(name).filter(|name| name != "lo").collect();
        names.sort();
        names
    }
}

/// A namespace that no pin holds but a process in it, as that of a container that runs.
pub struct ProcessSpace {
    process: Child,
}

impl ProcessSpace {
    /// Starts a process that has a namespace of its own, and waits until it has.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Self {
        say("[root] unshare --net sleep 1000");
        let process = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().expect("unshare starts");
        let space = Self { process };
        let own = Netns::current().expect("the tests' own namespace").id();
        wait_until("the process has its namespace", || Netns::identify(&space.path()).is_ok_and(|id| id != own));
        space
    }

    /// The path of the namespace, below the process's in `/proc`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.process.id()).into()
    }

    /// A handle of the namespace.
    ///
    /// # Panics
    /// When the process has ended.
    #[must_use]
    pub fn netns(&self) -> Netns {
        Netns::open(&self.path()).expect("the process's namespace")
    }

    /// Kills the process, as a container dies.
    pub fn end(self) {
        say("[root] kill -9 of the process that has the namespace");
    }
}

impl Drop for ProcessSpace {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a command of the transcript, words parted by blanks, in the tests' own namespace, and returns what it printed.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn run(line: &str) -> String {
    say(&format!("[root] {line}"));
    let mut words = line.split_whitespace();
    printed(line, Command::new(words.next().expect("a command")).args(words).stdin(Stdio::null()).output())
}

/// Runs a shell's command in a namespace that no name leads to, and returns what it printed.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn run_in(netns: &Netns, script: &str) -> String {
    say(&format!("[{}] {script}", netns.id()));
    let line = script.to_owned();
    // A child inherits the namespace of the thread that starts it.
    let output = netns.run_blocking(move || Command::new("sh").arg("-ec").arg(line).stdin(Stdio::null()).output());
    printed(script, output.unwrap_or_else(|error| panic!("{script}: {error}")))
}

#[track_caller]
fn printed(line: &str, output: std::io::Result<Output>) -> String {
    let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{line}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}
