//! End to end: agents as a user starts them, members with WireGuard, and the load inside the tunnel.
//!
//! Beside them the same WireGuard without a carrier (its sockets directly on the link or underlay), and clear text. A
//! userspace WireGuard process is bound to the core of its end: two hosts of one core each.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use ipnet::Ipv4Net;
use privnet::agent::config::{Config, DEFAULT_MACHINE_ID, DEFAULT_OBSERVE_INTERVAL, DatapathChoice};
use privnet::agent::views::{Attach, CreateNetwork, NetworkView, Target};
use privnet::agent::{Agent, AgentApi as _};
use privnet::link::Links;
use privnet::model::PrivateKey;
use privnet::netns::{DEFAULT_DIR, Netns};
use privnet::store::{Memory, Store};
use privnet::topology::Datapath;
use privnet::wireguard::{self, Backend, Device, OffloadChoice, Peer, PeerChange, Support, UserspaceSpec};
use rustix::process::Pid;

use super::contest::{Contest, Line, Load};
use super::load::End;
use super::place::{Hosts, Place, Workspace, mtu, veth};
use crate::lab::binary;
use crate::lab::process::{companions_below, threads};

/// Inside the tunnel any port will do.
const PORT: u16 = 7000;
const WIREGUARD_PORT: u16 = 51_820;
const A: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 3);
const LOADS: [Load; 3] = [Load::Flood, Load::RoundTrip, Load::Stream];

/// Two members of one host.
pub async fn same_host(workspace: Workspace) -> Result<Contest> {
    let (a, b) = (Place::new().await?, Place::new().await?);
    join(&a, &b).await?;
    let clear = line("clear-veth", end(&a.netns, A), end(&b.netns, B));
    let bare = bare_wireguard(&workspace, "wireguard-veth", [(&a, A), (&b, B)]).await?;
    let mut labs = Vec::new();
    let mut lines = vec![clear, bare];
    for (name, datapath) in [("bridge", Datapath::Bridge), ("ebpf", Datapath::Ebpf)] {
        let lab = Lab::new(&workspace, name, datapath).await?;
        lines.push(lab.line(name, [0, 0]).await?);
        labs.push(lab);
    }
    Ok(Contest { group: "tunnel/same-host", loads: LOADS.to_vec(), lines, _held: Box::new((labs, a, b, workspace)) })
}

/// A member of each of two hosts.
pub async fn two_hosts(workspace: Workspace) -> Result<Contest> {
    let hosts = Hosts::new().await?;
    let [near, far] = &hosts.hosts;
    let clear = line("clear-underlay", end(&near.netns, Hosts::VTEPS[0]), end(&far.netns, Hosts::VTEPS[1]));
    let ends = [(near, Hosts::VTEPS[0]), (far, Hosts::VTEPS[1])];
    let bare = bare_wireguard(&workspace, "wireguard-underlay", ends).await?;
    let mut labs = Vec::new();
    let mut lines = vec![clear, bare];
    for (name, datapath) in [("bridge", Datapath::Bridge), ("ebpf", Datapath::Ebpf)] {
        let lab = Lab::new(&workspace, name, datapath).await?;
        lines.push(lab.line(name, [0, 1]).await?);
        labs.push(lab);
    }
    Ok(Contest { group: "tunnel/two-hosts", loads: LOADS.to_vec(), lines, _held: Box::new((labs, hosts, workspace)) })
}

/// The WireGuard that agents choose on this machine.
pub fn backend() -> Backend {
    match wireguard::kernel_support() {
        Support::Present => Backend::Kernel,
        Support::Missing { .. } => Backend::Userspace,
    }
}

/// What an agent of the benchmark is started with.
pub fn config(workspace: &Workspace, name: &str, host: &Place, vtep: Ipv4Addr, datapath: Datapath) -> Result<Config> {
    Ok(Config {
        host: name.parse()?,
        vtep: Some(vtep),
        host_netns: host.netns.clone(),
        netns_dir: DEFAULT_DIR.into(),
        netns_prefix: format!("{}{name}-", workspace.prefix()),
        bpffs_dir: workspace.bpffs().join(name),
        state_dir: workspace.files().join(name),
        datapath: DatapathChoice::Only(datapath),
        wireguard: wireguard::Choice::Auto,
        offload: OffloadChoice::Auto,
        wireguard_binary: binary(),
        names: None,
        observe_interval: DEFAULT_OBSERVE_INTERVAL,
        machine_id_file: DEFAULT_MACHINE_ID.into(),
        serves_alone: true,
    })
}

/// The id of the n-th app of the benchmark.
pub fn app(number: usize) -> String {
    format!("ap-00000000-0000-4000-8000-{number:012x}")
}

/// Two hosts with an agent each, and a network.
struct Lab {
    workspace: Workspace,
    name: &'static str,
    hosts: Hosts,
    agents: Vec<(Agent, Config)>,
    network: NetworkView,
}

