//! Containers of Docker's and Podman's: what a private network adds to `docker run`, beside Docker's own bridge, and to `podman
//! run`; and how soon many that start at once, by hand or by Compose, are ready. Measured only when it is asked for, since it
//! needs these programs. A Podman or a Compose that is not there has no rows.
//!
//! The lab's dockerd writes no rule of netfilter, which Docker's bridge would cost more with.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use privnet::model::MemberState;

use super::attach::milliseconds;
use super::options::Options;
use super::rows::{Figures, Row, Target, Unit, measured};
use super::series::Series;
use super::tell;
use crate::lab::docker::IMAGE;
use crate::lab::podman::Backend;
use crate::lab::{self, Docker, Host, Lab, Podman, which};

/// The group of all rows.
pub const GROUP: &str = "runtimes";
/// Of the host's resolver, which does not answer.
const RESOLVER: &str = "192.168.77.1";
/// Docker's networks: none, its own bridge, one of privnet's in which the container is alone, and one with another member.
const NETWORKS: [&str; 4] = ["none", "back", "shop", "busy"];
/// What a private network may add to `docker run --network none`, or `podman run`, in milliseconds.
const MOST_ADDED: f64 = 25.0;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures everything.
pub fn measure(options: &Options) -> Result<Figures> {
    let mut rows = of_docker(options)?;
    for (backend, name) in [(Backend::cni(), "with CNI"), (Backend::netavark(), "with netavark")] {
        match backend {
            Ok(backend) => rows.extend(of_podman(&backend, name, options)?),
            Err(missing) => tell(&format!("runtimes: no podman run {name}: there is no {missing}")),
        }
    }
    Ok(Figures::Told(rows))
}

/// A host for containers.
fn host(lab: &Lab) -> Host {
    lab.host(&lab::Options { log: "privnet=info", ..lab::Options::ebpf().with_docker() })
}

fn of_docker(options: &Options) -> Result<Vec<Row>> {
    let lab = Lab::new("the bench of the runtimes");
    let host = host(&lab);
    let docker = Docker::beside(&host, RESOLVER);
    docker.import(&Docker::tools());
    docker.run("network create --subnet 172.30.5.0/24 back");
    for network in ["shop", "busy"] {
        docker.run(&format!("network create -d privnet --ipam-driver null {network}"));
    }
    docker.start_container("other", "--network busy");
    let mut rows = runs(&docker, options.runs())?;
    docker.run("rm --force other");
    let many = if options.quick { 10 } else { 50 };
    tell(&format!("runtimes: {many} containers that start at once"));
    rows.extend(at_once(&host, &docker, many, options.rounds().min(5))?);
    if Docker::has_compose() {
        let many = if options.quick { 10 } else { 100 };
        tell(&format!("runtimes: {many} containers of Compose"));
        rows.extend(by_compose(lab.directory(), (&host, &docker), many, options.rounds().min(3))?);
    } else {
        tell("runtimes: no containers of Compose: there is no Docker Compose 2");
    }
    Ok(rows)
}

/// `podman run` without a network and in one of privnet's, in turn.
fn of_podman(backend: &Backend, name: &str, options: &Options) -> Result<Vec<Row>> {
    tell(&format!("runtimes: podman run {name}"));
    let lab = Lab::new("the bench of the runtimes, Podman");
    let host = host(&lab);
    let podman = Podman::beside(&host, backend);
    podman.import(&[(which("busybox"), "/bin/busybox")]);
    podman.create_network(&host, backend, "shop");
    let mut times = ["none", "shop"].map(|network| (network, Series::default()));
    // The first of each finds nothing in memory.
    for round in 0..=options.runs() {
        for (network, series) in &mut times {
            let begun = Instant::now();
            podman.run(&format!("run --rm --network {network} {IMAGE} busybox true"));
            if round > 0 {
                series.push(milliseconds(begun.elapsed()));
            }
        }
    }
    let [(_, none), (_, ours)] = times;
    let whole = row(&format!("podman run --rm … true, {name}"), &ours);
    let added = row(&format!("above --network none, {name}"), &ours.minus(&none));
    Ok(whole
        .map(|row| row.beside(measured("--network none", &none), None))
        .into_iter()
        .chain(added.map(|row| row.with_target(Some(Target::AtMost(MOST_ADDED)))))
        .collect())
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
        wait_until_ready(host, many, begun)?;
        ready.push(milliseconds(begun.elapsed()));
        docker.run(&format!("rm --force {}", names.join(" ")));
    }
    let name = format!("{many} containers that start at once, until all are ready");
    Ok(row(&name, &ready).into_iter().collect())
}

/// Containers of one service of Compose, until all are ready members.
fn by_compose(directory: &Path, (host, docker): (&Host, &Docker), many: usize, rounds: u32) -> Result<Vec<Row>> {
    let file = directory.join("many.yaml");
    let line = docker.container("none", "");
    let (_, command) = line.split_once(IMAGE).context("a command line without the image")?;
    let project = serde_json::json!({
        "name": "many",
        "services": { "job": {
            "image": IMAGE, "command": command.split_whitespace().collect::<Vec<_>>(), "networks": ["shop"],
            "stop_grace_period": "1s", "deploy": { "replicas": many },
        } },
        "networks": { "shop": { "external": true, "name": "shop" } },
    });
    fs::write(&file, project.to_string()).context("cannot write the file of Compose")?;
    let mut ready = Series::default();
    for _ in 0..rounds {
        let begun = Instant::now();
        docker.compose(&file, "up --detach --quiet-pull", &[]);
        wait_until_ready(host, many, begun)?;
        ready.push(milliseconds(begun.elapsed()));
        docker.compose(&file, "down --timeout 1", &[]);
    }
    let name = format!("{many} containers by Compose, until all are ready");
    Ok(row(&name, &ready).into_iter().collect())
}

fn wait_until_ready(host: &Host, many: usize, begun: Instant) -> Result<()> {
    while !all_ready(host, many)? {
        ensure!(begun.elapsed() < PATIENCE, "not all containers are ready members after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn all_ready(host: &Host, many: usize) -> Result<bool> {
    let members = host.members().ok().context("the agent does not say its members")?;
    let named = members.iter().filter(|member| member.state == MemberState::Ready && member.names.len() == 1);
    Ok(named.count() == many)
}
