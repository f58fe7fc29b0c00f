//! Attaching one more container, and detaching it, on a host that has so many members already: by a real agent on the
//! store of one host, and by a script of `ip` commands.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use privnet::agent::views::{Attach, CreateNetwork, Detach, Target};
use privnet::agent::{Agent, AgentApi as _, Control};
use privnet::netns::Netns;
use privnet::topology::Datapath;
use privnet_ebpf::net::MacAddr;
use tokio::runtime::Runtime;

use super::options::Options;
use super::place::{Hosts, Place, Workspace, interface, mtu, veth};
use super::rows::Figures;
use super::script::Script;
use super::series::Series;
use super::timeline::Timeline;
use super::{tell, tunnel};

/// How the members are spread over networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Networks of [`NETWORK_SIZE`].
    Tens,
    /// One network: n members are n² peers.
    One,
}

/// How many members a network of [`Shape::Tens`] has.
pub const NETWORK_SIZE: usize = 10;
/// What is measured.
pub const CASES: [(&str, usize, Shape); 5] = [
    ("attach/1", 1, Shape::Tens),
    ("attach/100", 100, Shape::Tens),
    ("attach/500", 500, Shape::Tens),
    ("attach/one-network-100", 100, Shape::One),
    ("attach/one-network-300", 300, Shape::One),
];
/// Between one side and the other: the kernel takes down a namespace some tens of milliseconds after its last user, under
/// the locks that whoever makes a namespace or a link waits for, and tells nobody when it is done.
const REST: Duration = Duration::from_millis(150);
/// Where the first packet of a new member goes, and the first one to it.
const PORT: u16 = 9000;
/// How long it is waited for; WireGuard begins a handshake again after half of it.
const LOST: Duration = Duration::from_secs(10);
/// The operation that starts a userspace WireGuard process, and the one that ends it.
const STARTS_DEVICE: &str = "create Device";
const ENDS_DEVICE: &str = "remove Device";

/// How many members there are, and where.
pub struct Case {
    /// Its name in the rows.
    pub group: &'static str,
    /// How many members the host has before.
    pub size: usize,
    /// How they are spread.
    pub shape: Shape,
}

impl Case {
    /// The network of the n-th member.
    pub const fn network_of(&self, member: usize) -> usize {
        match self.shape {
            Shape::Tens => member / NETWORK_SIZE,
            Shape::One => 0,
        }
    }

    /// How many networks there are.
    pub const fn networks(&self) -> usize {
        self.network_of(self.size - 1) + 1
    }
}

/// Times of attaching and detaching in milliseconds.
#[derive(Default)]
pub struct Times {
    /// From the request to the answer.
    pub whole: Series,
    /// Without starting or ending a WireGuard process.
    pub without_process: Series,
    /// By operation.
    pub operations: BTreeMap<String, Series>,
    /// From the answer until the first packet of a neighbour is there, in one network.
    pub from_neighbour: Series,
    /// The same of the first packet to a neighbour.
    pub to_neighbour: Series,
}

/// Measures one case.
pub fn measure(
    runtime: &Runtime,
    workspace: &Workspace,
    case: &Case,
    options: &Options,
    timeline: &Timeline,
) -> Result<Figures> {
    let mut crew = runtime.block_on(Crew::new(workspace, case))?;
    let (mut attach, mut detach) = (Times::default(), Times::default());
    let mut script = Script::new(workspace, case).context("cannot prepare the script")?;
    let (mut script_attach, mut script_detach) = (Series::default(), Series::default());
    tell(&format!("{}: attaching and detaching one more, {} times", case.group, options.attachments()));
    for number in 0..options.attachments() {
        let network = number % case.networks();
        std::thread::sleep(REST);
        runtime.block_on(crew.attach_and_detach(network, timeline, &mut attach, &mut detach))?;
        std::thread::sleep(REST);
        script_attach.push(script.attach(network)?);
        script_detach.push(script.detach(network)?);
    }
    let (attach, detach) = (Box::new(attach), Box::new(detach));
    Ok(Figures::Attach { group: case.group, attach, detach, script_attach, script_detach })
}

/// An agent with members.
struct Crew {
    agent: Agent,
    workspace: Workspace,
    networks: Vec<String>,
    outside: Place,
    containers: usize,
    /// The namespace and the address of the member that came last, where all are in one network.
    neighbour: Option<(Netns, Ipv4Addr)>,
    _hosts: Hosts,
}

