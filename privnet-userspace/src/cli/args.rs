//! The command line's grammar.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

use super::demo::args::{DemoArgs, DemoFetchArgs, DemoServeArgs};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/privnet/privnet.sock";

/// Encrypted private networks for containers.
#[derive(Debug, Parser)]
#[command(name = "privnet", disable_version_flag = true, max_term_width = 100)]
pub struct Cli {
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// How results and errors are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the agent of this host in the foreground.
    Agent(AgentArgs),
    /// Create, list, show and delete networks.
    Network {
        /// What to do with networks.
        #[command(subcommand)]
        verb: NetworkVerb,
    },
    /// Make a container a member of a network; return when it can send.
    Attach(AttachArgs),
    /// End a container's membership; succeed also when it has ended already.
    Detach(DetachArgs),
    /// Run a command as a member, in namespaces of its own.
    Run(RunArgs),
    /// List members.
    Members {
        /// Only those of this network (id or name).
        #[arg(long, value_name = "PN", value_parser = NonEmptyStringValueParser::new())]
        network: Option<String>,
        /// The agent to ask.
        #[command(flatten)]
        agent: AgentSocket,
    },
    /// Show the agent's state.
    Status(AgentSocket),
    /// Say what this host can and cannot do; fail when something does not work.
    Doctor(AgentSocket),
    /// Show how large packets may be at each stage.
    Mtu(MtuArgs),
    /// Print the agent's counters.
    Metrics(AgentSocket),
    /// Build two hosts in throw-away namespaces and walk a request along the whole path.
    Demo(DemoArgs),
    /// Show what this binary is.
    Version,
    /// The HTTP server in a container of the demo.
    #[command(hide = true)]
    DemoServe(DemoServeArgs),
    /// The HTTP client in a container of the demo.
    #[command(hide = true)]
    DemoFetch(DemoFetchArgs),
    /// The child of `run`.
    #[command(hide = true)]
    RunChild(RunChildArgs),
    /// The userspace WireGuard of one member; started by the agent.
    #[command(hide = true)]
    WireguardProcess(WireguardProcessArgs),
    /// The DNS process of this host; started by the agent.
    #[command(hide = true)]
    Dns(DnsArgs),
}

/// Which agent to talk to.
#[derive(Clone, Debug, Args)]
pub struct AgentSocket {
    /// The agent's control socket.
    #[arg(long, env = "PRIVNET_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// What `agent` accepts. Every flag may be a key of the file instead, with `_` for `-`; a flag wins over the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentArgs {
    /// A TOML file with these same options.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// This host's name [default: the first label of the kernel's].
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// The VTEP's address on the underlay [default: that of the default route].
    #[arg(long, value_name = "ADDR")]
    pub vtep: Option<Ipv4Addr>,
    /// Where state is kept [default: /var/lib/privnet].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The control socket [default: /run/privnet/privnet.sock].
    #[arg(long, env = "PRIVNET_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Where networks and members are recorded [default: embedded].
    #[arg(long, value_enum, value_name = "STORE")]
    pub store: Option<StoreKind>,
    /// The members of the etcd cluster.
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    pub etcd_endpoints: Option<Vec<String>>,
    /// Who forwards packets on this host [default: auto].
    #[arg(long, value_enum, value_name = "DATAPATH")]
    pub datapath: Option<DatapathChoice>,
    /// Who encrypts packets on this host [default: auto].
    #[arg(long, value_enum, value_name = "WIREGUARD")]
    pub wireguard: Option<WireguardChoice>,
    /// Serve GET /metrics over HTTP here, to anybody who can connect [default: not at all].
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// What the names of this agent's namespaces begin with; for a second agent on the same kernel.
    #[arg(long, hide = true, value_name = "PREFIX")]
    pub netns_prefix: Option<String>,
    /// The bpffs, or a directory of it; for a second agent on the same kernel.
    #[arg(long, hide = true, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
}

/// Where networks and members are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// In a file of this host.
    Embedded,
    /// In an etcd cluster.
    Etcd,
}

/// Who forwards packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatapathChoice {
    /// eBPF where the kernel can, else the bridge.
    Auto,
    /// eBPF programs.
    Ebpf,
    /// A bridge.
    Bridge,
}

/// Who encrypts packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireguardChoice {
    /// The kernel where it can, else a process per member.
    Auto,
    /// The kernel.
    Kernel,
    /// A process per member.
    Userspace,
}

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
        /// The agent to ask.
        #[command(flatten)]
        agent: AgentSocket,
    },
    /// List all networks.
    List(AgentSocket),
    /// Show one network.
    Show(NetworkArgs),
    /// Delete a network that has no members.
    Delete(NetworkArgs),
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

