//! The demo's world: two hosts on one kernel, their underlay, two networks, four containers.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;
use privnet::agent::config::{DEFAULT_MACHINE_ID, DEFAULT_OBSERVE_INTERVAL, NamesConfig};
use privnet::agent::views::{Attach, CreateNetwork, NetworkView, ResolveQuery, StatusView, Target};
use privnet::agent::{Agent, AgentApi as _, Config, Control, DatapathChoice};
use privnet::link::{Links, VethEnd, VethSpec, ensure_loopback_up};
use privnet::model::{AppId, IfName, Member};
use privnet::names::of_network;
use privnet::netns::{DEFAULT_DIR, Netns};
use privnet::store::{Memory, Store, records};
use privnet::topology::ownership;
use privnet::wireguard::{Backend, Choice, Device, DeviceState, OffloadChoice};
use privnet_ebpf::net::MacAddr;
use uuid::Uuid;

use crate::args::DemoArgs;
use crate::name::{HOSTS, Name};

/// The underlay: 192.0.2.0/24 is for documentation (RFC 5737), so no real host has it.
const UNDERLAY_PREFIX: u8 = 24;
const VTEPS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const UNDERLAY_MTU_BYTES: u32 = 1500;
/// The underlay's interface on both hosts.
pub const UNDERLAY: &str = "underlay0";
/// How long the hosts may take to learn of each other's members.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look whether they have.
const GLANCE: Duration = Duration::from_millis(5);

/// One of the two hosts.
pub struct Host {
    /// What stands for the host's own namespace.
    pub netns: Netns,
    /// Its VTEP's address.
    pub vtep: Ipv4Addr,
    /// What its agent was started with.
    pub config: Config,
    /// Its agent's door.
    pub control: Control,
    _agent: Agent,
}

/// A container that is a member.
pub struct Container {
    /// What it is called on the screen.
    pub label: &'static str,
    /// On which of the hosts it is.
    pub host: usize,
    /// Its own namespace.
    pub app: Netns,
    /// Where that is pinned.
    pub pin: PathBuf,
    /// Its binding netns.
    pub binding: Netns,
    /// The name under which that is pinned.
    pub binding_name: String,
    /// Its record in the store.
    pub member: Member,
    /// Its WireGuard interface.
    pub wireguard: IfName,
    /// The carrier's interface in its binding netns.
    pub veth: IfName,
}

impl Container {
    /// Its address in the network.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.member.address
    }

    /// Where its WireGuard socket is on the carrier.
    #[must_use]
    pub fn socket(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.member.address, self.member.wireguard_port)
    }

    /// Its MAC on the carrier.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        self.member.mac()
    }

    /// What the agent calls it in counters.
    #[must_use]
    pub fn name(&self) -> String {
        self.member.container.to_string()
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)
    }
}

/// All of it.
pub struct Lab {
    /// Host one and host two.
    pub hosts: [Host; 2],
    /// What host one's agent says of itself.
    pub status: StatusView,
    /// The network of the web shop.
    pub shop: NetworkView,
    /// The other network.
    pub other: NetworkView,
    /// `web` 1 of the shop, on host one.
    pub web1: Container,
    /// `web` 2 of the shop, on host one.
    pub web2: Container,
    /// `backend` 1 of the shop, on host two.
    pub backend: Container,
    /// `web` 1 of another app in the other network, on host one.
    pub stranger: Container,
    /// What `backend` is called in the shop.
    pub backend_name: String,
    /// What the stranger is called in the other network.
    pub stranger_name: String,
}

