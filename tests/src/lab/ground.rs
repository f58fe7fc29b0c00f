//! The ground that every lab stands on: a name, a directory, namespaces and pins; and the leak check at its end.
//!
//! ```text
//!  Ground::join() ─▶ privnet-test-<pid>-<n>-   namespaces, directories of pins, files, command lines begin with it
//!       │                                      or contain it; <n> is another one for each lab of a test
//!       └─ the last one dropped ─▶ what is left is removed, and named: the test fails
//! ```
//!
//! All labs of one test share the ground of its process. Nothing that another process made is touched or counted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use privnet::datapath::is_bpffs;
use privnet::netns::{self, DEFAULT_DIR, Netns};
use rustix::process::Signal;

use super::leak::{self, BPFFS, BpfObject, GROUNDS_NAME, Snapshot};
use super::skip::test_name;
use super::space::{Space, run};
use super::wait::SOON;
use super::{process, say, underlay_address};

static GROUND: Mutex<Option<Inner>> = Mutex::new(None);

/// A lab's part of the ground. What is made through it goes with the last part that is dropped.
#[derive(Debug)]
pub struct Ground {
    prefix: String,
    directory: PathBuf,
}

/// The ground of this process.
#[derive(Debug)]
struct Inner {
    name: String,
    directory: tempfile::TempDir,
    before: Snapshot,
    parts: usize,
    last_part: usize,
    made: BTreeSet<String>,
    loaded: BTreeSet<BpfObject>,
    faults: Vec<String>,
    patience: Duration,
}

impl Ground {
    /// A part of this process's ground, which is laid out first where there is none.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn join() -> Self {
        let test = test_name();
        assert!(rustix::process::geteuid().is_root(), "{test} needs root: cargo xtask test runs it as root");
        let mut ground = lock();
        let inner = ground.get_or_insert_with(|| Inner::lay_out(&test));
        inner.parts += 1;
        inner.last_part += 1;
        let prefix = format!("{}{}-", inner.name, inner.last_part);
        let directory = inner.directory.path().join(inner.last_part.to_string());
        std::fs::create_dir(&directory).expect("a directory of this part's own");
        Self { prefix, directory }
    }

    /// What everything begins with that this part makes by name.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A directory of this part's own, which goes with the ground.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes a pinned namespace with `lo` up.
    #[must_use]
    pub fn space(&self, label: &str) -> Space {
        let space = Space::create(&self.prefix, label);
        self.with(|inner| inner.made.insert(space.pin().to_owned()));
        space
    }

    /// Makes namespaces that stand for hosts, joined by one underlay; number n has 192.168.77.n on its `eth0`.
    #[must_use]
    pub fn underlay(&self, hosts: u8, mtu: u32) -> Vec<Space> {
        let middle = self.space("underlay");
        // One that snoops joins a multicast group of its own, and says so to everybody.
        middle.run(&format!("ip link add br0 mtu {mtu} type bridge mcast_snooping 0"));
        middle.run("ip link set br0 up");
        (1..=hosts).map(|number| self.plug_in(&middle, number, mtu)).collect()
    }

    fn plug_in(&self, middle: &Space, number: u8, mtu: u32) -> Space {
        let host = self.space(&format!("h{number}"));
        let pin = host.pin();
        middle.run(&format!("ip link add port{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pin}"));
        middle.run(&format!("ip link set port{number} master br0 up"));
        host.run(&format!("ip address add {}/24 dev eth0", underlay_address(number)));
        host.run("ip link set eth0 up");
        host
    }

    /// Makes namespaces that no name leads to: each goes with its last handle.
    ///
    /// # Panics
    /// When the kernel makes none.
    #[must_use]
    pub fn namespaces<const N: usize>(&self) -> [Netns; N] {
        std::array::from_fn(|_| Netns::create_anonymous().expect("a namespace"))
    }

    /// Makes a pinned namespace as it comes from the kernel, with nothing in it up and no line in the transcript.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pinned(&self, label: &str) -> Result<(Netns, PathBuf), netns::Error> {
        let pin = format!("{}{label}", self.prefix);
        let netns = Netns::create(Path::new(DEFAULT_DIR), &pin)?;
        let path = Path::new(DEFAULT_DIR).join(&pin);
        self.with(|inner| inner.made.insert(pin));
        Ok((netns, path))
    }

    /// A path below bpffs that nothing uses and nothing is at yet, for pins.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        let number = self.with(|inner| {
            inner.last_part += 1;
            inner.last_part
        });
        Path::new(BPFFS).join(format!("{}pins-{number}", self.prefix))
    }

    /// What the kernel must have freed at the end: programs and maps that were seen to be of this test.
    pub fn must_be_unloaded(&self, objects: impl IntoIterator<Item = BpfObject>) {
        self.with(|inner| inner.loaded.extend(objects));
    }

    /// Takes down what agents of this part left standing when they were dropped: processes, namespaces and pins. The kernel
    /// must then have freed everything of it, as the leak check finds.
    pub fn take_down(&self) {
        let companions = || process::companions_below(&self.directory).into_iter().collect();
        process::end(Signal::TERM, companions);
        process::end(Signal::KILL, companions);
        self.blame(leak::remove_namespaces(&self.prefix).1);
        self.must_be_unloaded(leak::bpf_pins(&self.prefix).iter().flat_map(|directory| leak::pinned(directory)));
        // That there are pins is what an agent that was dropped leaves.
        let _ = leak::remove_pins(&self.prefix);
    }

    /// Adds to what the leak check finds.
    pub fn blame(&self, left: Vec<String>) {
        self.with(|inner| inner.faults.extend(left));
    }

    /// Has the leak check wait a moment only: for the tests of the check itself, which leak on purpose.
    pub fn hurry(&self) {
        self.with(|inner| inner.patience = super::FOR_NOTHING);
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(lock().as_mut().expect("this part is there"))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let mut ground = lock();
        let inner = ground.as_mut().expect("this part is there");
        inner.parts -= 1;
        if inner.parts > 0 {
            return;
        }
        let inner = ground.take().expect("it was there");
        let name = inner.name.clone();
        let is_failing = std::thread::panicking();
        let left = inner.end(is_failing);
        drop(ground);
        if is_failing {
            say(&format!("swept after the test: {} objects", left.len()));
        } else {
            assert!(left.is_empty(), "the ground {name} is not clean:\n  {}", left.join("\n  "));
            say("the ground is clean");
        }
    }
}