/// Which member.
#[derive(Clone, Debug, Args)]
pub struct MemberArgs {
    /// The network's id or name.
    #[arg(long, value_name = "PN", value_parser = NonEmptyStringValueParser::new())]
    pub network: String,
    /// The app, ap-<uuid>.
    #[arg(long, value_name = "AP", value_parser = NonEmptyStringValueParser::new())]
    pub app: String,
    /// The container's type [default: web].
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// The container's number [default: attach takes the lowest free one, detach the only one].
    #[arg(long, value_name = "N")]
    pub number: Option<u32>,
}

/// What `attach` accepts.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The member to make.
    #[command(flatten)]
    pub member: MemberArgs,
    /// Its address [default: a free one].
    #[arg(long, value_name = "IP")]
    pub address: Option<Ipv4Addr>,
    /// The container.
    #[command(flatten)]
    pub container: ContainerArgs,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentSocket,
}

/// Which container to attach; exactly one.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ContainerArgs {
    /// The network namespace at this path.
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
    /// The network namespace of this process.
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// The Docker container of this name or id.
    #[arg(long, value_name = "NAME")]
    pub container: Option<String>,
}

/// What `detach` accepts.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// The member to end.
    #[command(flatten)]
    pub member: MemberArgs,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentSocket,
}

/// What `run` accepts.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The member to make.
    #[command(flatten)]
    pub member: MemberArgs,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentSocket,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// What the child of `run` accepts.
#[derive(Debug, Args)]
pub struct RunChildArgs {
    /// The socket on which the parent waits.
    #[arg(long, value_name = "PATH")]
    pub rendezvous: PathBuf,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// What the userspace WireGuard accepts.
#[derive(Debug, Args)]
pub struct WireguardProcessArgs {
    /// The directory of the process's files.
    #[arg(long, value_name = "DIR")]
    pub run_dir: PathBuf,
}

/// What the DNS process accepts.
#[derive(Debug, Args)]
pub struct DnsArgs {
    /// The directory of the process's files.
    #[arg(long, value_name = "DIR")]
    pub run_dir: PathBuf,
}

/// What `mtu` accepts.
#[derive(Debug, Args)]
pub struct MtuArgs {
    /// Calculate for an underlay of this MTU [default: the agent's, or 1500 when none is running].
    #[arg(long, value_name = "N")]
    pub underlay_mtu: Option<u32>,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentSocket,
}

impl From<DatapathChoice> for crate::agent::DatapathChoice {
    fn from(choice: DatapathChoice) -> Self {
        use crate::topology::Datapath;
        match choice {
            DatapathChoice::Auto => Self::Auto,
            DatapathChoice::Ebpf => Self::Only(Datapath::Ebpf),
            DatapathChoice::Bridge => Self::Only(Datapath::Bridge),
        }
    }
}

impl From<WireguardChoice> for crate::wireguard::Choice {
    fn from(choice: WireguardChoice) -> Self {
        match choice {
            WireguardChoice::Auto => Self::Auto,
            WireguardChoice::Kernel => Self::Kernel,
            WireguardChoice::Userspace => Self::Userspace,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_container_is_named_in_exactly_one_way() {
        let base = ["privnet", "attach", "--network", "shop", "--app", "ap-x"];
        let parse = |more: &[&str]| Cli::try_parse_from(base.iter().chain(more));
        assert!(parse(&["--pid", "1"]).is_ok());
        assert!(parse(&["--netns", "/run/netns/a"]).is_ok());
        assert!(parse(&["--container", "a"]).is_ok());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--pid", "1", "--container", "a"]).is_err());
    }

    #[test]
    fn a_commands_own_flags_are_the_commands() {
        let cli = Cli::try_parse_from([
            "privnet",
            "run",
            "--network",
            "shop",
            "--app",
            "ap-x",
            "--",
            "sh",
            "-o",
            "json",
            "--network",
            "-c",
        ])
        .expect("parsed");
        assert_eq!(cli.output, Format::Table);
        let Verb::Run(run) = cli.verb else { panic!("not run") };
        assert_eq!(run.command, ["sh", "-o", "json", "--network", "-c"]);
    }

    #[test]
    fn output_may_stand_anywhere() {
        for arguments in [["privnet", "-o", "json", "network", "list"], ["privnet", "network", "list", "-o", "json"]] {
            assert_eq!(Cli::try_parse_from(arguments).expect("parsed").output, Format::Json);
        }
    }
}