impl Lab {
    /// Builds it; returns when every member knows its peers.
    ///
    /// # Errors
    /// What was built until then is left, to be found by its name.
    pub async fn build(name: &Name, privnet: &Path, arguments: &DemoArgs) -> Result<Self> {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let [one, two] = underlay(name).await?;
        let (datapath, wireguard) = (arguments.datapath.into(), arguments.wireguard.into());
        let one = HostSpec { number: 0, netns: one, datapath, wireguard };
        let one = Host::start(one, name, privnet, Arc::clone(&store)).await?;
        let status = one.control.status().await?;
        // What host one came to, so that what it had to say of it is said once.
        let datapath = invalid(status.datapath.to_string().parse())?;
        let wireguard = invalid(status.wireguard.to_string().parse())?;
        let two = HostSpec { number: 1, netns: two, datapath, wireguard };
        let two = Host::start(two, name, privnet, Arc::clone(&store)).await?;
        let hosts = [one, two];
        let network = |name: &str| CreateNetwork { name: name.to_owned(), subnet: None, mtu: None, names: None };
        let shop = hosts[0].control.create_network(network("shop")).await?;
        let other = hosts[0].control.create_network(network("other")).await?;
        let [app, foreign] = [(); 2].map(|()| AppId::from_uuid(Uuid::new_v4()));
        // The addresses of the seed's drawing, so that every run reads the same.
        let nth = |network: &NetworkView, n| network.subnet.hosts().nth(n).context("the subnet is too small");
        let web1 =
            Wanted { label: "web 1", host: 0, network: &shop, address: nth(&shop, 2)?, app, kind: "web", number: 1 };
        let web2 = Wanted { label: "web 2", address: nth(&shop, 3)?, number: 2, ..web1 };
        let backend = Wanted { label: "backend 1", host: 1, address: nth(&shop, 1)?, kind: "backend", ..web1 };
        let stranger = Wanted { label: "stranger", network: &other, address: nth(&other, 1)?, app: foreign, ..web1 };
        let (web1, web2, backend, stranger) = tokio::try_join!(
            web1.attach(name, &hosts, &*store),
            web2.attach(name, &hosts, &*store),
            backend.attach(name, &hosts, &*store),
            stranger.attach(name, &hosts, &*store),
        )?;
        // All members of the type, as another app would ask for them.
        let domain_name = |kind: &str, app: AppId, network: &NetworkView| {
            format!("{kind}.{app}.{}", of_network(network.id).to_string().trim_end_matches('.'))
        };
        let (backend_name, stranger_name) = (domain_name("backend", app, &shop), domain_name("web", foreign, &other));
        let lab = Self { hosts, status, shop, other, web1, web2, backend, stranger, backend_name, stranger_name };
        lab.wait_for_peers().await?;
        lab.wait_for_names().await?;
        Ok(lab)
    }

    /// Whether eBPF programs forward; the bridge does otherwise.
    #[must_use]
    pub fn is_ebpf(&self) -> bool {
        self.status.datapath == privnet::topology::Datapath::Ebpf
    }

    /// What a member's WireGuard device says.
    ///
    /// # Errors
    /// When it does not answer, or is not there.
    pub async fn device(&self, container: &Container) -> Result<DeviceState> {
        let device = if self.status.wireguard == Backend::Kernel {
            Device::kernel(container.app.clone(), container.wireguard.clone())
        } else {
            let config = &self.hosts[container.host].config;
            Device::userspace(&config.wireguard_dir(container.member.network, container.address()))
        };
        device.observe().await?.with_context(|| format!("{} has no WireGuard device", container.label))
    }

    /// Host one hears of a member of host two when its agent has seen the store change.
    async fn wait_for_names(&self) -> Result<()> {
        let (control, start) = (&self.hosts[0].control, Instant::now());
        let query = ResolveQuery { name: self.backend_name.clone(), kind: None, asker: self.web1.name() };
        while control.resolve(query.clone()).await?.records.is_empty() {
            ensure!(start.elapsed() < PATIENCE, "host one was not told of {}", self.backend_name);
            tokio::time::sleep(GLANCE).await;
        }
        Ok(())
    }

    async fn wait_for_peers(&self) -> Result<()> {
        let members = [&self.web1, &self.web2, &self.backend];
        let start = Instant::now();
        for container in members {
            let others = || members.iter().filter(|other| other.address() != container.address());
            loop {
                let device = self.device(container).await?;
                if others().all(|other| device.peers.contains_key(&other.member.public_key)) {
                    break;
                }
                ensure!(start.elapsed() < PATIENCE, "{} was not told of its peers", container.label);
                tokio::time::sleep(GLANCE).await;
            }
        }
        Ok(())
    }
}