impl Lab {
    async fn new(workspace: &Workspace, name: &'static str, datapath: Datapath) -> Result<Self> {
        let hosts = Hosts::new().await?;
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let mut agents = Vec::new();
        for (number, (host, vtep)) in hosts.hosts.iter().zip(Hosts::VTEPS).enumerate() {
            let config = config(workspace, &format!("{name}-{number}"), host, vtep, datapath)?;
            let agent = Agent::start(config.clone(), Arc::clone(&store)).await?;
            agents.push((agent, config));
        }
        let wanted = CreateNetwork { name: "bench".to_owned(), subnet: None, mtu: None, names: None };
        let network = agents[0].0.control().create_network(wanted).await?;
        Ok(Self { workspace: workspace.clone(), name, hosts, agents, network })
    }

    /// Attaches a container on each of the two hosts, which may be the same, and returns the way between them.
    async fn line(&self, name: &'static str, hosts: [usize; 2]) -> Result<Line> {
        let (near, near_helpers) = self.member(0, hosts[0]).await?;
        let (far, far_helpers) = self.member(1, hosts[1]).await?;
        Ok(Line { name, near, far, port: PORT, helpers: [near_helpers, far_helpers] })
    }

    async fn member(&self, number: usize, host: usize) -> Result<(End, Vec<Pid>)> {
        debug_assert!(host < self.hosts.hosts.len(), "there are two hosts");
        let (agent, config) = &self.agents[host];
        let (app_netns, path) = self.workspace.pinned(&format!("{}-app{number}", self.name))?;
        let attach = Attach {
            network: self.network.id.to_string(),
            app: app(number),
            kind: None,
            number: None,
            address: None,
            target: Target::Netns(path),
            ports: Vec::new(),
            resolv_conf: None,
            attachment: None,
        };
        let address = agent.control().attach(attach).await?.member.address;
        let helpers = threads_below(&config.wireguard_dir(self.network.id, address));
        Ok((End { netns: app_netns, address }, helpers))
    }
}

/// WireGuard as it is without a carrier: two devices whose sockets are in `places`, where the addresses reach each other.
async fn bare_wireguard(workspace: &Workspace, name: &'static str, ends: [(&Place, Ipv4Addr); 2]) -> Result<Line> {
    let mut made = Vec::new();
    for (number, (place, _)) in ends.iter().enumerate() {
        let own = Ipv4Addr::new(10, 250, 0, 1 + u8::try_from(number)?);
        let (netns, path) = workspace.pinned(&format!("{name}-{number}"))?;
        let run_dir = workspace.files().join(format!("{name}-{number}"));
        let key = PrivateKey::from_random([1 + u8::try_from(number)?; 32]);
        let device = start_device(place, &netns, &path, &run_dir, &key).await?;
        let links = Links::open(&netns).await?;
        let index = links.link("wg0").await?.index;
        links.set_mtu(index, mtu()?.wireguard).await?;
        links.add_address(index, Ipv4Net::new(own, 24)?).await?;
        links.set_up(index).await?;
        made.push((End { netns, address: own }, device, key.public_key(), threads_below(&run_dir)));
    }
    for (own, other) in [(0, 1), (1, 0)] {
        let endpoint = SocketAddrV4::new(ends[other].1, WIREGUARD_PORT);
        let peer = Peer { public_key: made[other].2, endpoint, allowed_ip: made[other].0.address };
        made[own].1.change_peers(&PeerChange { set: vec![peer], remove: vec![] }).await?;
    }
    let [(near, _, _, near_helpers), (far, _, _, far_helpers)] =
        made.try_into().map_err(|_| anyhow::anyhow!("two ends were made"))?;
    Ok(Line { name, near, far, port: PORT, helpers: [near_helpers, far_helpers] })
}

async fn start_device(
    socket_in: &Place,
    app: &Netns,
    app_path: &Path,
    run_dir: &Path,
    key: &PrivateKey,
) -> Result<Device> {
    let interface = super::place::interface("wg0")?;
    match backend() {
        Backend::Kernel => {
            socket_in.links.create_wireguard(&interface, mtu()?.wireguard, app).await?;
            let device = Device::kernel(app.clone(), interface);
            device.configure(key, WIREGUARD_PORT).await?;
            Ok(device)
        }
        Backend::Userspace => {
            let spec = UserspaceSpec {
                binary: binary(),
                run_dir: run_dir.to_owned(),
                app: app.clone(),
                app_path: app_path.to_owned(),
                binding: socket_in.netns.clone(),
                interface,
                mtu: mtu()?.wireguard,
                listen_port: WIREGUARD_PORT,
                offload: OffloadChoice::Auto,
            };
            wireguard::start_userspace(&spec, key).await?;
            Ok(Device::userspace(run_dir))
        }
    }
}

/// The WireGuard processes whose run directory is `dir` or below it, each with all its threads.
fn threads_below(dir: &Path) -> Vec<Pid> {
    companions_below(dir).into_iter().flat_map(|process| threads(process.pid)).collect()
}

async fn join(a: &Place, b: &Place) -> Result<()> {
    veth((a, "eth0"), (b, "eth0"), privnet_ebpf::net::MacAddr::of_member(B.octets(), 1), mtu()?.carrier).await?;
    a.address("eth0", Ipv4Net::new(A, 22)?).await?;
    b.address("eth0", Ipv4Net::new(B, 22)?).await
}

fn end(netns: &Netns, address: Ipv4Addr) -> End {
    End { netns: netns.clone(), address }
}

fn line(name: &'static str, near: End, far: End) -> Line {
    Line { name, near, far, port: PORT, helpers: [vec![], vec![]] }
}
