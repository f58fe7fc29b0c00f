//! A Podman on a host of the lab, with everything that it has in the lab's directory; its networks are CNI's or netavark's.
//!
//! ```text
//!  host namespace h1
//! ┌────────────────────────────┐   networks, plugins, storage: in the lab's directory
//! │ agent ◀── plugin ◀── podman ──▶ conmon ──▶ runc ──▶ container: a pin in /run/netns
//! └────────────────────────────┘
//! ```
//!
//! Its pins are to be seen by the agent, so it has no mount namespace of its own: what CNI's library keeps in `/var/lib/cni`
//! goes with each container.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::cli::binary;
use super::cni::{PLUGIN, put_plugin};
use super::ground::Ground;
use super::host::Host;
use super::image::{self, IMAGE, which};
use super::{leak, say};

/// The variable that names a folder with a Podman of 4.5 or later: `podman` and `netavark`, and a `conmon` unless this
/// machine's is to do.
const FOLDER: &str = "PRIVNET_TEST_PODMAN";
/// The command of this Podman, as a person has it: in the host's namespace, with storage and configuration of its own, and
/// containers whose cgroups go with the lab. (The machine's limits may be lower than those that Podman gives by itself.)
const COMMAND: &str = r#"#!/bin/sh
export CONTAINERS_CONF=@directory@/containers.conf PODMAN_IGNORE_CGROUPSV1_WARNING=1
case $1 in
run) shift; set -- run --cgroup-parent /@cgroup@ --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "$@" ;;
esac
exec nsenter --net=@netns@ -- @podman@ --storage-driver vfs --root @directory@/storage --runroot @directory@/run \
    --tmpdir @directory@/tmp "$@"
"#;

/// What makes the networks of a Podman.
#[derive(Clone, Debug)]
pub enum Backend {
    /// Plugins of CNI, with the Podman of this machine.
    Cni,
    /// Netavark, with the Podman in this folder.
    Netavark(PathBuf),
}

/// A Podman; dropping it ends its containers.
pub struct Podman {
    /// Last: the leak check must not come before the containers have ended.
    ground: Ground,
}

impl Backend {
    /// That of the Podman of this machine.
    ///
    /// # Errors
    /// What is missing.
    pub fn cni() -> Result<Self, &'static str> {
        if ["podman", "conmon", "runc"].iter().any(|program| !super::has_program(program)) {
            return Err("Podman");
        }
        let version =
            Command::new("podman").arg("--version").output().map(|output| text(&output.stdout)).unwrap_or_default();
        version.contains(" 4.").then_some(Self::Cni).ok_or("a Podman with CNI, which 4 is the last to have")
    }

    /// That of the Podman that the variable names.
    ///
    /// # Errors
    /// What is missing: no folder is named, or a program that this machine is to have.
    pub fn netavark() -> Result<Self, &'static str> {
        if !super::has_program("runc") {
            return Err("runc");
        }
        let folder = std::env::var_os(FOLDER).filter(|folder| !folder.is_empty());
        folder.map(|folder| Self::Netavark(folder.into())).ok_or("Podman with netavark")
    }

    fn program(&self, name: &str) -> PathBuf {
        match self {
            Self::Cni => which(name),
            Self::Netavark(folder) => {
                Some(folder.join(name)).filter(|file| file.exists()).unwrap_or_else(|| which(name))
            }
        }
    }

    /// Puts the plugin under test into a directory, as a package does, and returns the part of `containers.conf`.
    fn configure(&self, directory: &Path, socket: &Path) -> String {
        let path = directory.display();
        let conmon = self.program("conmon");
        let engine = format!(
            "cgroup_manager=\"cgroupfs\"\nevents_logger=\"none\"\nruntime=\"runc\"\nconmon_path=[\"{}\"]\n",
            conmon.display()
        );
        let runtimes = format!("[engine.runtimes]\nrunc=[\"{}\"]\n", which("runc").display());
        match self {
            Self::Cni => {
                put_plugin(&directory.join("plugins"));
                format!(
                    "[network]\nnetwork_backend=\"cni\"\ncni_plugin_dirs=[\"{path}/plugins\"]\n\
                     network_config_dir=\"{path}/net.d\"\n[engine]\n{engine}{runtimes}"
                )
            }
            Self::Netavark(folder) => {
                let plugins = directory.join("netavark");
                fs::create_dir_all(&plugins).expect("a directory");
                symlink(binary(), plugins.join("privnet")).expect("the link that a package has");
                // It writes no rule of netfilter, and its parts may be where a package has them.
                format!(
                    "[network]\nnetwork_backend=\"netavark\"\nfirewall_driver=\"none\"\n\
                     netavark_plugin_dirs=[\"{path}/netavark\"]\nnetwork_config_dir=\"{path}/net.d\"\n\
                     [engine]\nenv=[\"PRIVNET_SOCKET={}\"]\n\
                     helper_binaries_dir=[\"{}\", \"/usr/lib/podman\", \"/usr/libexec/podman\"]\n{engine}{runtimes}",
                    socket.display(),
                    folder.display(),
                )
            }
        }
    }
}

