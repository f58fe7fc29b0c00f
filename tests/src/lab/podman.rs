//! A Podman on a host of the lab, with everything that it has in the lab's directory; its networks are CNI's.
//!
//! ```text
//!  host namespace h1
//! ┌────────────────────────────┐   conflists, plugins, storage: in the lab's directory
//! │ agent ◀── privnet-cni ◀── podman ──▶ conmon ──▶ runc ──▶ container: a pin in /run/netns
//! └────────────────────────────┘
//! ```
//!
//! Its pins are to be seen by the agent, so it has no mount namespace of its own: what CNI's library keeps in `/var/lib/cni`
//! goes with each container.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::cni::put_plugin;
use super::ground::Ground;
use super::host::Host;
use super::image::{self, IMAGE, which};
use super::{leak, say};

/// A Podman; dropping it ends its containers.
pub struct Podman {
    netns: std::path::PathBuf,
    /// Last: the leak check must not come before the containers have ended.
    ground: Ground,
}

/// Why there is no Podman here that has networks of CNI; nothing where there is one.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if ["podman", "conmon", "runc"].iter().any(|program| !super::has_program(program)) {
        return Some("Podman");
    }
    let version =
        Command::new("podman").arg("--version").output().map(|output| text(&output.stdout)).unwrap_or_default();
    (!version.contains(" 4.")).then_some("a Podman with CNI, which 4 is the last to have")
}

impl Podman {
    /// One in the namespace of a host.
    ///
    /// # Panics
    /// When its files cannot be written.
    #[must_use]
    pub fn beside(host: &Host) -> Self {
        let ground = Ground::join();
        let directory = ground.directory();
        for folder in ["net.d", "plugins", "storage", "run", "tmp"] {
            fs::create_dir_all(directory.join(folder)).expect("a directory");
        }
        put_plugin(&directory.join("plugins"));
        let path = directory.display();
        let configuration = format!(
            "[network]\nnetwork_backend=\"cni\"\ncni_plugin_dirs=[\"{path}/plugins\"]\nnetwork_config_dir=\"{path}/net.d\"\n\
             [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"none\"\nruntime=\"runc\"\nconmon_path=[\"{}\"]\n\
             [engine.runtimes]\nrunc=[\"{}\"]\n",
            which("conmon").display(),
            which("runc").display(),
        );
        fs::write(directory.join("containers.conf"), configuration).expect("written");
        let policy = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        fs::write(directory.join("policy.json"), policy).expect("written");
        Self { netns: host.space.path(), ground }
    }

    /// Writes the file of a network.
    ///
    /// # Panics
    /// When it cannot.
    pub fn put_network(&self, list: &Value) {
        let name = list["name"].as_str().expect("a name");
        let file = self.ground.directory().join("net.d").join(format!("{name}.conflist"));
        fs::write(file, list.to_string()).expect("written");
    }

    /// Makes the image [`IMAGE`] of programs of this machine.
    ///
    /// # Panics
    /// When it cannot be imported.
    pub fn import(&self, programs: &[(std::path::PathBuf, &str)]) {
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

    /// The line that starts a container.
    #[must_use]
    pub fn line_of_container(&self, name: &str, options: &str) -> String {
        let of_ground = self.ground.prefix();
        format!(
            "run -d --name {name} --cgroup-parent /{} --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 {options} {IMAGE} \
             busybox tail -f /dev/null /{of_ground}",
            self.cgroup(),
        )
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
        let mut command = Command::new("nsenter");
        let path = |name: &str| self.ground.directory().join(name);
        command.arg(format!("--net={}", self.netns.display())).args(["--", "podman", "--storage-driver", "vfs"]);
        command.arg("--root").arg(path("storage")).arg("--runroot").arg(path("run")).arg("--tmpdir").arg(path("tmp"));
        command.env("CONTAINERS_CONF", path("containers.conf")).stdin(Stdio::null());
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
