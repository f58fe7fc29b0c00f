//! Containers of Docker's: what a private network adds to `docker run`, beside Docker's own bridge, and how soon many that start
//! at once are ready. Measured only when it is asked for, since it needs a Docker.
//!
//! The lab's dockerd writes no rule of netfilter, which Docker's bridge would cost more with.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use privnet::model::MemberState;

use super::attach::milliseconds;
use super::options::Options;
use super::rows::{Figures, Row, Target, Unit, measured};
use super::series::Series;
use super::tell;
use crate::lab::docker::IMAGE;
use crate::lab::{self, Docker, Host, Lab};

/// The group of all rows.
pub const GROUP: &str = "runtimes";
/// Of the host's resolver, which does not answer.
const RESOLVER: &str = "192.168.77.1";
/// Docker's networks: none, its own bridge, one of privnet's in which the container is alone, and one with another member.
const NETWORKS: [&str; 4] = ["none", "back", "shop", "busy"];
/// What a private network may add to `docker run --network none`, in milliseconds.
const MOST_ADDED: f64 = 25.0;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures everything.
pub fn measure(options: &Options) -> Result<Figures> {
    let lab = Lab::new("the bench of the runtimes");
    let host = lab.host(&lab::Options { log: "privnet=info", ..lab::Options::ebpf().with_docker() });
    let docker = Docker::beside(&host, RESOLVER);
    docker.import(&Docker::tools());
    docker.run("network create --subnet 172.30.5.0/24 back");
    for network in ["shop", "busy"] {
        docker.run(&format!("network create -d privnet --ipam-driver null {network}"));
    }
    docker.start_container("other", "--network busy");
    let mut rows = runs(&docker, if options.quick { 5 } else { 20 })?;
    docker.run("rm --force other");
    let many = if options.quick { 10 } else { 50 };
    tell(&format!("runtimes: {many} containers that start at once"));
    rows.extend(at_once(&host, &docker, many, options.rounds().min(5))?);
    Ok(Figures::Told(rows))
}

/// `docker run` in each network in turn.
fn runs(docker: &Docker, rounds: usize) -> Result<Vec<Row>> {
    let mut times = NETWORKS.map(|_| Series::default());
    // The first of each finds nothing in memory.
    for round in 0..=rounds {
        for (network, series) in NETWORKS.iter().zip(&mut times) {
            let begun = Instant::now();
            docker.run(&format!("run --rm --network {network} {IMAGE} busybox true"));
            if round > 0 {
                series.push(milliseconds(begun.elapsed()));
            }
        }
    }
    let [none, bridge, alone, beside] = times;
    let by_bridge = bridge.minus(&none);
    let whole = row("docker run --rm … true", &beside).map(|row| row.beside(measured("--network none", &none), None));
    let added = [("above --network none", &beside), ("the same, alone in its network", &alone)].map(|(name, ours)| {
        let added = ours.minus(&none);
        let ratio = by_bridge.divided_by(&added).median();
        let target = Some(Target::AtMost(MOST_ADDED));
        Some(row(name, &added)?.beside(measured("Docker's bridge", &by_bridge), ratio).with_target(target))
    });
    Ok([whole].into_iter().chain(added).flatten().collect())
}

fn row(name: &str, ours: &Series) -> Option<Row> {
    Some(Row::new(GROUP, name.to_owned(), Unit::Milliseconds, measured("privnet", ours)?))
}

/// Containers that start at once, until all are ready members.
fn at_once(host: &Host, docker: &Docker, many: usize, rounds: u32) -> Result<Vec<Row>> {
    let mut ready = Series::default();
    let names: Vec<String> = (1..=many).map(|number| format!("many-{number}")).collect();
    for _ in 0..rounds {
        for name in &names {
            docker.run(&format!("create {}", docker.container(name, "--network shop")));
        }
        let begun = Instant::now();
        let starting: Vec<_> = names.iter().map(|name| docker.begin(&format!("start {name}"))).collect();
        for command in starting {
            let output = command.wait_with_output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        while !all_ready(host, many)? {
            ensure!(begun.elapsed() < PATIENCE, "not all containers are ready members after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        ready.push(milliseconds(begun.elapsed()));
        docker.run(&format!("rm --force {}", names.join(" ")));
    }
    let name = format!("{many} containers that start at once, until all are ready");
    Ok(measured("privnet", &ready).map(|ours| Row::new(GROUP, name, Unit::Milliseconds, ours)).into_iter().collect())
}

fn all_ready(host: &Host, many: usize) -> Result<bool> {
    let members = host.members().ok().context("the agent does not say its members")?;
    let named = members.iter().filter(|member| member.state == MemberState::Ready && member.names.len() == 1);
    Ok(named.count() == many)
}
