//! The arguments of `privnet network`.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use super::socket::AgentSocket;
use super::whole::whole;
use crate::model::Forwarding;
use crate::model::naming::MAX_TTL_SECONDS;

/// What to do with networks.
#[derive(Debug, Subcommand)]
pub enum NetworkVerb {
    /// Create a network.
    Create {
        /// Its name.
        #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// Its subnet [default: the next free /22 of 10.240.0.0/12].
        #[arg(long, value_name = "CIDR")]
        subnet: Option<String>,
        /// The MTU of its members' interfaces, in bytes [default: what this host's underlay leaves].
        #[arg(long, value_name = "N", value_parser = whole(576, 65_425), allow_negative_numbers = true)]
        mtu: Option<u32>,
        /// The options of its names.
        #[command(flatten)]
        names: NameArgs,
        /// The agent to ask.
        #[command(flatten)]
        agent: AgentSocket,
    },
    /// List all networks.
    List(AgentSocket),
    /// Show one network.
    Show(NetworkArgs),
    /// Delete a network that has no members.
    Delete {
        /// The network.
        #[command(flatten)]
        network: NetworkArgs,
        /// End its members too, also those of hosts that are away: these obey when they are back.
        #[arg(long)]
        force: bool,
        /// End more than five members.
        #[arg(long, requires = "force")]
        yes: bool,
    },
}

/// The options of a network's names.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// The TTL of its names, in seconds [default: 5].
    #[arg(long, value_name = "SECONDS", value_parser = whole(0, MAX_TTL_SECONDS), allow_negative_numbers = true)]
    pub ttl: Option<u32>,
    /// The TTL of the answer that a name does not exist, in seconds [default: 5].
    #[arg(long, value_name = "SECONDS", value_parser = whole(0, MAX_TTL_SECONDS), allow_negative_numbers = true)]
    pub negative_ttl: Option<u32>,
    /// The resolvers of all other names: on (those of the host), off, or addresses [default: on].
    #[arg(long, value_name = "on|off|ADDR,…")]
    pub forward: Option<Forwarding>,
}

/// One network.
#[derive(Debug, Args)]
pub struct NetworkArgs {
    /// The network's id or name.
    #[arg(value_name = "PN", value_parser = NonEmptyStringValueParser::new())]
    pub network: String,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentSocket,
}
