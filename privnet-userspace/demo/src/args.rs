//! What the demo and the processes in its containers accept.

use std::net::SocketAddrV4;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use privnet::cli::args::{DatapathChoice, Format, WireguardChoice};

use crate::name::Name;

/// Build two hosts in throw-away namespaces and walk a request along the whole path.
#[derive(Debug, Parser)]
#[command(name = "privnet-demo", bin_name = "privnet demo", max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Cli {
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// A process in a container; the demo itself when there is none.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// What to build, or to remove.
    #[command(flatten)]
    pub demo: DemoArgs,
}

/// The processes in the demo's containers.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// The HTTP server in a container.
    #[command(hide = true)]
    Serve(ServeArgs),
    /// The HTTP client in a container.
    #[command(hide = true)]
    Fetch(FetchArgs),
}

/// What `demo` accepts.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// What forwards packets.
    #[arg(long, value_enum, default_value_t = DatapathChoice::Auto)]
    pub datapath: DatapathChoice,
    /// What encrypts packets.
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
pub struct ServeArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddrV4,
    /// Ends when this path is gone: the pin of its namespace.
    #[arg(long, value_name = "PATH")]
    pub while_exists: PathBuf,
}

/// What the HTTP client of a container accepts.
#[derive(Clone, Debug, Args)]
pub struct FetchArgs {
    /// The server, by its address or by its name.
    #[arg(long, value_name = "HOST:PORT")]
    pub from: String,
    /// The server that is asked for the address of a name.
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddrV4::new(privnet::dns::DEFAULT_ADDRESS, privnet::dns::PORT))]
    pub nameserver: SocketAddrV4,
    /// What to ask for.
    #[arg(long, value_name = "PATH")]
    pub path: String,
    /// How long the server may take to accept and to answer, each, in milliseconds.
    #[arg(long, value_name = "N")]
    pub patience_ms: u64,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_consistent_and_its_help_names_no_process_of_a_container() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("privnet demo [OPTIONS]") && help.contains("--remove"), "{help}");
        assert!(!help.contains("serve") && !help.contains("COMMAND"), "{help}");
    }

    #[test]
    fn the_demo_is_what_runs_without_a_verb() {
        let cli = Cli::try_parse_from(["privnet-demo", "--keep", "-o", "json"]).expect("parsed");
        assert!(cli.verb.is_none() && cli.demo.keep && cli.output == Format::Json);
        let fetch = ["privnet-demo", "fetch", "--from", "a:1", "--path", "/", "--patience-ms", "1"];
        assert!(matches!(Cli::try_parse_from(fetch).expect("parsed").verb, Some(Verb::Fetch(_))));
        assert!(Cli::try_parse_from(["privnet-demo", "--remove", "privnet-demo-1", "--keep"]).is_err());
    }
}
