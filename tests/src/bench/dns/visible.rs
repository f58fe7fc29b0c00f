//! How soon all hosts know: two agents that share a store in memory, and a container on each that asks without pause.

use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use privnet::agent::views::{Attach, CreateNetwork, NetworkView, Target as Where};
use privnet::agent::{Agent, AgentApi as _, Config, NamesConfig};
use privnet::dns::{DEFAULT_ADDRESS, PORT, stub};
use privnet::names::of_member;
use privnet::netns::Netns;
use privnet::store::{Memory, Store};
use privnet::topology::Datapath;

use super::super::options::Options;
use super::super::place::{Hosts, Place, Workspace};
use super::super::rows::{Row, Target, Unit, measured};
use super::super::series::Series;
use super::super::tunnel;
use super::GROUP;
use crate::lab::{ProcessSpace, binary};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the client waits between two questions.
const PAUSE: Duration = Duration::from_millis(1);

/// Measures attaching and dying.
pub async fn measure(workspace: &Workspace, options: &Options) -> Result<Vec<Row>> {
    let lab = Lab::new(workspace).await?;
    let (mut appeared, mut since_request, mut gone) = (Series::default(), Series::default(), Series::default());
    for number in 0..options.attachments() {
        let (whole, after) = lab.attach(number).await?;
        since_request.push(whole);
        appeared.push(after);
    }
    for number in 0..options.attachments() / 2 {
        gone.push(lab.die(options.attachments() + number).await?);
    }
    let rows = [
        ("name on both hosts, after the attach", &appeared, Some(Target::AtMost(100.0))),
        ("name on both hosts, after the request", &since_request, None),
        ("name gone on both hosts, after a death", &gone, Some(Target::AtMost(1000.0))),
    ];
    let rows = rows.into_iter().flat_map(|(name, series, target)| {
        let late: Series = series.percentile(0.99).into_iter().collect();
        [("p50", series.clone(), None), ("p99", late, target)].map(|(which, series, target)| {
            let ours = measured("privnet", &series)?;
            Some(Row::new(GROUP, format!("{name}, {which}"), Unit::Milliseconds, ours).with_target(target))
        })
    });
    Ok(rows.flatten().collect())
}

struct Lab {
    agents: [Agent; 2],
    network: NetworkView,
    /// A container on each host that asks.
    askers: [Netns; 2],
    workspace: Workspace,
    _hosts: Hosts,
}

impl Lab {
    async fn new(workspace: &Workspace) -> Result<Self> {
        let hosts = Hosts::new().await?;
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let start = async |number: usize| {
            let (host, vtep) = (&hosts.hosts[number], Hosts::VTEPS[number]);
            let config = tunnel::config(workspace, &format!("dns-host-{number}"), host, vtep, Datapath::Ebpf)?;
            let config = Config { names: Some(NamesConfig::new(binary())), ..config };
            anyhow::Ok(Agent::start(config, Arc::clone(&store)).await?)
        };
        let agents = [start(0).await?, start(1).await?];
        let wanted = CreateNetwork { name: "bench".to_owned(), subnet: None, mtu: None, names: None };
        let network = agents[0].control().create_network(wanted).await?;
        let mut askers = Vec::new();
        for (number, agent) in agents.iter().enumerate() {
            let (netns, path) = workspace.pinned(&format!("asker-{number}"))?;
            let asker = Place::of(netns).await?;
            agent.control().attach(request(&network, 1_000_000 + number, &path)).await?;
            askers.push(asker.netns);
        }
        let askers = askers.try_into().map_err(|_| anyhow::anyhow!("there are two"))?;
        Ok(Self { agents, network, askers, workspace: workspace.clone(), _hosts: hosts })
    }

    /// Attaches one more container to the first host; how many milliseconds after the request and after the answer both know.
    async fn attach(&self, number: usize) -> Result<(f64, f64)> {
        let (netns, path) = self.workspace.pinned(&format!("member-{number}"))?;
        drop(Place::of(netns).await?);
        let attach = async {
            let start = Instant::now();
            self.agents[0].control().attach(request(&self.network, number, &path)).await?;
            anyhow::Ok((start, Instant::now()))
        };
        let ((start, attached), known) = tokio::try_join!(attach, self.both(number, true))?;
        Ok((milliseconds(known - start), milliseconds(known.saturating_duration_since(attached))))
    }

    /// A container that is a process dies; how many milliseconds later neither host knows its name.
    async fn die(&self, number: usize) -> Result<f64> {
        let container = ProcessSpace::start();
        self.agents[0].control().attach(request(&self.network, number, &container.path())).await?;
        self.both(number, true).await?;
        let death = Instant::now();
        container.end();
        Ok(milliseconds(self.both(number, false).await? - death))
    }

    /// When both hosts' containers are told that the name is there, or is not.
    async fn both(&self, number: usize, is_there: bool) -> Result<Instant> {
        let container = format!("1.web.{}", tunnel::app(number)).parse()?;
        let name = of_member(self.network.id, &container).to_string();
        let [one, two] = [0, 1].map(|host: usize| {
            let (netns, name) = (self.askers[host].clone(), name.clone());
            async move { netns.run(move || until(&name, is_there)).await? }
        });
        let (one, two) = tokio::try_join!(one, two)?;
        Ok(one.max(two))
    }
}

/// Asks until the answer is as it should be; on the thread of a namespace.
fn until(name: &str, is_there: bool) -> Result<Instant> {
    let (server, start) = (SocketAddrV4::new(DEFAULT_ADDRESS, PORT), Instant::now());
    loop {
        let told = stub::ask(server, name.trim_end_matches('.'), PATIENCE).context("nobody answers")?;
        if told.addresses.is_empty() != is_there {
            return Ok(Instant::now());
        }
        ensure!(start.elapsed() < PATIENCE, "{name}: {}", told.rcode);
        std::thread::sleep(PAUSE);
    }
}

fn request(network: &NetworkView, number: usize, container: &Path) -> Attach {
    Attach {
        network: network.id.to_string(),
        app: tunnel::app(number),
        kind: None,
        number: Some(1),
        address: None,
        target: Where::Netns(container.to_owned()),
        ports: Vec::new(),
        resolv_conf: None,
        attachment: None,
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
