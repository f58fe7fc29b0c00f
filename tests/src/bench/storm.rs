//! Many containers that are attached at once, to one network, on two hosts that share a store in memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use privnet::agent::views::{Attach, CreateNetwork, Detach, Target};
use privnet::agent::{Agent, AgentApi as _, Control};
use privnet::netns::Netns;
use privnet::store::{Memory, Store};
use privnet::topology::Datapath;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::attach::milliseconds;
use super::options::Options;
use super::place::{Hosts, Workspace};
use super::rows::{Figures, Row, Target as Aim, Unit, measured};
use super::series::Series;
use super::{tell, tunnel};

/// The group of the rows.
pub const GROUP: &str = "attach/storm-100";
/// The network.
const NETWORK: &str = "storm";
/// How many there are, half of them on each host.
const CONTAINERS: usize = 100;
/// How long their attaches are to take together, in milliseconds.
const AIM: f64 = 500.0;
/// Between a round and the next.
const REST: Duration = Duration::from_secs(2);

/// Measures until the last one is answered.
pub fn measure(runtime: &Runtime, workspace: &Workspace, options: &Options) -> Result<Figures> {
    let (mut attach, mut detach) = (Series::default(), Series::default());
    let (agents, _hosts) = runtime.block_on(start(workspace))?;
    let rounds = if options.quick { 3 } else { 7 };
    for round in 0..rounds {
        tell(&format!("{GROUP}: round {} of {rounds}", round + 1));
        let containers = (0..CONTAINERS).map(|number| workspace.pinned(&format!("storm-{round}-{number}")));
        let containers: Vec<(Netns, PathBuf)> = containers.collect::<Result<_>>()?;
        std::thread::sleep(REST);
        let (attached, detached) = runtime.block_on(come_and_go(&agents, &containers))?;
        attach.push(milliseconds(attached));
        detach.push(milliseconds(detached));
    }
    let row = |name: &str, series: &Series| {
        Some(Row::new(GROUP, name.to_owned(), Unit::Milliseconds, measured("agents", series)?))
    };
    let attach = row("100 attaches at once", &attach).map(|row| row.with_target(Some(Aim::AtMost(AIM))));
    Ok(Figures::Told(attach.into_iter().chain(row("100 detaches at once", &detach)).collect()))
}

async fn start(workspace: &Workspace) -> Result<([Agent; 2], Hosts)> {
    let hosts = Hosts::new().await?;
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let mut agents = Vec::new();
    for (number, (host, vtep)) in hosts.hosts.iter().zip(Hosts::VTEPS).enumerate() {
        let config = tunnel::config(workspace, &format!("storm-{number}"), host, vtep, Datapath::Ebpf)?;
        agents.push(Agent::start(config, Arc::clone(&store)).await?);
    }
    let wanted = CreateNetwork { name: NETWORK.to_owned(), subnet: None, mtu: None, names: None };
    agents[0].control().create_network(wanted).await?;
    let agents: [Agent; 2] = agents.try_into().map_err(|_| anyhow::anyhow!("two hosts"))?;
    Ok((agents, hosts))
}

async fn come_and_go(agents: &[Agent; 2], containers: &[(Netns, PathBuf)]) -> Result<(Duration, Duration)> {
    let control = |number: usize| -> Control { agents[number % 2].control() };
    let attaches = containers.iter().enumerate().map(|(number, (_, path))| {
        let request = Attach {
            network: NETWORK.to_owned(),
            app: tunnel::app(number),
            kind: None,
            number: Some(1),
            address: None,
            target: Target::Netns(path.clone()),
            ports: Vec::new(),
            resolv_conf: None,
            attachment: None,
        };
        let control = control(number);
        async move { control.attach(request).await.map(drop).context("attaching") }
    });
    let attached = at_once(attaches).await?;
    tokio::time::sleep(REST).await;
    let detaches = (0..containers.len()).map(|number| {
        let request = Detach {
            network: NETWORK.to_owned(),
            app: tunnel::app(number),
            kind: None,
            number: Some(1),
            drain: false,
            force: false,
        };
        let control = control(number);
        async move { control.detach(request).await.map(drop).context("detaching") }
    });
    Ok((attached, at_once(detaches).await?))
}

/// Makes all requests at once; returns how long it took until the last one was answered.
async fn at_once<R: Future<Output = Result<()>> + Send + 'static>(
    requests: impl Iterator<Item = R>,
) -> Result<Duration> {
    let start = Instant::now();
    let mut under_way: JoinSet<Result<()>> = requests.collect();
    while let Some(answer) = under_way.join_next().await {
        answer??;
    }
    Ok(start.elapsed())
}
