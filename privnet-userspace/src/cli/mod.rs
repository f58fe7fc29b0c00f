//! Commands and their printing; a client of the api, or the start of the agent.
//!
//! Data goes to stdout, everything else to stderr. Exit code 0 is success, 1 failure, 2 wrong usage; `run` has its
//! command's.
//!
//! | module | what it owns |
//! |---|---|
//! | [`args`], [`agent_args`] | the grammar |
//! | [`client`], [`http`] | asking the agent |
//! | [`verbs`] | the verbs that ask the agent and print its answer |
//! | [`names`] | the verbs about domain names |
//! | [`doctor`], [`mtu`], [`exposition`] | the verbs with something of their own to say |
//! | [`agent`], [`config`], [`notify`] | running the agent |
//! | [`docker`] | finding a Docker container's process |
//! | [`run`], [`run_child`], [`rendezvous`], [`signals`] | a command in namespaces of its own |
//! | [`demo`], [`beside`] | becoming `privnet-demo` |
//! | [`parse`], [`output`], [`logging`] | the command line, stdout and stderr |

pub mod agent;
pub mod agent_args;
pub mod args;
pub mod beside;
pub mod client;
pub mod config;
pub mod demo;
pub mod docker;
pub mod doctor;
pub mod exposition;
#[cfg(test)]
mod hostile;
pub mod http;
pub mod logging;
pub mod mtu;
pub mod names;
pub mod notify;
pub mod output;
pub mod parse;
pub mod rendezvous;
pub mod run;
pub mod run_child;
pub mod signals;
pub mod verbs;

use std::future::Future;
use std::process::ExitCode;

use crate::agent::{ControlError, ErrorCode};
use args::{Cli, Format, Verb};

/// Exit code of a verb that failed.
const FAILED: u8 = 1;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
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
            ExitCode::from(FAILED)
        }
    }
}

fn run_verb(verb: Verb, format: Format) -> Result<ExitCode, ControlError> {
    match verb {
        Verb::Agent(arguments) => agent::run(arguments).map(done),
        Verb::Network { verb } => wait(verbs::network(verb, format)).map(done),
        Verb::Attach(arguments) => wait(verbs::attach(arguments, format)).map(done),
        Verb::Detach(arguments) => wait(verbs::detach(arguments, format)).map(done),
        Verb::Run(arguments) => run::run(&arguments, format),
        Verb::Members { network, agent } => wait(verbs::members(network, &agent, format)).map(done),
        Verb::DomainNames { app, network, agent } => {
            wait(names::domain_names(&app, network.as_deref(), &agent, format)).map(done)
        }
        Verb::Resolve(arguments) => wait(names::resolve(&arguments, format)).map(done),
        Verb::Status(agent) => wait(verbs::status(&agent, format)).map(done),
        Verb::Doctor(agent) => wait(doctor::doctor(&agent, format)),
        Verb::Mtu(arguments) => wait(mtu::mtu(&arguments, format)).map(done),
        Verb::Metrics(agent) => wait(verbs::metrics(&agent, format)).map(done),
        Verb::Demo(arguments) => demo::run(&arguments, format).map(|never| match never {}),
        Verb::Version => verbs::version(format).map(done),
        Verb::RunChild(arguments) => run_child::run(&arguments, format),
        Verb::WireguardProcess(arguments) => wireguard_process(&arguments).map(done),
        Verb::Dns(arguments) => dns_process(&arguments).map(done),
    }
}

/// Becomes the userspace WireGuard of one member.
fn wireguard_process(arguments: &args::WireguardProcessArgs) -> Result<(), ControlError> {
    crate::wireguard::serve_userspace(&arguments.run_dir).map_err(|error| {
        let message = format!("the WireGuard process failed: {error:#}");
        ControlError::new(ErrorCode::Internal, message, "it is started by the agent, and by nobody else")
    })
}

/// Becomes the DNS process of this host.
fn dns_process(arguments: &args::DnsArgs) -> Result<(), ControlError> {
    crate::dns::serve_process(&arguments.run_dir).map_err(|error| {
        let message = format!("the DNS process failed: {error:#}");
        ControlError::new(ErrorCode::Internal, message, "it is started by the agent, and by nobody else")
    })
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Runs a client's request on a runtime of one thread.
///
/// # Errors
/// The request's, or why there is no runtime.
pub fn wait<T>(request: impl Future<Output = Result<T, ControlError>>) -> Result<T, ControlError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| no_runtime(&error))?.block_on(request)
}

/// The error when the runtime does not start.
#[must_use]
pub fn no_runtime(error: &std::io::Error) -> ControlError {
    let message = format!("cannot start the runtime: {error}");
    ControlError::new(ErrorCode::Internal, message, "see how many files and threads this user may have")
}