impl Inner {
    fn lay_out(test: &str) -> Self {
        leak::sweep_the_dead();
        if !is_bpffs(Path::new(BPFFS)) {
            // Where nothing like systemd has done it, as the agent does.
            run(&format!("mount -t bpf bpf {BPFFS}"));
        }
        let name = format!("{GROUNDS_NAME}{}-", std::process::id());
        say(&format!("ground {name} for {test}"));
        Self {
            before: Snapshot::take(&name),
            directory: tempfile::Builder::new().prefix(&name).tempdir().expect("a temporary directory"),
            parts: 0,
            last_part: 0,
            made: BTreeSet::new(),
            loaded: BTreeSet::new(),
            faults: Vec::new(),
            patience: SOON,
            name,
        }
    }

    /// Removes everything that is there by name, and says what should not have been there any more. After a failure nothing
    /// is waited for: the test had no time to end what it began.
    fn end(self, is_failing: bool) -> Vec<String> {
        let Self { name, directory, before, made, loaded, faults: mut left, patience, .. } = self;
        let patience = if is_failing { Duration::ZERO } else { patience };
        left.extend(process::end_strays(&name, &before.processes, patience));
        let (namespaces, faults) = leak::remove_namespaces(&name);
        left.extend(namespaces.difference(&made).map(|pin| format!("namespace {pin}")));
        left.extend(faults);
        left.extend(leak::remove_pins(&name));
        if let Err(error) = directory.close() {
            left.push(format!("cannot remove the directory: {error}"));
        }
        if !is_failing {
            left.extend(before.wait_until_restored(&loaded, patience));
        }
        left
    }
}

fn lock() -> MutexGuard<'static, Option<Inner>> {
    GROUND.lock().unwrap_or_else(PoisonError::into_inner)
}
