//! How the lab reaches an agent: through the command line, or through the library's door for the surfaces.

use std::fs::File;
use std::process::{Child, Stdio};
use std::sync::Arc;

use privnet::agent::config::{DEFAULT_MACHINE_ID, DEFAULT_OBSERVE_INTERVAL};
use privnet::agent::views::{
    Attach, Attached, CreateNetwork, Detach, Detached, MemberView, MembersQuery, NetworkPath, NetworkView, StatusView,
    Target,
};
use privnet::agent::{Agent, AgentApi as _, Config, Control, ControlError, NamesConfig};
use privnet::failpoint::VARIABLE;
use privnet::netns::{DEFAULT_DIR, Netns};
use privnet::store::Store;
use privnet::wireguard::OffloadChoice;
use rustix::process::Signal;
use tokio::runtime::Runtime;

use super::cli::binary;
use super::host::Shared;
use super::metrics::Counters;
use super::process;
use super::wait::holds_within;

/// How long an agent may take to end when it is asked to.
const GRACE: std::time::Duration = std::time::Duration::from_secs(10);

pub(crate) enum Driver {
    Process(Option<Child>),
    Library { store: Arc<dyn Store>, running: Option<(Runtime, Agent)> },
}

impl Driver {
    pub(crate) const fn process() -> Self {
        Self::Process(None)
    }

    pub(crate) fn library(store: &Arc<dyn Store>) -> Self {
        Self::Library { store: Arc::clone(store), running: None }
    }

