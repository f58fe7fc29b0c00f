//! What privnet is measured by: every row of the targets beside what it is compared with, in one run, on this machine.
//!
//! | module | what it owns |
//! |---|---|
//! | [`options`] | the command line |
//! | [`load`] | pinned senders and receivers: flood, ping-pong, stream |
//! | [`place`] | a part of the lab's ground, and namespaces with links |
//! | [`carrier`] | the datapath alone, as the agent builds it, and its competitors and floors |
//! | [`tunnel`] | end to end through agents and WireGuard |
//! | [`contest`] | paths measured in turns |
//! | [`attach`], [`script`] | attaching one more container, by the agent and by a script of `ip` commands |
//! | [`storm`] | many attaches at once, on two hosts |
//! | [`dns`] | names: beside other servers, and how soon all hosts know; only when it is asked for |
//! | [`fleet`] | three hosts and their etcd; only when it is asked for |
//! | [`runtimes`] | containers of Docker's; only when it is asked for |
//! | [`timeline`] | which operation of an attach took how long |
//! | [`rows`], [`report`] | figures to rows, rows to a table and to JSON |
//!
//! Nothing here passes or fails by a figure: a machine that is busy measures badly, and says so by its spread.

mod attach;
mod carrier;
mod contest;
mod dns;
mod fleet;
mod load;
mod options;
mod place;
mod report;
mod rows;
mod runtimes;
mod script;
mod series;
mod storm;
mod timeline;
mod tunnel;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use contest::Contest;
use options::Options;
use place::Workspace;
use report::Report;

use crate::lab::Ground;

/// Runs what the command line asks for, and prints it.
#[must_use]
pub fn main() -> ExitCode {
    let options = Options::parse();
    if !rustix::process::geteuid().is_root() {
        tell("error: namespaces need root: use `cargo xtask bench`");
        return ExitCode::FAILURE;
    }
    // Dropped last, so that the figures are there before the leak check looks at what was left.
    let _ground = Ground::join();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let timeline = timeline::install();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let cores = load::Cores::choose()?;
    let mut report = Report::new(options, &cores);
    for (group, build) in contests() {
        if !options.wants(group) {
            continue;
        }
        tell(&format!("{group}: building"));
        let contest = runtime.block_on(build(Workspace::new()?)).with_context(|| format!("cannot build {group}"))?;
        report.add(&contest.measure(options, &cores).with_context(|| format!("cannot measure {group}"))?);
    }
    for (group, size, shape) in attach::CASES {
        if options.wants(group) {
            tell(&format!("{group}: attaching {size} members"));
            let case = attach::Case { group, size, shape };
            let figures = attach::measure(&runtime, &Workspace::new()?, &case, options, &timeline);
            report.add(&figures.with_context(|| format!("cannot measure {group}"))?);
        }
    }
    if options.wants(storm::GROUP) {
        let figures = storm::measure(&runtime, &Workspace::new()?, options);
        report.add(&figures.context("cannot measure a storm of attaches")?);
    }
    if options.asks_for(dns::GROUP) {
        report.add(&dns::measure(&runtime, options, &cores).context("cannot measure dns")?);
    }
    if options.asks_for(fleet::GROUP) {
        report.add(&fleet::measure(&runtime, options).context("cannot measure fleet")?);
    }
    if options.asks_for(runtimes::GROUP) {
        report.add(&runtimes::measure(options).context("cannot measure runtimes")?);
    }
    report.print(options)
}

type Building = std::pin::Pin<Box<dyn Future<Output = Result<Contest>>>>;
type Build = fn(Workspace) -> Building;

fn contests() -> [(&'static str, Build); 4] {
    [
        ("carrier/same-host", |workspace| Box::pin(carrier::same_host(workspace))),
        ("carrier/two-hosts", |workspace| Box::pin(carrier::two_hosts(workspace))),
        ("tunnel/same-host", |workspace| Box::pin(tunnel::same_host(workspace))),
        ("tunnel/two-hosts", |workspace| Box::pin(tunnel::two_hosts(workspace))),
    ]
}

/// Progress: standard output is for the figures.
#[expect(clippy::print_stderr, reason = "progress of a program that is watched")]
fn tell(line: &str) {
    eprintln!("{line}");
}
