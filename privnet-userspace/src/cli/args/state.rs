//! The arguments of `privnet state`.

use std::path::PathBuf;

use clap::Subcommand;

use super::socket::AgentSocket;

/// What to do with the store as a whole.
#[derive(Debug, Subcommand)]
pub enum StateVerb {
    /// Write what is known of the store into a file, also while etcd does not answer. The file holds no private key.
    Export {
        /// The file; it is replaced whole. Without it, the copy goes to stdout.
        file: Option<PathBuf>,
        /// Close the store, since the fleet moves to another one: agents on it serve, and refuse changes.
        #[arg(long, requires = "file")]
        close: bool,
        /// The agent to ask.
        #[command(flatten)]
        agent: AgentSocket,
    },
    /// Give the store what a copy has and it lacks; an empty store becomes the fleet's.
    Import {
        /// The file that `export` wrote.
        file: PathBuf,
        /// Bring networks back too of which neither the store nor this host has anything: they were lost, and not deleted.
        #[arg(long)]
        lost_networks: bool,
        /// The agent to ask.
        #[command(flatten)]
        agent: AgentSocket,
    },
    /// Make the store that this host's agent was given the fleet's: all hosts believe it then, and put back what it lacks.
    Rebuild {
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do it also where the store has another fleet's records, which are removed, or networks that this host has not seen.
        #[arg(long)]
        yes: bool,
        /// The agent to ask.
        #[command(flatten)]
        agent: AgentSocket,
    },
}
