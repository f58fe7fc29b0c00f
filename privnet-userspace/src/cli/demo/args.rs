//! What the demo and the processes in its containers accept.

use std::net::SocketAddrV4;
use std::path::PathBuf;

use clap::Args;

use super::name::Name;
use crate::cli::args::{DatapathChoice, WireguardChoice};

/// What `demo` accepts.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Who forwards packets.
    #[arg(long, value_enum, default_value_t = DatapathChoice::Auto)]
    pub datapath: DatapathChoice,
    /// Who encrypts packets.
    #[arg(long, value_enum, default_value_t = WireguardChoice::Auto)]
    pub wireguard: WireguardChoice,
    /// Leave everything up, and print how to look around.
    #[arg(long)]
    pub keep: bool,
    /// Remove what a demo left up, by the name that it printed; build nothing.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["datapath", "wireguard", "keep"])]
    pub remove: Option<Name>,
}

/// What the HTTP server of a container accepts.
#[derive(Clone, Debug, Args)]
pub struct DemoServeArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddrV4,
    /// Ends when this path is gone: the pin of its namespace.
    #[arg(long, value_name = "PATH")]
    pub while_exists: PathBuf,
}

/// What the HTTP client of a container accepts.
#[derive(Clone, Debug, Args)]
pub struct DemoFetchArgs {
    /// The server, by its address or by its name.
    #[arg(long, value_name = "HOST:PORT")]
    pub from: String,
    /// Who is asked for the address of a name.
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddrV4::new(crate::dns::DEFAULT_ADDRESS, crate::dns::PORT))]
    pub nameserver: SocketAddrV4,
    /// What to ask for.
    #[arg(long, value_name = "PATH")]
    pub path: String,
    /// How long the server may take to accept and to answer, each, in milliseconds.
    #[arg(long, value_name = "N")]
    pub patience_ms: u64,
}
