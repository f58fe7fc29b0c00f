//! An agent with members and names, in a namespace that it takes for its host's.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use privnet::agent::views::{Attach, Attached, CreateNetwork, Detach, Target};
use privnet::agent::{Agent, Config, Control, DatapathChoice, NamesConfig};
use privnet::dns::DnsProcess;
use privnet::model::NameOptions;
use privnet::netns::{DEFAULT_DIR, Netns};
use privnet::store::{Memory, Store};
use privnet::topology::Datapath;
use privnet::wireguard::Choice;

use super::{APP, Container, Lab, ok, runtime};

/// An agent on a kernel of its own, as far as it can tell.
pub struct Host {
    pub lab: Lab,
    agent: Option<Agent>,
    prefix: String,
    netns: Netns,
    name: &'static str,
    vtep: Ipv4Addr,
    /// What the DNS process is started from.
    pub dns_binary: PathBuf,
    /// The truth of several hosts; a host alone keeps its own.
    store: Option<Arc<dyn Store>>,
}

impl Host {
    pub async fn start() -> Self {
        let mut host = Self::prepare("one", Ipv4Addr::LOCALHOST, None);
        host.restart().await;
        host
    }

    /// Two hosts with an underlay between them, that share one store in memory.
    pub async fn start_two() -> [Self; 2] {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let vteps = [[192, 0, 2, 1], [192, 0, 2, 2]].map(Ipv4Addr::from);
        let one = Self::prepare("one", vteps[0], Some(Arc::clone(&store)));
        let two = Self::prepare("two", vteps[1], Some(store));
        let [a, b] = [&one, &two].map(|host| format!("{}host", host.lab.prefix));
        ok(&format!("ip -n {a} link add underlay0 type veth peer name underlay0 netns {b}"));
        for (netns, vtep) in [(a, vteps[0]), (b, vteps[1])] {
            ok(&format!("ip -n {netns} address add {vtep}/24 dev underlay0"));
            ok(&format!("ip -n {netns} link set underlay0 up"));
        }
        let mut hosts = [one, two];
        for host in &mut hosts {
            host.restart().await;
        }
        hosts
    }

    fn prepare(name: &'static str, vtep: Ipv4Addr, store: Option<Arc<dyn Store>>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("na{}-{}-", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut lab = Lab::new();
        let netns = lab.container("host").netns;
        let dns_binary = env!("CARGO_BIN_EXE_dns_process").into();
        Self { lab, agent: None, prefix, netns, name, vtep, dns_binary, store }
    }

    pub fn state(&self) -> PathBuf {
        self.lab.directory.path().join("state")
    }

    pub fn process(&self) -> DnsProcess {
        DnsProcess::new(&self.state().join("dns-0"))
    }

    /// Ends the agent, as abruptly as a drop can, and starts the next one.
    pub async fn restart(&mut self) {
        drop(self.agent.take());
        let config = Config {
            host: self.name.parse().expect("a name"),
            vtep: Some(self.vtep),
            host_netns: self.netns.clone(),
            netns_dir: DEFAULT_DIR.into(),
            netns_prefix: self.prefix.clone(),
            bpffs_dir: PathBuf::from("/sys/fs/bpf").join(&self.prefix),
            state_dir: self.state(),
            // The carrier is not what is tested here.
            datapath: DatapathChoice::Only(Datapath::Bridge),
            wireguard: Choice::Userspace,
            wireguard_binary: env!("CARGO_BIN_EXE_wireguard_process").into(),
            names: Some(NamesConfig::new(self.dns_binary.clone())),
        };
        // The store and the lock of the one before go with its last task.
        let mut last = None;
        for _ in 0..500 {
            let started = match &self.store {
                Some(store) => Agent::start(config.clone(), Arc::clone(store)).await,
                None => Agent::start_embedded(config.clone()).await,
            };
            match started {
                Ok(agent) => {
                    self.agent = Some(agent);
                    return;
                }
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the agent does not start: {last:?}");
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
        let request = CreateNetwork { name: name.to_owned(), subnet: None, names };
        self.control().create_network(request).await.expect("created");
    }

    pub async fn attach(&self, container: &Container, network: &str, kind: &str) -> Attached {
        self.attach_at(container, network, kind, None).await
    }

    pub async fn attach_at(
        &self,
        container: &Container,
        network: &str,
        kind: &str,
        address: Option<Ipv4Addr>,
    ) -> Attached {
        let request = Attach {
            network: network.to_owned(),
            app: APP.to_owned(),
            kind: Some(kind.to_owned()),
            number: None,
            address,
            target: Target::Netns(container.path.clone()),
            ports: vec!["http=8080".to_owned()],
        };
        self.control().attach(request).await.expect("attached")
    }

    pub async fn detach(&self, network: &str, kind: &str) {
        let request = Detach {
            network: network.to_owned(),
            app: APP.to_owned(),
            kind: Some(kind.to_owned()),
            number: None,
            drain: false,
        };
        assert!(self.control().detach(request).await.expect("detached").detached);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.agent.take());
        let dirs = ["dns-0", "dns-1"].map(|name| self.state().join(name));
        let stop = || dirs.iter().for_each(|dir| drop(runtime().block_on(DnsProcess::new(dir).stop())));
        std::thread::scope(|scope| scope.spawn(stop).join().is_ok());
        for pin in Netns::list(DEFAULT_DIR.as_ref()).unwrap_or_default() {
            if pin.name.starts_with(&self.prefix) {
                let _ = Netns::remove(DEFAULT_DIR.as_ref(), &pin.name);
            }
        }
        let _ = std::fs::remove_dir_all(PathBuf::from("/sys/fs/bpf").join(&self.prefix));
    }
}
