//! Commands and their printing; a client of the api, or the start of the agent.
//!
//! Data goes to stdout, everything else to stderr. Exit code 0 is success, 1 failure, 2 wrong usage, 3 an outcome that is
//! not known; `run` has its command's.
//!
//! | module | what it owns |
//! |---|---|
//! | [`args`], [`parse`] | the grammar; a command line that has none |
//! | [`client`] | asking the agent |
//! | [`verbs`] | the verbs that ask the agent and print its answer |
//! | [`names`], [`hosts`] | the verbs about domain names, and about hosts |
//! | [`monitor`] | drops as they happen |
//! | [`doctor`], [`mtu`], [`exposition`] | the verbs with something of their own to say |
//! | [`agent`] | running the agent |
//! | [`cni`], [`netavark`], [`attachments`] | the plugins of container runtimes; what they have in common |
//! | [`processes`] | the processes that the agent starts from this binary |
//! | [`docker`] | finding a Docker container's process |
//! | [`run`] | a command in namespaces of its own |
//! | [`connect`], [`curl`] | a stream into a network; this host's curl in it |
//! | [`demo`], [`beside`] | becoming `privnet-demo` |
//! | [`pages`] | manual pages and completions |
//! | [`output`], [`human`], [`logging`] | stdout and stderr |
//! | [`runtime`] | the runtime on which a verb runs |
//!
//! The command line names the API and its nouns; what names more stands in `xtask/src/tidy/ranks.rs`.

pub mod agent;
pub mod args;
pub mod attachments;
pub mod beside;
pub mod client;
pub mod cni;
pub mod connect;
pub mod curl;
mod demo;
pub mod docker;
pub mod doctor;
#[cfg(test)]
mod hostile;
pub mod hosts;
pub mod human;
pub mod logging;
pub mod monitor;
pub mod mtu;
pub mod names;
pub mod netavark;
pub mod output;
pub mod pages;
pub mod parse;
pub mod processes;
pub mod run;
pub mod runtime;
pub mod state;
pub mod verbs;

use std::process::ExitCode;

use crate::api::views::DomainNamesQuery;
use crate::api::{ControlError, ErrorCode};
use args::{Cli, Format, Verb};
use runtime::wait;

/// The exit code after a change of which it is not known whether it happened.
const OUTCOME_UNKNOWN: u8 = 3;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if cni::is_meant(&arguments) {
        return cni::run();
    }
    if netavark::is_meant(&arguments) {
        return netavark::run(&arguments);
    }
    let cli: Cli = match parse::own_arguments() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let format = cli.output;
    // The userspace WireGuard and the DNS process have logs of their own.
    if !matches!(cli.verb, Verb::WireguardProcess(_) | Verb::Dns(_)) {
        logging::start(matches!(cli.verb, Verb::Agent(_)));
    }
    match run_verb(cli.verb, format) {
        Ok(code) => code,
        Err(error) => {
            output::print_error(format, &error);
            if error.code == ErrorCode::OutcomeUnknown { ExitCode::from(OUTCOME_UNKNOWN) } else { ExitCode::FAILURE }
        }
    }
}

fn run_verb(verb: Verb, format: Format) -> Result<ExitCode, ControlError> {
    match verb {
        Verb::Agent(arguments) => agent::run(arguments).map(done),
        Verb::Network { verb } => wait(verbs::network(verb, format)).map(done),
        Verb::State { verb } => wait(state::state(verb, format)).map(done),
        Verb::Fleet { verb } => wait(verbs::fleet(verb, format)).map(done),
        Verb::Attach(arguments) => wait(verbs::attach(arguments, format)).map(done),
        Verb::Detach(arguments) => wait(verbs::detach(arguments, format)).map(done),
        Verb::Run(arguments) => run::run(&arguments, format),
        Verb::Connect(arguments) => connect::connect(&arguments, format),
        Verb::Curl(arguments) => curl::curl(arguments, format),
        Verb::Members { network, agent } => wait(verbs::members(network, &agent, format)).map(done),
        Verb::DomainNames { app, network, agent } => {
            wait(names::domain_names(&DomainNamesQuery { app, network }, &agent, format)).map(done)
        }
        Verb::Resolve(arguments) => wait(names::resolve(arguments, format)).map(done),
        Verb::Host { verb } => wait(hosts::host(verb, format)).map(done),
        Verb::Hosts(agent) => wait(hosts::hosts(&agent, format)).map(done),
        Verb::Status(agent) => wait(verbs::status(&agent, format)).map(done),
        Verb::Doctor(arguments) => wait(doctor::doctor(&arguments, format)),
        Verb::Mtu(arguments) => wait(mtu::mtu(&arguments, format)).map(done),
        Verb::Monitor(arguments) => wait(monitor::monitor(arguments, format)).map(done),
        Verb::Metrics(agent) => wait(verbs::metrics(&agent, format)).map(done),
        Verb::Demo(arguments) => demo::run(&arguments, format).map(|never| match never {}),
        Verb::Audit(arguments) => agent::audit::run(arguments, format),
        Verb::Purge(arguments) => agent::purge::run(arguments).map(done),
        Verb::Version => verbs::version(format).map(done),
        Verb::Pages(arguments) => pages::write(&arguments).map(done),
        Verb::RunChild(arguments) => run::child::run(&arguments, format),
        Verb::WireguardProcess(arguments) => processes::wireguard(&arguments).map(done),
        Verb::Dns(arguments) => processes::dns(&arguments).map(done),
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}
