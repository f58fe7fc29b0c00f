//! The leak check: what of privnet's there is in the kernel, before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use privnet::datapath::Hook;
use privnet::netns::{DEFAULT_DIR, Netns};
use privnet_ebpf::maps;

use aya::maps::MapInfo;
use aya::programs::ProgramInfo;
use rustix::process::Signal;

use super::LABS_NAME;
use super::process::{Process, kill, of_binary};
use super::wait::{SOON, holds_within};

/// Where the lab's agents pin.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// What there was when the lab opened.
pub(crate) struct Snapshot {
    name: String,
    pub(crate) processes: BTreeSet<Process>,
    objects: BTreeSet<String>,
}

impl Snapshot {
    pub(crate) fn take(name: &str) -> Self {
        Self { name: name.to_owned(), processes: of_binary(), objects: objects(name) }
    }

    /// Waits until there is nothing that was not there, and says what there still is.
    ///
    /// The kernel frees programs, maps and namespaces a moment after their last user.
    pub(crate) fn wait_until_restored(&self, loaded_by_us: &BTreeSet<BpfObject>) -> Vec<String> {
        let mut left = Vec::new();
        holds_within(SOON, || {
            left = objects(&self.name).difference(&self.objects).cloned().collect();
            left.extend(of_binary().difference(&self.processes).map(|process| format!("process {}", process.command)));
            left.extend(loaded().intersection(loaded_by_us).map(|object| format!("{object:?}")));
            left.is_empty()
        });
        left
    }
}

/// What of a lab of this name there is by name, and the links of the namespace that all of it stands in.
fn objects(name: &str) -> BTreeSet<String> {
    let pins = Netns::list(Path::new(DEFAULT_DIR)).expect("the pinned namespaces");
    let pins = pins.into_iter().filter(|pin| pin.name.starts_with(name));
    let pins = pins.map(|pin| format!("namespace {}", pin.name));
    let links = fs::read_dir("/sys/class/net").expect("/sys/class/net").filter_map(Result::ok);
    let links = links.map(|link| format!("link {} in the root namespace", link.file_name().display()));
    let mut objects: BTreeSet<String> = pins.chain(links).collect();
    objects.extend(bpf_pins(name).into_iter().map(|path| format!("pin {}", path.display())));
    objects
}

/// The directories below bpffs that the lab of this name's agents pin in.
fn bpf_pins(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(BPFFS).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    entries.filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))).collect()
}

/// Removes the lab's directories below bpffs, and says which pins were still in them.
pub(crate) fn remove_pins(name: &str) -> Vec<String> {
    let mut left = Vec::new();
    for directory in bpf_pins(name) {
        left.extend(pins_below(&directory).into_iter().map(|pin| format!("pin {}", pin.display())));
        if let Err(error) = fs::remove_dir_all(&directory) {
            left.push(format!("cannot remove {}: {error}", directory.display()));
        }
    }
    left
}

/// Every pin below a directory; one that does not exist has none.
pub fn pins_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { pins_below(&path) } else { vec![path] }).collect()
}

/// A loaded program or map; the kernel gives no id twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BpfObject {
    /// A program, by its id.
    Program(u32),
    /// A map, by its id.
    Map(u32),
}

/// The programs and maps that are pinned below a directory.
#[must_use]
pub fn pinned(directory: &Path) -> BTreeSet<BpfObject> {
    let object = |pin: PathBuf| {
        let name = pin.file_name()?.to_str()?;
        if maps::ALL.iter().any(|spec| spec.name == name) {
            MapInfo::from_pin(&pin).ok().map(|info| BpfObject::Map(info.id()))
        } else if Hook::ALL.iter().any(|hook| hook.program() == name) {
            ProgramInfo::from_pin(&pin).ok().map(|info| BpfObject::Program(info.id()))
        } else {
            None
        }
    };
    pins_below(directory).into_iter().filter_map(object).collect()
}

fn loaded() -> BTreeSet<BpfObject> {
    let programs = aya::programs::loaded_programs().filter_map(Result::ok).map(|info| BpfObject::Program(info.id()));
    let maps = aya::maps::loaded_maps().filter_map(Result::ok).map(|info| BpfObject::Map(info.id()));
    programs.chain(maps).collect()
}

/// Removes what labs left behind whose test was killed: nobody is there to do it for them.
pub(crate) fn sweep_dead_labs() {
    let is_dead = |name: &str| {
        let pid = name.strip_prefix(LABS_NAME).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid.to_owned());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    let holds_dead = |process: &Process| process.command.split([' ', '/']).any(is_dead);
    for process in of_binary().into_iter().filter(holds_dead) {
        kill(process.pid, Signal::KILL);
    }
    for pin in Netns::list(Path::new(DEFAULT_DIR)).unwrap_or_default().into_iter().filter(|pin| is_dead(&pin.name)) {
        let _ = Netns::remove(Path::new(DEFAULT_DIR), &pin.name);
    }
    for directory in bpf_pins(LABS_NAME) {
        if directory.file_name().is_some_and(|name| is_dead(&name.to_string_lossy())) {
            let _ = fs::remove_dir_all(directory);
        }
    }
}
