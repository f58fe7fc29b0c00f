//! A Docker of its own on a host of the lab: a real dockerd, with everything that it has in the lab's directory.
//!
//! ```text
//!  host namespace h1                                a mount namespace of its own
//! ┌──────────────────────────────────────┐         ┌────────────────────────────────────────────────────┐
//! │ agent        br-… (Docker's network) │ dockerd │ /run, /opt: empty; /etc: a copy that is written to │
//! │ eth0          ╚═ eth0 of containers  │         │ data, sockets: in the lab's directory              │
//! └──────────────────────────────────────┘         └────────────────────────────────────────────────────┘
//! ```
//!
//! It writes no rule of netfilter outside of its containers, and its containers' cgroups are below one that goes with it.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use rustix::process::Signal;

use super::ground::Ground;
use super::host::Host;
pub use super::image::IMAGE;
use super::image::{self, which};
use super::space::Space;
use super::wait::{SOON, holds_within};
use super::{has_program, leak, process, run, say};

/// What dockerd needs around it: `/run` and `/opt` are empty, what it writes below `/etc` goes nowhere, the resolver of
/// this host is the first argument, and the socket of the plugin the second. Then it is the rest of the arguments.
const AROUND: &str = "\
    mount -t tmpfs tmpfs /run && mkdir /run/upper /run/work && \
    mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work overlay /etc && \
    mount -t tmpfs tmpfs /opt && \
    echo nameserver $1 > /run/resolv.conf && mount --bind /run/resolv.conf /etc/resolv.conf && \
    mkdir -p /etc/docker/plugins && echo unix://$2 > /etc/docker/plugins/privnet.spec && \
    shift 2 && exec \"$@\"";

/// A running dockerd; dropping it ends it and its containers.
pub struct Docker {
    daemon: Child,
    line: String,
    space: Space,
    /// The mount namespace, in which the containers find what they write.
    mounts: File,
    /// The network namespace, which may be another one than the host's.
    netns: File,
    socket: PathBuf,
    /// Last: the leak check must not come before the processes have ended.
    ground: Ground,
}

