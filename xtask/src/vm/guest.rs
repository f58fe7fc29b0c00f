//! What a guest holds, and what it is handed to do: an image and jobs.
//!
//! The other half is `tests/src/bin/vm_init.rs`, which reads the jobs one by one and runs them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::image::Image;
use super::kernel::Kernel;
use super::modules;
use crate::messages::Executable;
use crate::{build, environment, shell};

/// Where init finds the variables of the jobs, besides `PATH`.
const VARIABLES: &str = "/vm/variables";

/// Programs that the tests start, or that a person in the shell wants. `setup` has seen to those that matter.
const PROGRAMS: [&str; 70] = [
    "bash", "bpftool", "bridge", "busybox", "cat", "chmod", "cp", "curl", "cut", "date", "df", "dig", "dmesg",
    "dnsperf", "echo", "env", "etcd", "false", "find", "getent", "grep", "head", "id", "ip", "jq", "kdig", "kill",
    "less", "ln", "ls", "lsmod", "mkdir", "mkfifo", "modinfo", "modprobe", "mount", "mv", "nsenter", "ping",
    "promtool", "ps", "readlink", "rm", "rmdir", "rmmod", "sed", "seq", "setpriv", "setsid", "sh", "sleep", "sort",
    "ss", "stat", "strace", "sync", "sysctl", "tail", "tc", "tcpdump", "tee", "test", "timeout", "touch", "tr", "true",
    "umount", "uname", "unshare", "wg",
];

/// The programs of netfilter's rules, and where they load what they know of each kind of rule from.
const RULES: [&str; 3] = ["iptables", "iptables-save", "ip6tables-save"];
const KINDS_OF_RULES: &str = "/usr/lib/x86_64-linux-gnu/xtables";

/// Files of this machine that these programs read, and programs that are called by these very paths: by the kernel to
/// load a module, and by libraries to run a command.
const FILES: [&str; 8] = [
    "/sbin/modprobe",
    "/bin/sh",
    "/etc/ld.so.cache",
    "/etc/protocols",
    "/etc/services",
    "/etc/iproute2/group",
    "/etc/iproute2/rt_tables",
    "/etc/iproute2/rt_protos",
];

/// What was built and a person, or a script, calls by its name.
const IN_THE_PATH: [&str; 3] = ["privnet", build::DEMO, "vm_talk"];

/// Tests that ask nothing of a kernel that they do not ask on any other machine, with the reason.
const ELSEWHERE: [(&str, &str); 30] = [
    ("demo", "ends the demo early; a guest runs it whole by every road"),
    ("lifecycle_crashes", "kills agents, a hundred times"),
    ("lifecycle_damage", "several machines share an etcd"),
    ("lifecycle_ends", "several machines share an etcd"),
    ("lifecycle_forget", "several machines share an etcd"),
    ("lifecycle_etcd", "several machines share an etcd"),
    ("lifecycle_fleet", "several machines share an etcd"),
    ("lifecycle_four_hosts", "several machines share an etcd"),
    ("lifecycle_instances", "several machines share an etcd"),
    ("lifecycle_losses", "several machines share an etcd"),
    ("lifecycle_partitions", "several machines share an etcd"),
    ("lifecycle_reads", "several machines share an etcd"),
    ("lifecycle_rebuild", "several machines share an etcd"),
    ("lifecycle_restores", "several machines share an etcd"),
    ("lifecycle_versions", "compares records in an etcd"),
    ("lifecycle_streams", "asks the agent for streams, and the kernel for what every member asks it"),
    ("names_agent", "asks the agent for names, thousands a second"),
    ("names_clients", "needs compilers, and asks resolvers"),
    ("names_conformance", "compares answers of names"),
    ("names_files", "needs python, and writes files"),
    ("names_own_servers", "asks the container's own servers for names"),
    ("names_resolv_conf", "writes files"),
    ("package", "needs a systemd and dpkg, and asks them more than the kernel"),
    ("runtimes_docker", "needs a whole Docker, and asks it more than the kernel"),
    ("runtimes_docker_compose", "needs a whole Docker, and asks it more than the kernel"),
    ("runtimes_docker_hosts", "needs a whole Docker, and several machines share an etcd"),
    ("runtimes_docker_plugin", "needs a whole Docker; topology_handover moves the devices as that does"),
    ("runtimes_docker_refusals", "needs a whole Docker, and asks it more than the kernel"),
    ("runtimes_podman", "needs a whole Podman; runtimes_cni calls the plugin as that does"),
    ("topology_underlay", "several machines share an etcd"),
];

/// Tests that one kernel tells as much as two: they ask what the agent does with what it has, and not what the kernel has.
const ONCE: [&str; 10] = [
    "lab",
    "lifecycle_agent",
    "lifecycle_clock",
    "lifecycle_faults",
    "lifecycle_needs",
    "lifecycle_wireguard",
    "names_further",
    "names_gone",
    "names_process",
    "runtimes_cni",
];

/// One program that the guest runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What it is called in the output.
    pub name: String,
    /// Where it runs.
    pub folder: PathBuf,
    /// How long it may take.
    pub limit: Duration,
    /// The program and its arguments.
    pub words: Vec<String>,
}

