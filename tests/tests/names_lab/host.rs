//! An agent with members and names, in a namespace that it takes for its host's.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use privnet::agent::config::{DEFAULT_MACHINE_ID, DEFAULT_OBSERVE_INTERVAL};
use privnet::agent::views::{
    Attach, Attached, CreateNetwork, Detach, Detached, MemberView, MembersQuery, ProblemView, ResolvConfFile, Target,
};
use privnet::agent::{Agent, AgentApi as _, Config, Control, DatapathChoice, NamesConfig};
use privnet::dns::DnsProcess;
use privnet::model::NameOptions;
use privnet::netns::{DEFAULT_DIR, Netns};
use privnet::store::{Memory, Store};
use privnet::topology::Datapath;
use privnet::wireguard::{Choice, OffloadChoice};

use privnet_tests::lab::wait::holds_within;
use privnet_tests::lab::{SOON, Space, detach_request, runtime, underlay_address};

use super::{APP, Container, Lab, stop_all};

/// An agent on a kernel of its own, as far as it can tell. Dropped, it detaches the members that it has still.
pub struct Host {
    agent: Option<Agent>,
    space: Space,
    name: &'static str,
    vtep: Ipv4Addr,
    /// What the DNS process is started from.
    pub dns_binary: PathBuf,
    /// The host's own `resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The truth of several hosts; a host alone keeps its own.
    store: Option<Arc<dyn Store>>,
    bpffs: PathBuf,
    pub lab: Lab,
}

impl Host {
    pub async fn start() -> Self {
        let lab = Lab::new();
        let space = lab.ground.space("host");
        let mut host = Self::prepare(lab, space, "one", Ipv4Addr::LOCALHOST, None);
        host.restart().await;
        host
    }

    /// Two hosts with an underlay between them, that share one store in memory.
    pub async fn start_two() -> [Self; 2] {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let lab = Lab::new();
        let spaces: [Space; 2] = lab.ground.underlay(2, 1500).try_into().expect("two");
        let [one, two] = spaces;
        let one = Self::prepare(lab, one, "one", underlay_address(1), Some(Arc::clone(&store)));
        let two = Self::prepare(Lab::new(), two, "two", underlay_address(2), Some(store));
        let mut hosts = [one, two];
        for host in &mut hosts {
            host.restart().await;
        }
        hosts
    }

    fn prepare(lab: Lab, space: Space, name: &'static str, vtep: Ipv4Addr, store: Option<Arc<dyn Store>>) -> Self {
        let dns_binary = env!("CARGO_BIN_EXE_dns_process").into();
        let resolv_conf = lab.ground.directory().join("host.resolv.conf");
        Self { agent: None, space, name, vtep, dns_binary, resolv_conf, store, bpffs: lab.ground.pin_dir(), lab }
    }

    /// An agent whose truth the test can reach, as an agent that died in the middle of something would leave it.
    pub async fn start_on(store: Arc<dyn Store>) -> Self {
        let lab = Lab::new();
        let space = lab.ground.space("host");
        let mut host = Self::prepare(lab, space, "one", Ipv4Addr::LOCALHOST, Some(store));
        host.restart().await;
        host
    }

    pub fn state(&self) -> PathBuf {
        self.lab.ground.directory().join("state")
    }

    /// What the agent's namespaces begin with.
    fn prefix(&self) -> String {
        format!("{}{}-", self.lab.ground.prefix(), self.name)
    }

    pub fn process(&self) -> DnsProcess {
        DnsProcess::new(&self.state().join("dns-0"))
    }

    /// Ends the agent, as abruptly as a drop can.
    pub fn stop(&mut self) {
        drop(self.agent.take());
    }

