//! A machine of its own to install packages on: a real systemd as process 1, and dpkg, over this machine's files.
//!
//! ```text
//!  this machine            namespaces: mount, network, pid, ipc, uts, cgroup
//! ┌───────────────┐       ┌─────────────────────────────────────────────────────┐
//! │ / ── read ────┼──────▶│ / (overlay: what is written goes to memory)         │
//! │               │       │ systemd ── units of the package, and journald       │
//! │ test ─nsenter─┼──────▶│ dpkg, systemctl, privnet, namespaces as containers  │
//! └───────────────┘       └─────────────────────────────────────────────────────┘
//! ```
//!
//! Nothing of it is on this machine: it goes with its process 1, and its cgroups are below one that goes with it.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::ground::Ground;
use super::say;
use super::wait::{SOON, holds_within};

/// The program, wherever `/lib` leads.
pub const PROGRAM: &str = "/lib/systemd/systemd";

/// Makes the machine in the folder that is the first argument, and becomes its systemd. No unit of this machine is started but
/// the journal.
const BOOT: &str = "\
set -e
mount -t tmpfs tmpfs \"$1\"
mkdir \"$1/upper\" \"$1/work\" \"$1/all\"
mount -t overlay -o \"lowerdir=/,upperdir=$1/upper,workdir=$1/work\" overlay \"$1/all\"
cd \"$1/all\"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --rbind /dev dev
rm -rf etc/systemd/system/* etc/systemd/network/* lib/systemd/system-generators/* lib/systemd/system/*.wants/*
rm -rf var/lib/privnet etc/privnet var/log/journal usr/sbin/policy-rc.d etc/dpkg/dpkg.cfg.d/*
ln -s ../systemd-journald.socket lib/systemd/system/sockets.target.wants/
ln -s /lib/systemd/system/multi-user.target etc/systemd/system/default.target
mkdir -p before
pivot_root . before
umount -l /before
exec env -i container=privnet-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd";

/// A running machine; dropping it ends it.
pub struct Machine {
    unshare: Child,
    /// Its systemd, as this machine counts processes.
    init: i32,
    cgroup: PathBuf,
    /// Last: the leak check must not come before the processes have ended.
    ground: Ground,
}

impl Machine {
    /// Boots one, and waits until its systemd has started what it starts.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn boot() -> Self {
        let ground = Ground::join();
        let root = ground.directory().join("root");
        fs::create_dir(&root).expect("a folder for its files");
        let cgroup = cgroups().join(ground.prefix().trim_end_matches('-'));
        fs::DirBuilder::new().mode(0o755).create(&cgroup).expect("a cgroup of its own");
        say("[machine] systemd");
        let mut command = Command::new("sh");
        let enter = "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"";
        command.args(["-c", enter, "sh"]).arg(&cgroup).args(["unshare", "--mount", "--net", "--pid", "--ipc", "--uts"]);
        command.args(["--cgroup", "--fork", "--kill-child", "--propagation", "private", "sh", "-c", BOOT, "sh"]);
        let log = fs::File::create(ground.directory().join("boot.log")).expect("its log");
        let unshare =
            command.arg(&root).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("sh starts");
        let mut machine = Self { unshare, init: 0, cgroup, ground };
        let is_up = holds_within(SOON, || {
            machine.init = machine.child().unwrap_or(0);
            machine.init != 0
                && machine.attempt("systemctl is-system-running | grep -E 'running|degraded'").status.success()
        });
        let said = || fs::read_to_string(machine.ground.directory().join("boot.log")).unwrap_or_default();
        assert!(is_up, "systemd does not run: {}\n{}", said(), text(&machine.attempt("systemctl --failed").stdout));
        machine
    }

    /// Runs a line of shell on it, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        say(&format!("[machine] {line}"));
        let output = self.attempt(line);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{line}: {}\n{stdout}{stderr}", output.status);
        stdout.trim_end().to_owned()
    }

    /// Runs a line of shell that may fail.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn attempt(&self, line: &str) -> Output {
        self.command(line).output().expect("nsenter starts")
    }

    /// A line of shell that runs on it.
    #[must_use]
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--all", "--root", "--wd", "--", "env", "-i"]);
        command.args([
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL=C.UTF-8",
            "HOME=/root",
        ]);
        command.args(["DEBIAN_FRONTEND=noninteractive", "sh", "-c", line]).stdin(Stdio::null());
        command
    }

    /// Where a path of the machine is for this process.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.init)).join(inside.trim_start_matches('/'))
    }

    /// The process that unshare started.
    fn child(&self) -> Option<i32> {
        let id = self.unshare.id();
        fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&text(
                &self
                    .attempt("journalctl --no-pager --lines 80 --unit 'privnet*'; systemctl --failed; dpkg -l privnet")
                    .stdout,
            ));
        }
        // The kernel ends all processes of a pid namespace with its first one, which is killed with unshare.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        if !holds_within(SOON, || remove_cgroup(&self.cgroup)) {
            say(&format!("the cgroup {} stays", self.cgroup.display()));
        }
    }
}

/// This process's cgroup of the second version.
fn cgroups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
    let mount = mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words.get(2) == Some(&"cgroup2")).then(|| words[1].to_owned())
    });
    let own = fs::read_to_string("/proc/self/cgroup").expect("its cgroups");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    Path::new(&mount.expect("cgroups of the second version are mounted")).join(own)
}

/// Removes a cgroup and those below it; whether they are gone.
fn remove_cgroup(path: &Path) -> bool {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // A cgroup is a folder that has files, and goes by rmdir.
    fs::remove_dir(path).is_ok() || !path.exists()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