impl Crew {
    async fn new(workspace: &Workspace, case: &Case) -> Result<Self> {
        let hosts = Hosts::new().await?;
        let name = case.group.replace('/', "-");
        let config = tunnel::config(workspace, &name, &hosts.hosts[0], Hosts::VTEPS[0], Datapath::Ebpf)?;
        let agent = Agent::start_embedded(config).await?;
        let (workspace, outside) = (workspace.clone(), Place::new().await?);
        let mut crew =
            Self { agent, workspace, networks: Vec::new(), outside, containers: 0, neighbour: None, _hosts: hosts };
        for number in 0..case.networks() {
            let wanted = CreateNetwork { name: format!("bench-{number}"), subnet: None, mtu: None, names: None };
            crew.networks.push(crew.control().create_network(wanted).await?.id.to_string());
        }
        for member in 0..case.size {
            let (netns, path) = crew.container().await?;
            let attached = crew.control().attach(crew.request(case.network_of(member), &path)).await?;
            crew.neighbour = (case.shape == Shape::One).then_some((netns, attached.member.address));
        }
        Ok(crew)
    }

    fn control(&self) -> Control {
        self.agent.control()
    }

    /// A container as it is handed over: a namespace with an `eth0`, which is not ours.
    async fn container(&mut self) -> Result<(Netns, PathBuf)> {
        self.containers += 1;
        let (netns, path) = self.workspace.pinned(&self.containers.to_string())?;
        let container = Place::of(netns.clone()).await?;
        let name = format!("veth{}", self.containers);
        let mac = MacAddr::of_member(u32::try_from(self.containers)?.to_be_bytes(), 0);
        veth((&self.outside, &name), (&container, "eth0"), mac, mtu()?.underlay).await?;
        self.outside.up(&name).await?;
        container.up(interface("eth0")?.as_str()).await?;
        Ok((netns, path))
    }

    fn request(&self, network: usize, container: &Path) -> Attach {
        Attach {
            network: self.networks[network].clone(),
            app: tunnel::app(self.containers),
            kind: None,
            number: Some(1),
            address: None,
            target: Target::Netns(container.to_owned()),
            ports: Vec::new(),
            resolv_conf: None,
            attachment: None,
        }
    }

    async fn attach_and_detach(
        &mut self,
        network: usize,
        timeline: &Timeline,
        attach: &mut Times,
        detach: &mut Times,
    ) -> Result<()> {
        let (netns, container) = self.container().await?;
        let request = self.request(network, &container);
        let (app, name) = (request.app.clone(), request.network.clone());
        let start = Instant::now();
        let attached = self.control().attach(request).await?;
        attach.add(start, timeline, STARTS_DEVICE);
        if let Some((neighbour, address)) = &self.neighbour {
            let (from, to) = tokio::join!(
                first_packet(neighbour, &netns, attached.member.address),
                first_packet(&netns, neighbour, *address)
            );
            attach.from_neighbour.push(milliseconds(from?));
            attach.to_neighbour.push(milliseconds(to?));
        }
        // The others are told of the member after the answer.
        tokio::time::sleep(REST).await;
        let start = Instant::now();
        self.control()
            .detach(Detach { network: name, app, kind: None, number: Some(1), drain: false, force: false })
            .await?;
        detach.add(start, timeline, ENDS_DEVICE);
        Ok(())
    }
}

/// Sends one packet, and says when it was there; after [`LOST`], none was.
async fn first_packet(from: &Netns, to: &Netns, address: Ipv4Addr) -> Result<Duration> {
    let start = Instant::now();
    let bind = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        socket.set_read_timeout(Some(LOST)).map(|()| socket)
    };
    let there = to.run(bind).await??;
    from.run(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"first", (address, PORT))).await??;
    let received = tokio::task::spawn_blocking(move || there.recv(&mut [0; 16]).map(|_| start.elapsed())).await?;
    Ok(received.unwrap_or(LOST))
}

impl Times {
    fn add(&mut self, start: Instant, timeline: &Timeline, device: &str) {
        let whole = start.elapsed();
        let operations = timeline.since(start);
        let process = operations.get(device).copied().unwrap_or_default();
        self.whole.push(milliseconds(whole));
        self.without_process.push(milliseconds(whole.saturating_sub(process)));
        let told = operations.values().sum();
        let rest = ("(answer)".to_owned(), whole.saturating_sub(told));
        for (operation, time) in operations.into_iter().chain([rest]) {
            self.operations.entry(operation).or_default().push(milliseconds(time));
        }
    }
}

/// As the rows show times.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