    /// Ends the agent, and starts the next one.
    pub async fn restart(&mut self) {
        self.stop();
        let config = Config {
            host: self.name.parse().expect("a name"),
            vtep: Some(self.vtep),
            host_netns: Netns::open(&self.space.path()).expect("the host's namespace"),
            netns_dir: DEFAULT_DIR.into(),
            netns_prefix: self.prefix(),
            bpffs_dir: self.bpffs.clone(),
            state_dir: self.state(),
            // The carrier is not what is tested here.
            datapath: DatapathChoice::Only(Datapath::Bridge),
            wireguard: Choice::Userspace,
            offload: OffloadChoice::Auto,
            wireguard_binary: env!("CARGO_BIN_EXE_wireguard_process").into(),
            names: Some(self.names()),
            observe_interval: DEFAULT_OBSERVE_INTERVAL,
            machine_id_file: DEFAULT_MACHINE_ID.into(),
            serves_alone: true,
        };
        // The store and the lock of the one before go with its last task.
        let start = Instant::now();
        loop {
            let started = match &self.store {
                Some(store) => Agent::start(config.clone(), Arc::clone(store)).await,
                None => Agent::start_embedded(config.clone()).await,
            };
            match started {
                Ok(agent) => {
                    self.agent = Some(agent);
                    return;
                }
                Err(error) => assert!(start.elapsed() < SOON, "the agent does not start: {error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn names(&self) -> NamesConfig {
        let mut names = NamesConfig::new(self.dns_binary.clone());
        names.process.resolv_conf.clone_from(&self.resolv_conf);
        names
    }

    pub fn control(&self) -> Control {
        self.agent.as_ref().expect("it runs").control()
    }

    pub async fn network(&self, name: &str) {
        self.create(name, None).await;
    }

    pub async fn network_with_ttl(&self, name: &str, ttl_seconds: u32) {
        self.create(name, Some(NameOptions { ttl_seconds, ..NameOptions::default() })).await;
    }

    async fn create(&self, name: &str, names: Option<NameOptions>) {
        let request = CreateNetwork { name: name.to_owned(), subnet: None, mtu: None, names };
        self.control().create_network(request).await.expect("created");
    }

    pub async fn attach(&self, container: &Container, network: &str, kind: &str) -> Attached {
        self.attach_at(container, network, kind, None).await
    }

    /// Attaches as root does with `--resolv-conf`.
    pub async fn attach_with(&self, container: &Container, network: &str, kind: &str, file: &Path) -> Attached {
        let resolv_conf = Some(ResolvConfFile { path: file.to_owned(), by_caller: false, before: None });
        let request = Attach { resolv_conf, ..request(container, network, kind, None) };
        self.control().attach(request).await.expect("attached")
    }

    pub async fn attach_at(
        &self,
        container: &Container,
        network: &str,
        kind: &str,
        address: Option<Ipv4Addr>,
    ) -> Attached {
        self.control().attach(request(container, network, kind, address)).await.expect("attached")
    }

    pub async fn detach(&self, network: &str, kind: &str) {
        assert_eq!(self.detach_with_problems(network, kind).await, []);
    }

    /// Detaches, and returns what the agent left.
    pub async fn detach_with_problems(&self, network: &str, kind: &str) -> Vec<ProblemView> {
        let request = Detach {
            network: network.to_owned(),
            app: APP.to_owned(),
            kind: Some(kind.to_owned()),
            number: None,
            drain: false,
            force: false,
        };
        let Detached { detached, problems } = self.control().detach(request).await.expect("detached");
        assert!(detached);
        problems
    }
}

fn request(container: &Container, network: &str, kind: &str, address: Option<Ipv4Addr>) -> Attach {
    Attach {
        network: network.to_owned(),
        app: APP.to_owned(),
        kind: Some(kind.to_owned()),
        number: None,
        address,
        target: Target::Netns(container.path.clone()),
        ports: vec!["http=8080".to_owned()],
        resolv_conf: None,
        attachment: None,
    }
}

/// A file with this content, in a directory of its own without a link in its path.
pub fn file(host: &Host, name: &str, content: Option<&str>) -> PathBuf {
    let directory = host.lab.ground.directory().canonicalize().expect("there").join(name);
    fs::create_dir_all(&directory).expect("made");
    let path = directory.join("resolv.conf");
    if let Some(content) = content {
        fs::write(&path, content).expect("written");
    }
    path
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take().filter(|_| !std::thread::panicking()) {
            let (control, name, prefix) = (agent.control(), self.name, self.prefix());
            // On a thread of its own: the test itself is inside a runtime.
            let detach = move || {
                let left = runtime().block_on(detach_all(&control, name));
                let pins = || Netns::list(DEFAULT_DIR.as_ref()).expect("the pinned namespaces");
                // What remains then, the leak check finds.
                holds_within(SOON, || pins().iter().all(|pin| !pin.name.starts_with(&prefix)));
                left
            };
            let left = std::thread::scope(|scope| scope.spawn(detach).join());
            self.lab.ground.blame(left.unwrap_or_else(|_| vec!["members, since detaching panicked".to_owned()]));
        }
        stop_all(["dns-0", "dns-1"].map(|name| self.state().join(name)).into_iter());
    }
}

/// Ends every membership of a host, and says what could not be.
async fn detach_all(control: &Control, host: &str) -> Vec<String> {
    let mut left = Vec::new();
    for member in control.members(MembersQuery::default()).await.expect("the members") {
        if *member.host.as_str() != *host {
            continue;
        }
        // Each of its names: the last one ends the membership.
        for name in &member.names {
            let ended =
                control.detach(detach_request(&MemberView { member: name.name.clone(), ..member.clone() })).await;
            left.extend(ended.err().map(|error| format!("cannot detach: {error:?}")));
        }
    }
    left
}