impl Docker {
    /// Starts one in the namespace of a host whose resolver is at `resolver`, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn start(space: &Space, resolver: &str) -> Self {
        let ground = Ground::join();
        let socket = ground.directory().join("docker.sock");
        Self::start_at(ground, socket, "--mount", (space, resolver), Path::new("/nonexistent"))
    }

    /// Starts one whose networks of the driver `privnet` are the agent's of the host, see [`super::Options::with_docker`].
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    #[track_caller]
    pub fn beside(host: &Host, resolver: &str) -> Self {
        let paths = host.paths();
        Self::start_at(Ground::join(), paths.docker.clone(), "--mount", (&host.space, resolver), &paths.plugin)
    }

    /// As [`Self::beside`], in a network namespace of its own, as a Docker that runs in a container.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    #[track_caller]
    pub fn apart(host: &Host, resolver: &str) -> Self {
        let paths = host.paths();
        let own = "--mount --net";
        Self::start_at(Ground::join(), paths.docker.clone(), own, (&host.space, resolver), &paths.plugin)
    }

    #[track_caller]
    fn start_at(ground: Ground, socket: PathBuf, own: &str, (space, resolver): (&Space, &str), plugin: &Path) -> Self {
        let path = |name: &str| ground.directory().join(name);
        let log = File::create(path("dockerd.log")).expect("its log");
        let line = format!(
            "dockerd --data-root {} --exec-root {} --pidfile {} --host unix://{} --cgroup-parent /{} --bridge none \
             --iptables=false --ip-masq=false --userland-proxy=false --exec-opt native.cgroupdriver=cgroupfs",
            path("data").display(),
            path("exec").display(),
            path("pid").display(),
            socket.display(),
            cgroup(&ground),
        );
        say(&format!("[docker] {line}"));
        let mut command = space.command(&format!("unshare {own} --propagation private sh -c"));
        command.args([AROUND, "sh", resolver]).arg(plugin).args(line.split_whitespace());
        let daemon = command.stdout(Stdio::null()).stderr(log).spawn().expect("nsenter starts");
        let space = space.clone();
        let [mounts, netns] =
            ["mnt", "net"].map(|kind| File::open(format!("/proc/self/ns/{kind}")).expect("the test's"));
        let mut docker = Self { daemon, line, space, mounts, netns, socket, ground };
        docker.wait_until_it_answers();
        let own = |kind| File::open(format!("/proc/{}/ns/{kind}", docker.daemon.id())).expect("dockerd's own");
        (docker.mounts, docker.netns) = (own("mnt"), own("net"));
        docker
    }

    #[track_caller]
    fn wait_until_it_answers(&mut self) {
        holds_within(SOON, || self.has_ended() || self.attempt("version").status.success());
        let log = || std::fs::read_to_string(path_of_log(&self.ground)).unwrap_or_default();
        assert!(self.attempt("version").status.success(), "dockerd does not answer:\n{}", log());
    }

    /// Sends dockerd a signal of which it ends, and waits for that. Its containers' processes are others.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn end_daemon(&mut self, signal: Signal) {
        say(&format!("[docker] {signal:?}"));
        process::kill(i32::try_from(self.daemon.id()).expect("a process id"), signal);
        assert!(holds_within(SOON, || self.has_ended()), "dockerd does not end");
    }

    /// Starts the next dockerd, with these options more, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start_daemon(&mut self, options: &str) {
        let begun = Instant::now();
        say(&format!("[docker] the next dockerd {options}"));
        // Its containerd has ended with dockerd, and dockerd would wait for it until init has reaped it.
        let _ = std::fs::remove_file(self.ground.directory().join("exec/containerd/containerd.pid"));
        let log = File::options().append(true).open(path_of_log(&self.ground)).expect("its log");
        let of = |file: &File| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let enter = format!("nsenter --mount={} --net={}", of(&self.mounts), of(&self.netns));
        let mut command = self.space.command(&format!("{enter} {} {options}", self.line));
        self.daemon = command.stdout(Stdio::null()).stderr(log).spawn().expect("nsenter starts");
        self.wait_until_it_answers();
        say(&format!("figure: the next dockerd answered after {:?}", begun.elapsed()));
    }

    /// What a test may pin the namespace of a container as.
    #[must_use]
    pub fn pin(&self, container: &str) -> String {
        format!("{}{container}", self.ground.prefix())
    }

    /// The process id of dockerd.
    #[must_use]
    pub fn daemon(&self) -> u32 {
        self.daemon.id()
    }

    /// Where `DOCKER_HOST` leads to it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Runs the command line of Docker, words parted by blanks, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let output = self.attempt(line);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "docker {line}: {stdout}{stderr}");
        stdout.trim_end().to_owned()
    }

    /// Runs the command line of Docker, which may fail.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn attempt(&self, line: &str) -> Output {
        say(&format!("[docker] {line}"));
        self.command().args(line.split_whitespace()).output().expect("docker starts")
    }

    /// Starts a command line of Docker that may fail, and does not wait for it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn begin(&self, line: &str) -> Child {
        say(&format!("[docker] {line} &"));
        let mut command = self.command();
        command.args(line.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("docker starts")
    }

    /// Whether there is a Compose 2.
    #[must_use]
    pub fn has_compose() -> bool {
        has_program("docker-compose") && run("docker-compose version --short").starts_with('2')
    }

    /// Runs Compose on a file, with variables for it.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn compose(&self, file: &Path, line: &str, variables: &[(&str, &str)]) {
        say(&format!("[docker] compose {line}"));
        let mut command = self.configured("docker-compose");
        command.arg("--file").arg(file).args(line.split_whitespace()).envs(variables.iter().copied());
        let output = command.output().expect("docker-compose starts");
        assert!(output.status.success(), "docker-compose {line}: {}", text(&output.stderr));
    }

    /// Runs a shell's script in a container, and returns what it printed, on standard error too; its last command may fail.
    ///
    /// # Panics
    /// When docker cannot be started.
    #[must_use]
    #[track_caller]
    pub fn script(&self, container: &str, script: &str) -> String {
        say(&format!("[{container}] {script}"));
        let output = self.command().args(["exec", container, "busybox", "sh", "-c", script]).output();
        let output = output.expect("docker starts");
        text(&output.stdout) + &text(&output.stderr)
    }

    /// What most images are made of: programs of this machine that look around and ask for names.
    #[must_use]
    pub fn tools() -> Vec<(PathBuf, &'static str)> {
        vec![(which("busybox"), "/bin/busybox"), (which("getent"), "/bin/getent")]
    }

    /// Makes the image [`IMAGE`] of programs of this machine: files, and where they are in the image.
    ///
    /// # Panics
    /// When a program is not there.
    pub fn import(&self, programs: &[(PathBuf, &str)]) {
        let mut tar = image::pack(&self.ground.directory().join("root"), programs);
        let archive = tar.stdout.take().expect("its output");
        let imported = self.command().args(["import", "-", IMAGE]).stdin(archive).stdout(Stdio::null()).status();
        assert!(imported.expect("docker starts").success(), "the image is imported");
        assert!(tar.wait().expect("tar ends").success(), "the image is packed");
    }

    /// Starts a container that does nothing until it is killed.
    #[track_caller]
    pub fn start_container(&self, name: &str, options: &str) {
        self.run(&format!("run -d {}", self.container(name, options)));
    }

    /// The rest of the command line that makes such a container. It names the ground, as the leak check wants it.
    #[must_use]
    pub fn container(&self, name: &str, options: &str) -> String {
        let of_ground = self.ground.prefix();
        format!("--stop-timeout 1 --name {name} {options} {IMAGE} busybox tail -f /dev/null /{of_ground}")
    }

    /// What `docker inspect` says of a container.
    #[must_use]
    #[track_caller]
    pub fn inspect(&self, name: &str, format: &str) -> String {
        self.run(&format!("inspect --format {{{{{format}}}}} {name}"))
    }

    fn command(&self) -> Command {
        self.configured("docker")
    }

    fn configured(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // The settings of the person who runs the tests are not the tests'.
        command.env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.ground.directory().join("config"));
        command.stdin(Stdio::null());
        command
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.daemon.try_wait(), Ok(None))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let containers = text(&self.attempt("ps --all --quiet").stdout);
        if !containers.is_empty() {
            self.attempt(&format!("rm --force {}", containers.replace('\n', " ")));
        }
        if let Ok(pid) = i32::try_from(self.daemon.id()) {
            process::kill(pid, Signal::TERM);
        }
        if !holds_within(SOON, || self.has_ended()) {
            self.ground.blame(vec!["dockerd, which did not end when it was asked to".to_owned()]);
            let _ = self.daemon.kill();
        }
        let _ = self.daemon.wait();
        self.ground.blame(leak::remove_cgroups(&cgroup(&self.ground)));
    }
}

fn path_of_log(ground: &Ground) -> PathBuf {
    ground.directory().join("dockerd.log")
}

fn cgroup(ground: &Ground) -> String {
    format!("{}docker", ground.prefix())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