/// Makes the two hosts' namespaces and joins them.
async fn underlay(name: &Name) -> Result<[Netns; 2]> {
    let [one, two] = HOSTS.map(|host| netns(name, &format!("host-{host}")));
    let hosts = [one?, two?];
    let underlay: IfName = UNDERLAY.parse()?;
    let mut links = Vec::new();
    for host in &hosts {
        // No router solicitations on the underlay: what is seen there is the hosts'.
        host.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1").await.or_else(is_without_ipv6)?;
        let socket = Links::open(host).await?;
        ensure_loopback_up(&socket).await?;
        links.push(socket);
    }
    let end = |number: u8| VethEnd {
        name: &underlay,
        netns: &hosts[usize::from(number)],
        mac: MacAddr::new([2, 0, 0, 0, 0, number + 1]),
        mtu: UNDERLAY_MTU_BYTES,
    };
    links[0].create_veth(&VethSpec { a: end(0), b: end(1) }).await?;
    for (links, vtep) in links.iter().zip(VTEPS) {
        let index = links.link(UNDERLAY).await?.index;
        links.add_address(index, Ipv4Net::new(vtep, UNDERLAY_PREFIX)?).await?;
        links.set_up(index).await?;
    }
    Ok(hosts)
}

fn invalid<T>(parsed: Result<T, String>) -> Result<T> {
    parsed.map_err(anyhow::Error::msg)
}

fn is_without_ipv6(error: privnet::netns::Error) -> Result<bool, privnet::netns::Error> {
    if matches!(error, privnet::netns::Error::NotFound { .. }) { Ok(false) } else { Err(error) }
}

fn netns(name: &Name, what: &str) -> Result<Netns> {
    let name = name.netns(what);
    Netns::create(Path::new(DEFAULT_DIR), &name).with_context(|| format!("making the namespace {name}"))
}

/// A host that is to be.
struct HostSpec {
    number: usize,
    netns: Netns,
    datapath: DatapathChoice,
    wireguard: Choice,
}

impl Host {
    async fn start(spec: HostSpec, name: &Name, privnet: &Path, store: Arc<dyn Store>) -> Result<Self> {
        let HostSpec { number, netns, datapath, wireguard } = spec;
        let (host, vtep) = (HOSTS[number], VTEPS[number]);
        let config = Config {
            host: host.parse()?,
            vtep: Some(vtep),
            host_netns: netns.clone(),
            netns_dir: DEFAULT_DIR.into(),
            netns_prefix: name.agent_prefix(host),
            bpffs_dir: name.bpffs_dir(host),
            state_dir: name.state_dir(host),
            datapath,
            wireguard,
            // Each datagram is a frame of its own, and can be counted.
            offload: OffloadChoice::Off,
            names: Some(NamesConfig::new(privnet.to_owned())),
            wireguard_binary: privnet.to_owned(),
            observe_interval: DEFAULT_OBSERVE_INTERVAL,
            machine_id_file: DEFAULT_MACHINE_ID.into(),
            serves_alone: true,
        };
        let agent = Agent::start(config.clone(), store).await?;
        Ok(Self { netns, vtep, config, control: agent.control(), _agent: agent })
    }
}

/// A container that is to be.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    label: &'static str,
    host: usize,
    network: &'a NetworkView,
    address: Ipv4Addr,
    app: AppId,
    kind: &'static str,
    number: u32,
}

impl Wanted<'_> {
    async fn attach(self, name: &Name, hosts: &[Host; 2], store: &dyn Store) -> Result<Container> {
        let what = self.label.replace(' ', "-");
        let app = netns(name, &what)?;
        ensure_loopback_up(&Links::open(&app).await?).await?;
        let pin = Path::new(DEFAULT_DIR).join(name.netns(&what));
        let Host { control, config, .. } = &hosts[self.host];
        let request = Attach {
            network: self.network.id.to_string(),
            app: self.app.to_string(),
            kind: Some(self.kind.to_owned()),
            number: Some(self.number),
            address: Some(self.address),
            target: Target::Netns(pin.clone()),
            ports: Vec::new(),
            resolv_conf: None,
            attachment: None,
        };
        let attached = control.attach(request).await.with_context(|| format!("attaching {}", self.label))?;
        let members = records::list_members(store, Some(self.network.id)).await?.records;
        let member = members.into_iter().find(|member| member.address == attached.member.address);
        let member = member.with_context(|| format!("the store has no record of {}", self.label))?;
        let binding_name = ownership::binding_netns(&config.netns_prefix, ownership::binding_digest(&member.container));
        Ok(Container {
            label: self.label,
            host: self.host,
            app,
            pin,
            binding: Netns::open(&config.netns_path(&binding_name))?,
            binding_name,
            wireguard: attached.interface,
            // The n of the first network that a container is in.
            veth: ownership::binding_veth(0),
            member,
        })
    }
}
