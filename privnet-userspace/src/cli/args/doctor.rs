//! The arguments of `privnet doctor`.

use std::path::PathBuf;

use clap::Args;

use super::socket::AgentSocket;
use crate::docker::PLUGIN_SOCKET;

/// The arguments of `privnet doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The agent.
    #[command(flatten)]
    pub agent: AgentSocket,
    /// Where Docker looks for the plugin.
    #[arg(long, value_name = "PATH", default_value = PLUGIN_SOCKET)]
    pub docker_socket: PathBuf,
}
