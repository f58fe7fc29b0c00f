//! Names: how many questions a second, how soon each is answered, and how soon all hosts know of a change.
//!
//! Beside ours stand Unbound with local data, NSD with a zone and dnsmasq with a file of hosts. All of them have the same
//! 10,000 names and nothing else, are asked the same file of questions by `dnsperf`, over the loopback of a namespace of their
//! own, and have one core; `dnsperf` has another. Measured only when it is asked for, since it needs their packages.
//!
//! | module | what it owns |
//! |---|---|
//! | [`servers`] | the servers that are compared |
//! | [`perf`] | `dnsperf`, and what it says |
//! | [`visible`] | how soon a member has its name on two hosts, and has it no longer |

mod perf;
mod servers;
mod visible;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;

use super::load::Cores;
use super::options::Options;
use super::place::Workspace;
use super::rows::{Figures, Row, Target, Unit, measured};
use super::series::Series;
use super::tell;
use perf::Perf;
use servers::Server;

/// The group of all rows.
pub const GROUP: &str = "dns";
/// What all of them are asked at, when it is measured how soon they answer.
const QUERIES_PER_SECOND: u32 = 10_000;

/// Figures by server.
type Figured = BTreeMap<&'static str, Series>;

/// Measures everything.
pub fn measure(runtime: &Runtime, options: &Options, cores: &Cores) -> Result<Figures> {
    let workspace = Workspace::new()?;
    let mut rows = contest(runtime, &workspace, options, cores)?;
    tell("dns: two hosts that share a store in memory");
    rows.extend(runtime.block_on(visible::measure(&workspace, options)).context("cannot measure changes")?);
    Ok(Figures::Told(rows))
}

fn contest(runtime: &Runtime, workspace: &Workspace, options: &Options, cores: &Cores) -> Result<Vec<Row>> {
    tell("dns: building");
    let perf = Perf::new(workspace, options, cores.far)?;
    let servers = Server::start_all(runtime, workspace, cores.near)?;
    let (mut rate, mut by_cpu) = (Figured::new(), Figured::new());
    let (mut middle, mut late) = (Figured::new(), Figured::new());
    for round in 1..=options.rounds() {
        tell(&format!("dns: round {round} of {}", options.rounds()));
        for server in &servers {
            let before = server.cpu_seconds();
            let run = perf.flood(server)?;
            let busy = server.cpu_seconds() - before;
            rate.entry(server.name).or_default().push(run.per_second);
            by_cpu.entry(server.name).or_default().push(run.completed / busy.max(0.01));
        }
        for server in &servers {
            let run = perf.paced(server, QUERIES_PER_SECOND)?;
            let at = |part| run.percentile_ms(part).context("dnsperf told of no answer");
            middle.entry(server.name).or_default().push(at(0.5)?);
            late.entry(server.name).or_default().push(at(0.99)?);
        }
    }
    let rates = [
        ("questions/s, one core".to_owned(), &rate, Some(Target::AtLeast(100_000.0))),
        ("questions/CPU second".to_owned(), &by_cpu, None),
    ];
    let times = [
        (format!("p50 at {QUERIES_PER_SECOND}/s"), &middle, None),
        (format!("p99 at {QUERIES_PER_SECOND}/s"), &late, Some(Target::AtMost(1.0))),
    ];
    let rates =
        rates.into_iter().flat_map(|(name, figures, target)| versus(&name, Unit::QueriesPerSecond, figures, target));
    let times =
        times.into_iter().flat_map(|(name, figures, target)| versus(&name, Unit::Milliseconds, figures, target));
    Ok(rates.chain(times).collect())
}

/// Ours alone, and beside each of the others.
fn versus(name: &str, unit: Unit, figures: &Figured, target: Option<Target>) -> Vec<Row> {
    let Some(ours) = figures.get(servers::OURS) else { return vec![] };
    let Some(own) = measured(servers::OURS, ours) else { return vec![] };
    let alone = Row::new(GROUP, name.to_owned(), unit, own.clone()).with_target(target);
    let others = figures.iter().filter(|(peer, _)| **peer != servers::OURS).map(|(peer, theirs)| {
        let ratio = if unit == Unit::Milliseconds { theirs.divided_by(ours) } else { ours.divided_by(theirs) };
        // The target is for what the server can do, whatever it costs.
        let is_rate = matches!(target, Some(Target::AtLeast(_)));
        let target = (is_rate && *peer == servers::UNBOUND).then_some(Target::RatioAtLeast(0.6));
        let row = Row::new(GROUP, format!("{name}: to {peer}"), unit, own.clone());
        row.beside(measured(peer, theirs), ratio.median()).with_target(target)
    });
    std::iter::once(alone).chain(others).collect()
}
