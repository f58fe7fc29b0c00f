//! `privnet purge`: ends what privnet has on this host, for a package that is purged, or before its files are removed by hand.

use std::time::Duration;

use super::args::StoreKind;
use super::config::AgentOptions;
use super::{config_of, etcd_options};
use crate::agent::{self, Agent, ControlError, ErrorCode, EtcdOptions};
use crate::cli::args::PurgeArgs;
use crate::cli::output::print_text;
use crate::cli::runtime::no_runtime;

/// How long an etcd may take to answer before its records are left to it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Ends every membership of this host, and the processes behind them; says how many first.
///
/// # Errors
/// Without `--yes`, when there are any; when an agent runs; when something cannot be taken down.
pub fn run(arguments: PurgeArgs) -> Result<(), ControlError> {
    let options = AgentOptions::resolve(arguments.agent, &rustix::system::uname().nodename().to_string_lossy())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| no_runtime(&error))?.block_on(purge(&options, arguments.yes))
}

async fn purge(options: &AgentOptions, is_sure: bool) -> Result<(), ControlError> {
    // What is ended has to be ended in the store too, where there is one.
    let config = agent::Config { serves_alone: false, ..config_of(options)? };
    let count = agent::memberships_of(&config)?;
    let host = &options.host;
    if count > 0 && !is_sure {
        return Err(ControlError::new(
            ErrorCode::InvalidArgument,
            format!("{count} memberships of host {host} would end, and their containers lose these networks"),
            "give --yes to end them",
        ));
    }
    print_text(&format!("{count} memberships of host {host} end\n"))?;
    let agent = match options.store {
        StoreKind::Embedded => Agent::start_embedded(config.clone()).await,
        StoreKind::Etcd => start_on_etcd(config.clone(), &etcd_options(options)?).await,
    };
    let agent = match agent {
        Ok(agent) => agent,
        // What is in the way of every start is in the way of the next one as well, which says so.
        Err(error) => {
            print_text(&format!("the store is left as it is: {error}\n"))?;
            Agent::start_without_store(config).await?
        }
    };
    agent.purge().await?;
    print_text(&format!("nothing of privnet is left on host {host} but {}\n", options.state_dir.display()))
}

async fn start_on_etcd(config: agent::Config, etcd: &EtcdOptions) -> Result<Agent, ControlError> {
    match tokio::time::timeout(PATIENCE, Agent::start_etcd(config, etcd, |_| {})).await {
        Ok(started) => started,
        Err(_) => Err(ControlError::new(ErrorCode::StoreUnavailable, "etcd does not answer", "")),
    }
}