    pub(crate) fn start(&mut self, host: &Shared) {
        match self {
            Self::Process(child) => *child = Some(spawn(host)),
            Self::Library { store, running } => *running = Some(start(host, Arc::clone(store))),
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        match self {
            Self::Process(Some(child)) => !matches!(child.try_wait(), Ok(None)),
            Self::Process(None) => true,
            Self::Library { running, .. } => running.is_none(),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        match self {
            Self::Process(Some(child)) => i32::try_from(child.id()).expect("a process id"),
            Self::Process(None) | Self::Library { .. } => panic!("the agent is no process of its own"),
        }
    }

    pub(crate) fn kill(&mut self) {
        match self {
            Self::Process(child) => {
                let mut child = child.take().expect("the agent runs");
                child.kill().expect("kill -9");
                child.wait().expect("the agent's end");
            }
            Self::Library { .. } => panic!("the agent is no process of its own"),
        }
    }

    pub(crate) fn stop(&mut self) {
        match self {
            Self::Process(child) => {
                let Some(mut child) = child.take() else { return };
                process::kill(i32::try_from(child.id()).expect("a process id"), Signal::TERM);
                if !holds_within(GRACE, || !matches!(child.try_wait(), Ok(None))) {
                    super::say("the agent did not end when it was asked to");
                    let _ = child.kill();
                }
                let _ = child.wait();
            }
            Self::Library { running, .. } => {
                if let Some((runtime, agent)) = running.take() {
                    drop(agent);
                    runtime.shutdown_timeout(GRACE);
                }
            }
        }
    }

    pub(crate) fn create_network(&self, host: &Shared, request: CreateNetwork) -> Result<NetworkView, ControlError> {
        if let Some((runtime, control)) = self.control() {
            return runtime.block_on(control.create_network(request));
        }
        let mut arguments = vec!["network", "create", &request.name];
        if let Some(subnet) = &request.subnet {
            arguments.extend(["--subnet", subnet]);
        }
        let mtu = request.mtu.map(|mtu| mtu.to_string());
        if let Some(mtu) = &mtu {
            arguments.extend(["--mtu", mtu]);
        }
        host.cli().json(&arguments)
    }

    pub(crate) fn networks(&self, host: &Shared) -> Result<Vec<NetworkView>, ControlError> {
        match self.control() {
            Some((runtime, control)) => runtime.block_on(control.networks()),
            None => host.cli().json(&["network", "list"]),
        }
    }

    pub(crate) fn delete_network(&self, host: &Shared, network: &str) -> Result<(), ControlError> {
        match self.control() {
            Some((runtime, control)) => {
                runtime.block_on(control.delete_network(NetworkPath { network: network.to_owned() })).map(drop)
            }
            None => host.cli().json::<serde_json::Value>(&["network", "delete", network]).map(drop),
        }
    }

    pub(crate) fn attach(&self, host: &Shared, request: Attach) -> Result<Attached, ControlError> {
        if let Some((runtime, control)) = self.control() {
            return runtime.block_on(control.attach(request));
        }
        let target = match &request.target {
            Target::Netns(path) => ["--netns".to_owned(), path.display().to_string()],
            Target::Pid(pid) => ["--pid".to_owned(), pid.to_string()],
        };
        let mut arguments = vec!["attach".to_owned()];
        arguments.extend(member(&request.network, &request.app, request.kind.as_deref(), request.number));
        if let Some(address) = request.address {
            arguments.extend(["--address".to_owned(), address.to_string()]);
        }
        arguments.extend(target);
        host.cli().json(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub(crate) fn detach(&self, host: &Shared, request: Detach) -> Result<Detached, ControlError> {
        if let Some((runtime, control)) = self.control() {
            return runtime.block_on(control.detach(request));
        }
        let mut arguments = vec!["detach".to_owned()];
        arguments.extend(member(&request.network, &request.app, request.kind.as_deref(), request.number));
        host.cli().json(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub(crate) fn members(&self, host: &Shared) -> Result<Vec<MemberView>, ControlError> {
        match self.control() {
            Some((runtime, control)) => runtime.block_on(control.members(MembersQuery::default())),
            None => host.cli().json(&["members"]),
        }
    }

    pub(crate) fn status(&self, host: &Shared) -> Result<StatusView, ControlError> {
        match self.control() {
            Some((runtime, control)) => runtime.block_on(control.status()),
            None => host.cli().json(&["status"]),
        }
    }

    pub(crate) fn counters(&self, host: &Shared) -> Counters {
        match self.control() {
            Some((runtime, control)) => {
                let networks = runtime.block_on(control.counters());
                Counters::of_rows(networks.iter().flat_map(|network| &network.rows))
            }
            None => Counters::of_text(&host.cli().text(&["metrics"])),
        }
    }

    fn control(&self) -> Option<(&Runtime, Control)> {
        match self {
            Self::Process(_) => None,
            Self::Library { running, .. } => {
                let (runtime, agent) = running.as_ref().expect("the agent runs");
                Some((runtime, agent.control()))
            }
        }
    }
}

fn member(network: &str, app: &str, kind: Option<&str>, number: Option<u32>) -> Vec<String> {
    let mut arguments: Vec<String> = ["--network", network, "--app", app].map(str::to_owned).to_vec();
    if let Some(kind) = kind {
        arguments.extend(["--type".to_owned(), kind.to_owned()]);
    }
    if let Some(number) = number {
        arguments.extend(["--number".to_owned(), number.to_string()]);
    }
    arguments
}

/// The command line of a host's agent.
pub(crate) fn agent_line(host: &Shared) -> String {
    let paths = &host.paths;
    let store = match &host.options.etcd {
        Some(url) => format!("--store etcd --etcd-endpoints {url}"),
        None => "--store embedded".to_owned(),
    };
    let login = host.options.etcd_password.as_ref();
    let login = login.map(|file| format!(" --etcd-user privnet --etcd-password-file {}", file.display()));
    let store = store + &login.unwrap_or_default();
    let observe = host
        .options
        .observe_interval
        .map(|interval| format!(" --observe-interval-seconds {}", interval.as_secs()))
        .unwrap_or_default();
    let docker =
        if host.options.docker { format!(" --docker-socket {}", paths.plugin.display()) } else { String::new() };
    let machine = host.options.machine_id.as_ref();
    let machine = machine.map(|file| format!(" --machine-id-file {}", file.display())).unwrap_or_default();
    let offload = if host.options.offload == OffloadChoice::Off { " --offload off" } else { "" };
    format!(
        "{binary} agent --host {name} --vtep {vtep} --state-dir {state} --socket {socket} {store} --datapath {datapath} \
         --wireguard {wireguard} --netns-prefix {prefix} --bpffs {bpffs}{observe}{machine}{docker}{offload}",
        binary = binary().display(),
        name = host.name,
        vtep = host.vtep,
        state = paths.state.display(),
        socket = paths.socket.display(),
        datapath = host.options.datapath,
        wireguard = host.options.wireguard,
        prefix = paths.prefix,
        bpffs = paths.bpffs.display(),
    )
}

fn spawn(host: &Shared) -> Child {
    let bounded = host.options.capabilities.map(|set| format!("setpriv --bounding-set={set} ")).unwrap_or_default();
    let line = bounded + &agent_line(host);
    super::say(&format!("[{}] {line}", host.name));
    let log = File::options().create(true).append(true).open(&host.paths.log).expect("the agent's log");
    let mut command = host.space.command(&line);
    if host.options.failpoints {
        command.env(VARIABLE, host.failpoints().file());
    }
    command.env("DOCKER_HOST", format!("unix://{}", host.paths.docker.display()));
    command.env("RUST_LOG", host.options.log).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("nsenter starts")
}

fn start(host: &Shared, store: Arc<dyn Store>) -> (Runtime, Agent) {
    let paths = &host.paths;
    let config = Config {
        host: host.name.parse().expect("a host name"),
        vtep: Some(host.vtep),
        host_netns: Netns::open(&host.space.path()).expect("the host's namespace"),
        netns_dir: DEFAULT_DIR.into(),
        netns_prefix: paths.prefix.clone(),
        bpffs_dir: paths.bpffs.clone(),
        state_dir: paths.state.clone(),
        datapath: host.options.datapath.parse().expect("a datapath"),
        wireguard: host.options.wireguard.parse().expect("a WireGuard"),
        offload: host.options.offload,
        wireguard_binary: binary(),
        names: Some(NamesConfig::new(binary())),
        observe_interval: host.options.observe_interval.unwrap_or(DEFAULT_OBSERVE_INTERVAL),
        machine_id_file: host.options.machine_id.clone().unwrap_or_else(|| DEFAULT_MACHINE_ID.into()),
        serves_alone: true,
    };
    let runtime = super::runtime();
    let agent = runtime.block_on(Agent::start(config, store)).expect("the agent starts");
    (runtime, agent)
}