impl Podman {
    /// One in the namespace of a host.
    ///
    /// # Panics
    /// When its files cannot be written.
    #[must_use]
    pub fn beside(host: &Host, backend: &Backend) -> Self {
        let ground = Ground::join();
        let directory = ground.directory();
        for folder in ["net.d", "plugins", "storage", "run", "tmp", "bin"] {
            fs::create_dir_all(directory.join(folder)).expect("a directory");
        }
        let configuration = backend.configure(directory, &host.paths().socket);
        fs::write(directory.join("containers.conf"), configuration).expect("written");
        let policy = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        fs::write(directory.join("policy.json"), policy).expect("written");
        let podman = Self { ground };
        let command = COMMAND
            .replace("@directory@", &podman.ground.directory().display().to_string())
            .replace("@cgroup@", &podman.cgroup())
            .replace("@netns@", &host.space.path().display().to_string())
            .replace("@podman@", &backend.program("podman").display().to_string());
        let file = podman.commands().join("podman");
        fs::write(&file, command).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("made executable");
        podman
    }

    /// The folder that has it as the command `podman`, for a `PATH`.
    #[must_use]
    pub fn commands(&self) -> PathBuf {
        self.ground.directory().join("bin")
    }

    /// Writes the file of a network.
    ///
    /// # Panics
    /// When it cannot.
    fn put_network(&self, list: &Value) {
        let name = list["name"].as_str().expect("a name");
        let file = self.ground.directory().join("net.d").join(format!("{name}.conflist"));
        fs::write(file, list.to_string()).expect("written");
    }

    /// Makes a network of privnet's, by Podman or, with CNI, by a file.
    ///
    /// # Panics
    /// When it cannot.
    pub fn create_network(&self, host: &Host, backend: &Backend, name: &str) {
        match backend {
            Backend::Cni => {
                let plugin = json!({ "type": PLUGIN, "privnet": { "socket": host.paths().socket } });
                self.put_network(&json!({ "cniVersion": "1.0.0", "name": name, "plugins": [plugin] }));
            }
            Backend::Netavark(_) => drop(self.run(&format!("network create -d privnet {name}"))),
        }
    }

    /// Makes the image [`IMAGE`] of programs of this machine.
    ///
    /// # Panics
    /// When it cannot be imported.
    pub fn import(&self, programs: &[(PathBuf, &str)]) {
        let mut tar = image::pack(&self.ground.directory().join("root"), programs);
        let archive = tar.stdout.take().expect("its output");
        let policy = self.ground.directory().join("policy.json");
        let mut import = self.command();
        import.args(["import", "--quiet", "--signature-policy"]).arg(policy).args(["-", IMAGE]);
        let imported = import.stdin(archive).stdout(Stdio::null()).status();
        assert!(imported.expect("podman starts").success(), "the image is imported");
        assert!(tar.wait().expect("tar ends").success(), "the image is packed");
    }

    /// Starts a container that does nothing until it is killed. Its command line names the ground, as the leak check wants it.
    #[track_caller]
    pub fn start_container(&self, name: &str, options: &str) {
        self.run(&self.line_of_container(name, options));
    }

    /// The line that starts a container, which may ping: Podman 5 lets it only when it is asked to.
    #[must_use]
    pub fn line_of_container(&self, name: &str, options: &str) -> String {
        let of_ground = self.ground.prefix();
        format!("run -d --name {name} --cap-add NET_RAW {options} {IMAGE} busybox tail -f /dev/null /{of_ground}")
    }

    /// Runs Podman, words parted by blanks, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let output = self.attempt(line);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "podman {line}: {stdout}{stderr}");
        stdout.trim_end().to_owned()
    }

    /// Runs Podman, which may fail.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn attempt(&self, line: &str) -> Output {
        say(&format!("[podman] {line}"));
        self.command().args(line.split_whitespace()).output().expect("podman starts")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.commands().join("podman"));
        command.stdin(Stdio::null());
        command
    }

    fn cgroup(&self) -> String {
        format!("{}podman", self.ground.prefix())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.attempt("rm --all --force --time 0");
        self.ground.blame(leak::remove_cgroups(&self.cgroup()));
        // Empty by now, unless another Podman of this machine has something there.
        for folder in ["/var/lib/cni/results", "/var/lib/cni"] {
            let _ = fs::remove_dir(Path::new(folder));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
