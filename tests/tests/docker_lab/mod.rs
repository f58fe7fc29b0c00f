//! One host with an agent and a dockerd, two networks of Docker's, and two members that Docker knows nothing of.

mod pings;
mod restarts;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use pings::Pings;
use privnet::agent::views::{Check, MemberView};
use privnet::model::MemberState;
use privnet_tests::lab::docker::IMAGE;
use privnet_tests::lab::{Docker, Host, Joined, Lab, Options, Space, say, wait_until};

/// Of the host's resolver, which does not answer.
const RESOLVER: &str = "192.168.77.1";
/// The type of the members that Docker knows nothing of.
const OBSERVER: &str = "observer";
/// A container whose first instruction looks for its own name.
const ASK: &str = "#!/bin/busybox sh\ngetent ahostsv4 web.always || echo nobody\nexec busybox tail -f /dev/null $1\n";

pub struct Scene {
    pub host: Host,
    pub docker: Docker,
    /// Nobody touches them: one asks, and the other one answers whatever is done to containers.
    observers: [Joined; 2],
    directory: std::path::PathBuf,
}

/// What `doctor` says of the agent, of the plugin and of Docker's containers.
pub struct Checks {
    pub agent: Check,
    pub plugin: Check,
    pub containers: Check,
}

impl Scene {
    pub fn set(lab: &Lab) -> Self {
        let host = lab.host(&Options::ebpf().with_docker());
        let docker = Docker::beside(&host, RESOLVER);
        let ask = lab.directory().join("ask");
        fs::write(&ask, ASK).expect("written");
        fs::set_permissions(&ask, fs::Permissions::from_mode(0o755)).expect("made executable");
        docker.import(&[Docker::tools(), vec![(ask, "/bin/ask")]].concat());
        docker.run("network create -d privnet --ipam-driver null -o network=shop shop");
        // Without an option it bears Docker's name.
        docker.run("network create -d privnet --ipam-driver null bank");
        let networks = host.networks().expect("the networks");
        let shop = networks.into_iter().find(|network| network.name.as_str() == "shop").expect("it is made");
        let observers = [1, 2].map(|number| lab.member(&host, &shop, &format!("{OBSERVER}-{number}")));
        Self { host, docker, observers, directory: lab.directory().to_owned() }
    }

    /// Numbered questions to a container, by an observer.
    pub fn pings(&self, to: Ipv4Addr) -> Pings {
        Pings::start(&self.observers[0].app, to, &self.directory)
    }

    /// Numbered questions that no container is concerned with.
    pub fn steady(&self) -> Pings {
        self.pings(self.observers[1].address())
    }

    pub fn member(&self, app: &str) -> MemberView {
        let is_it = |member: &MemberView| {
            member.member.app_name.as_ref().is_some_and(|name| name.as_str() == app)
                && member.network_name.as_str() == "shop"
        };
        let members = self.host.members().expect("the members");
        members.into_iter().find(is_it).unwrap_or_else(|| panic!("no member of {app}"))
    }

    /// Waits until these are all members of Docker's, and all are ready: their networks and names.
    pub fn wait_until_members(&self, expected: &[&str]) {
        wait_until(format!("the members are {expected:?}"), || {
            let mut members = self.host.members().expect("the members");
            let is_ready = members.iter().all(|member| member.state == MemberState::Ready && member.names.len() == 1);
            members.retain(|member| *member.member.kind.as_str() != *OBSERVER);
            let text = |member: &MemberView| {
                let name = &member.member;
                let app = name.app_name.as_ref().map_or_else(|| name.app.to_string(), ToString::to_string);
                format!("{} {}.{}.{app}", member.network_name, name.number, name.kind)
            };
            let mut seen = members.iter().map(text).collect::<Vec<_>>();
            seen.sort();
            is_ready && seen == expected
        });
    }

    pub fn assert_reaches(&self, container: &str, address: &str) {
        let ping = format!("exec {container} busybox ping -q -c 1 -W 1 {address}");
        wait_until(format!("{container} reaches {address}"), || self.docker.attempt(&ping).status.success());
    }

    pub fn wait_until_found(&self, container: &str, name: &str, address: &str) {
        let ask = format!("exec {container} getent ahostsv4 {name}");
        wait_until(format!("{container} finds {name}"), || {
            String::from_utf8_lossy(&self.docker.attempt(&ask).stdout).starts_with(&format!("{address} "))
        });
    }

    pub fn inside(&self, container: &str, line: &str) -> String {
        self.docker.run(&format!("exec {container} {line}"))
    }

    /// Whether a container's namespace is there before its process.
    pub fn makes_the_namespace_first(&self) -> bool {
        let version = self.docker.run("version --format {{.Server.Version}}");
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        let is_first = major.is_some_and(|major| major >= 28);
        if !is_first {
            say(&format!("Docker {version} makes the namespace with the process"));
        }
        is_first
    }

    /// What `doctor` says.
    pub fn checks(&self) -> Checks {
        let plugin = self.host.paths().plugin.display().to_string();
        let cli = self.host.cli().with("DOCKER_HOST", self.docker.host());
        let output = cli.output(&["doctor", "--docker-socket", &plugin, "-o", "json"]);
        let checks: Vec<Check> = serde_json::from_slice(&output.stdout).expect("checks");
        let [agent, plugin, containers] = ["agent", "docker_plugin", "docker_containers"].map(|name| {
            let found = checks.iter().find(|check| check.check == name);
            found.unwrap_or_else(|| panic!("no {name} in {checks:?}")).clone()
        });
        say(&format!("{agent:?}\n{plugin:?}\n{containers:?}"));
        Checks { agent, plugin, containers }
    }

    /// Waits until the agent looks for no container through the mounts of a dockerd that may end.
    fn wait_until_found_without_dockerd(&self) {
        let members = self.host.paths().state.join("members");
        let through_dockerd = |path: &Path| {
            let text = fs::read(path).unwrap_or_default();
            let record: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            record["netns_path"].as_str().is_some_and(|path| path.starts_with("/proc/") && !path.ends_with("/ns/net"))
        };
        wait_until("each container is found at its own process", || {
            let files = fs::read_dir(&members).expect("listed").filter_map(Result::ok);
            !files.map(|file| file.path()).any(|path| through_dockerd(&path))
        });
    }

    /// The namespace of a container, by a name of the lab's that is to be removed before the container ends.
    fn space(&self, container: &str) -> Space {
        let pin = self.docker.pin(container);
        self.host.space.run(&format!("ip netns attach {pin} {}", self.pid(container)));
        Space::of_pin(container, &pin)
    }

    pub fn pid(&self, container: &str) -> String {
        self.docker.inspect(container, ".State.Pid")
    }

    /// Kills the first process of a container, as a crash would.
    fn kill_process(&self, container: &str) {
        self.host.space.run(&format!("kill -9 {}", self.pid(container)));
    }

    /// The command line that starts a container whose first instruction looks for its own name.
    fn asking(&self, name: &str, options: &str) -> String {
        format!("run -d --stop-timeout 1 --name {name} {options} {IMAGE} ask /{}", self.docker.pin(name))
    }
}
