//! The argument that says which agent is asked.

use std::path::PathBuf;

use clap::Args;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/privnet/privnet.sock";

/// Which agent to talk to.
#[derive(Clone, Debug, Args)]
pub struct AgentSocket {
    /// The agent's control socket.
    #[arg(long, env = "PRIVNET_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}
