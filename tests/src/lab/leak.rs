//! The leak check: what of a test there is in the kernel, before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use privnet::datapath::Hook;
use privnet::netns::{DEFAULT_DIR, Netns};
use privnet_ebpf::maps;

use aya::maps::MapInfo;
use aya::programs::ProgramInfo;
use rustix::process::Signal;

use super::process::{Process, kill, of_ground};
use super::wait::holds_within;

/// What the names of all grounds begin with.
pub(crate) const GROUNDS_NAME: &str = "privnet-test-";
/// Where labs pin.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// What there was when the ground was laid out.
#[derive(Debug)]
pub(crate) struct Snapshot {
    name: String,
    pub(crate) processes: BTreeSet<Process>,
    objects: BTreeSet<String>,
}

impl Snapshot {
    pub(crate) fn take(name: &str) -> Self {
        Self { name: name.to_owned(), processes: of_ground(name), objects: objects(name) }
    }

    /// Waits until there is nothing that was not there, and says what there still is.
    ///
    /// The kernel frees programs, maps and namespaces a moment after their last user.
    pub(crate) fn wait_until_restored(&self, loaded_by_us: &BTreeSet<BpfObject>, patience: Duration) -> Vec<String> {
        let mut left = Vec::new();
        holds_within(patience, || {
            left = objects(&self.name).difference(&self.objects).cloned().collect();
            left.extend(loaded().intersection(loaded_by_us).map(|object| format!("{object:?}")));
            left.is_empty()
        });
        left
    }
}

/// What there is by a ground's name, and what every ground shares: the links of the namespace that it stands in, the files
/// below `/run` that are named after us, and the namespaces that this process holds.
fn objects(name: &str) -> BTreeSet<String> {
    let mut objects = BTreeSet::new();
    let mut add = |what: &str, found: Vec<String>| objects.extend(found.into_iter().map(|one| format!("{what} {one}")));
    let is_of_ground = |file: &String| file.starts_with(name);
    let pins = Netns::list(Path::new(DEFAULT_DIR)).expect("the pinned namespaces").into_iter().map(|pin| pin.name);
    add("namespace", pins.filter(is_of_ground).collect());
    add("link in the root namespace", entries(Path::new("/sys/class/net")));
    add("pin", bpf_pins(name).into_iter().map(|path| path.display().to_string()).collect());
    add("cgroup", cgroups(name).into_iter().map(|path| path.display().to_string()).collect());
    add("temporary", entries(&std::env::temp_dir()).into_iter().filter(is_of_ground).collect());
    add("/run", entries(Path::new("/run")).into_iter().filter(|file| file.starts_with("privnet")).collect());
    add("/run/privnet", entries(Path::new("/run/privnet")));
    add("a handle of", held_namespaces());
    objects
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The network namespaces that a descriptor or a thread of this process holds, in the kernel's words: `net:[4026531840]`.
fn held_namespaces() -> Vec<String> {
    let links = |directory: &str, below: &str| {
        let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
        let links = entries.filter_map(|entry| fs::read_link(entry.path().join(below)).ok());
        links
            .map(|link| link.to_string_lossy().into_owned())
            .filter(|link| link.starts_with("net:"))
            .collect::<Vec<_>>()
    };
    [links("/proc/self/fd", ""), links("/proc/self/task", "ns/net")].concat()
}

/// Removes the namespaces that are pinned under names that begin with `name`; says which there were, and which stay.
pub(crate) fn remove_namespaces(name: &str) -> (BTreeSet<String>, Vec<String>) {
    let pins = Netns::list(Path::new(DEFAULT_DIR)).unwrap_or_default().into_iter().map(|pin| pin.name);
    let pins: BTreeSet<String> = pins.filter(|pin| pin.starts_with(name)).collect();
    let removed = pins.iter().map(|pin| (pin, Netns::remove(Path::new(DEFAULT_DIR), pin)));
    let faults =
        removed.filter_map(|(pin, removed)| Some(format!("cannot remove namespace {pin}: {}", removed.err()?)));
    let faults = faults.collect();
    (pins, faults)
}

/// The directories below bpffs of pins of the ground of this name.
pub(crate) fn bpf_pins(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(BPFFS).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    entries.filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))).collect()
}

/// Removes the ground's directories below bpffs, and says which pins were still in them.
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

/// The cgroups at the top of each hierarchy whose names begin with `name`.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    // One hierarchy, or a directory for each.
    let hierarchies = entries(root).into_iter().map(|entry| root.join(entry)).chain([root.to_owned()]);
    let of_hierarchy = |hierarchy: PathBuf| {
        let found = entries(&hierarchy).into_iter().filter(|entry| entry.starts_with(name));
        found.map(|entry| hierarchy.join(entry)).collect::<Vec<_>>()
    };
    hierarchies.flat_map(of_hierarchy).collect()
}

/// Removes the cgroups whose names begin with `name`, in which no process is any more, and says which stay.
pub(crate) fn remove_cgroups(name: &str) -> Vec<String> {
    let mut left = Vec::new();
    for cgroup in cgroups(name) {
        for inner in entries(&cgroup).into_iter().map(|entry| cgroup.join(entry)).filter(|path| path.is_dir()) {
            // What stays shows in the removal of the outer one.
            let _ = fs::remove_dir(inner);
        }
        if let Err(error) = fs::remove_dir(&cgroup) {
            left.push(format!("cannot remove {}: {error}", cgroup.display()));
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

/// Removes what the grounds of killed tests left behind, which end nothing themselves any more.
pub(crate) fn sweep_the_dead() {
    let is_dead = |name: &str| {
        let pid = name.strip_prefix(GROUNDS_NAME).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid.to_owned());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    let holds_dead = |process: &Process| process.command.split([' ', '/', '=']).any(is_dead);
    for process in of_ground(GROUNDS_NAME).into_iter().filter(holds_dead) {
        kill(process.pid, Signal::KILL);
    }
    for pin in Netns::list(Path::new(DEFAULT_DIR)).unwrap_or_default().into_iter().filter(|pin| is_dead(&pin.name)) {
        let _ = Netns::remove(Path::new(DEFAULT_DIR), &pin.name);
    }
    for directory in bpf_pins(GROUNDS_NAME) {
        if directory.file_name().is_some_and(|name| is_dead(&name.to_string_lossy())) {
            let _ = fs::remove_dir_all(directory);
        }
    }
    for cgroup in
        cgroups(GROUNDS_NAME).iter().filter_map(|path| path.file_name()?.to_str()).filter(|name| is_dead(name))
    {
        let _ = remove_cgroups(cgroup);
    }
    for directory in entries(&std::env::temp_dir()).into_iter().filter(|name| is_dead(name)) {
        let _ = fs::remove_dir_all(std::env::temp_dir().join(directory));
    }
}
