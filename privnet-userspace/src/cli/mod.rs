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
//! | [`demo`] | the walk along the whole path |
//! | [`output`], [`logging`] | stdout and stderr |

pub mod agent;
pub mod agent_args;
pub mod args;
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
pub mod rendezvous;
pub mod run;
pub mod run_child;
pub mod signals;
pub mod verbs;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use clap::Parser;

use crate::agent::{ControlError, ErrorCode};
use args::{Cli, Format, Verb};

/// Exit code of a verb that failed.
const FAILED: u8 = 1;
/// Exit code of a command line that makes no sense.
const WRONG_USAGE: u8 = 2;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(&arguments, &error),
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
        Verb::Demo(arguments) => demo::run(&arguments, format),
        Verb::Version => verbs::version(format).map(done),
        Verb::DemoServe(arguments) => demo::http::serve(&arguments).map(done),
        Verb::DemoFetch(arguments) => demo::http::fetch(&arguments),
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
fn wait<T>(request: impl Future<Output = Result<T, ControlError>>) -> Result<T, ControlError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| no_runtime(&error))?.block_on(request)
}

fn no_runtime(error: &std::io::Error) -> ControlError {
    let message = format!("cannot start the runtime: {error}");
    ControlError::new(ErrorCode::Internal, message, "see how many files and threads this user may have")
}

/// Prints what is wrong with the command line, or the help that was asked for.
fn refuse(arguments: &[OsString], error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if wants_json(arguments) {
        // The first paragraph is the error; the rest is the usage.
        let text = error.render().to_string();
        let message = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        let error = ControlError::new(ErrorCode::InvalidArgument, message, "see `privnet --help`");
        output::print_error(Format::Json, &error);
    } else {
        let _ = error.print();
    }
    ExitCode::from(WRONG_USAGE)
}

/// Whether a command line that cannot be parsed asks for JSON all the same.
fn wants_json(arguments: &[OsString]) -> bool {
    let own: Vec<&str> = arguments.iter().map_while(|argument| argument.to_str()).take_while(|a| *a != "--").collect();
    own.iter().any(|argument| matches!(*argument, "-ojson" | "-o=json" | "--output=json"))
        || own.windows(2).any(|pair| matches!(pair, ["-o" | "--output", "json"]))
}