impl Job {
    /// Whether the first kernel alone runs it.
    pub fn is_once(&self) -> bool {
        ONCE.contains(&self.name.as_str())
    }

    /// As init reads it: one line, its fields separated by tabs: name, limit in seconds, folder, program and arguments.
    pub fn line(&self) -> String {
        let (folder, words) = (self.folder.display(), self.words.join("\t"));
        format!("{}\t{}\t{folder}\t{words}", self.name, self.limit.as_secs())
    }
}

/// What cargo built, and what of it the guest runs.
pub struct Built {
    /// `privnet`, `privnet-demo`, the tests, and the programs that tests start.
    pub executables: Vec<PathBuf>,
    /// init.
    pub init: PathBuf,
    /// What init runs.
    pub jobs: Vec<Job>,
    /// The tests of several machines, which run outside of them.
    pub machines: Option<PathBuf>,
}

/// Whether a test is left to `cargo xtask test`, and why.
pub fn elsewhere(test: &Executable) -> Option<&'static str> {
    let name = test.file_name();
    ELSEWHERE.iter().find_map(|(left, why)| name.starts_with(&format!("{left}-")).then_some(*why))
}

/// The image for a kernel, written to a file.
///
/// # Errors
/// Something of it is missing on this machine, or the file cannot be written.
pub fn write(built: &Built, kernel: &Kernel, variables: &[(&str, OsString)], to: &Path) -> Result<()> {
    let mut image = Image::default();
    let programs = PROGRAMS.iter().chain(&RULES).filter_map(|program| environment::which(program));
    image.programs_of_host(&programs.collect::<Vec<_>>())?;
    for kind in fs::read_dir(KINDS_OF_RULES).into_iter().flatten().flatten() {
        image.file_of_host(&kind.path())?;
    }
    for file in FILES.iter().map(Path::new).filter(|file| file.is_file()) {
        image.file_of_host(file)?;
    }
    let stripped = Stripped::new()?;
    for program in built.executables.iter().chain([&built.init]) {
        image.program_as(program, &stripped.of(program)?)?;
    }
    stripped.remove_others()?;
    image.link("/init", &built.init.to_string_lossy());
    for program in built.executables.iter().filter(|program| program.starts_with(environment::root())) {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        if IN_THE_PATH.contains(&&*name) {
            image.link(&format!("/usr/local/bin/{name}"), &program.to_string_lossy());
        }
    }
    if let (Some(folder), Some(release)) = (&kernel.modules, &kernel.release) {
        modules::add(&mut image, folder, release)?;
    }
    furnish(&mut image);
    let variables = variables.iter().map(|(name, value)| format!("{name}={}\n", value.to_string_lossy()));
    image.text(VARIABLES, 0o644, variables.collect::<String>());
    for job in &built.jobs {
        image.folder(&job.folder.to_string_lossy(), 0o755);
    }
    let bytes = image.write(to)?;
    eprintln!("    {}: {} MiB", to.display(), bytes >> 20);
    Ok(())
}

/// What no program brings along.
fn furnish(image: &mut Image) {
    for folder in ["/dev", "/proc", "/sys", "/run", "/var/lib", "/etc", "/mnt", "/root"] {
        image.folder(folder, 0o755);
    }
    image.folder("/tmp", 0o1777);
    image.link("/var/run", "/run");
    let users = "root:x:0:0::/root:/bin/sh\ntcpdump:x:100:100::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n";
    image.text("/etc/passwd", 0o644, users);
    image.text("/etc/group", 0o644, "root:x:0:\ntcpdump:x:100:\nnogroup:x:65534:\n");
    // Empty: a test mounts another one over it.
    image.text("/etc/resolv.conf", 0o644, "");
    image.text("/etc/hosts", 0o644, "127.0.0.1 localhost\n");
    image.text("/etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n");
}

/// Copies of executables without what debuggers read, which is most of them.
struct Stripped {
    folder: PathBuf,
    used: std::cell::RefCell<BTreeSet<PathBuf>>,
}

impl Stripped {
    fn new() -> Result<Self> {
        let folder = environment::root().join("target/vm/stripped");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder, used: std::cell::RefCell::default() })
    }

    fn of(&self, program: &Path) -> Result<PathBuf> {
        let copy = self.folder.join(program.file_name().unwrap_or_default());
        self.used.borrow_mut().insert(copy.clone());
        let changed = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
        if changed(&copy) < changed(program) || !copy.is_file() {
            shell::run(Command::new("strip").arg("--strip-all").arg("-o").arg(&copy).arg(program))?;
        }
        Ok(copy)
    }

    /// Removes the copies of what earlier builds built.
    fn remove_others(&self) -> Result<()> {
        let entries = fs::read_dir(&self.folder).with_context(|| format!("cannot read {}", self.folder.display()))?;
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| !self.used.borrow().contains(path)) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_one_line() {
        let job = Job {
            name: "demo".to_owned(),
            folder: "/t".into(),
            limit: Duration::from_secs(9),
            words: vec!["/bin/privnet".to_owned(), "demo".to_owned()],
        };
        assert_eq!(job.line(), "demo\t9\t/t\t/bin/privnet\tdemo");
    }
}
