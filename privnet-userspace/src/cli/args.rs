//! The command line's grammar.

mod connect;
mod doctor;
mod monitor;
mod network;
mod socket;
mod state;
mod whole;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::connect::{ConnectArgs, CurlArgs, HostPort};
pub use self::doctor::DoctorArgs;
pub use self::monitor::MonitorArgs;
pub use self::network::{NameArgs, NetworkArgs, NetworkVerb};
pub use self::socket::{AgentSocket, DEFAULT_SOCKET};
pub use self::state::StateVerb;
use self::whole::whole;
pub use super::agent::args::{AgentArgs, DatapathChoice, DnsAddress, OffloadChoice, StoreKind, WireguardChoice};
use crate::model::Port;
use crate::model::ids::ContainerNumber;
use crate::model::mtu::MAX_UNDERLAY_MTU_BYTES;

/// Encrypted private networks for containers.
#[derive(Debug, Parser)]
#[command(name = "privnet", disable_version_flag = true, max_term_width = 100)]
pub struct Cli {
    /// The format of results and errors.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// The command.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The largest id of a process (`PID_MAX_LIMIT`, include/linux/threads.h).
const MAX_PID: u32 = 4_194_304;

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
    /// Show and set what the hosts that share a store have in common.
    Fleet {
        /// What to do with the fleet.
        #[command(subcommand)]
        verb: FleetVerb,
    },
    /// Keep a copy of the store, move it, and say which store is the fleet's after its data were lost.
    State {
        /// What to do with the store.
        #[command(subcommand)]
        verb: StateVerb,
    },
    /// Attach a container to a network; return when it can send.
    Attach(AttachArgs),
    /// Detach a container from a network; succeed also when it is not attached.
    Detach(DetachArgs),
    /// Run a command in new namespaces that are attached to a network.
    Run(RunArgs),
    /// Connect stdin and stdout to a TCP port of a container, as a member of the network's that lasts as long as the connection.
    Connect(ConnectArgs),
    /// Run this host's curl as a member of a network.
    Curl(CurlArgs),
    /// List members.
    Members {
        /// Only members of this network (id or name).
        #[arg(long, value_name = "PN", value_parser = NonEmptyStringValueParser::new())]
        network: Option<String>,
        /// The agent to ask.
        #[command(flatten)]
        agent: AgentSocket,
    },
    /// List the domain names of an app's containers, with their addresses.
    DomainNames {
        /// The app: a name, for example shop-api, or ap-<uuid>.
        #[arg(long, value_name = "AP", value_parser = NonEmptyStringValueParser::new())]
        app: String,
        /// Only names in this network (id or name).
        #[arg(long, value_name = "PN", value_parser = NonEmptyStringValueParser::new())]
        network: Option<String>,
        /// The agent to ask.
        #[command(flatten)]
        agent: AgentSocket,
    },
    /// Show the answer that a container of this host gets for a name, and the reason.
    Resolve(ResolveArgs),
    /// List the hosts that share the store.
    Hosts(AgentSocket),
    /// Say what becomes of a host and its members.
    Host {
        /// What to do with the host.
        #[command(subcommand)]
        verb: HostVerb,
    },
    /// Show the agent's state.
    Status(AgentSocket),
    /// Check what privnet needs of this host; exit with 1 when a check fails.
    Doctor(DoctorArgs),
    /// Prove from the kernel that what this host's members send goes into their tunnels and nowhere else; exit with 1 when
    /// anything is found.
    Audit(AuditArgs),
    /// Show the MTU of the underlay, the carrier and the tunnels.
    Mtu(MtuArgs),
    /// Show the frames that privnet drops on this host, as they are dropped, and why.
    Monitor(MonitorArgs),
    /// Print the agent's metrics.
    Metrics(AgentSocket),
    /// Build two hosts in throw-away namespaces and walk a request along the whole path.
    #[command(disable_help_flag = true)]
    Demo(DemoArgs),
    /// End all memberships of this host, which no agent runs on, and what privnet has in the kernel; say how many first.
    Purge(PurgeArgs),
    /// Show the version of this binary.
    Version,
    /// Write the manual pages and completions that a package installs.
    #[command(hide = true)]
    Pages(PagesArgs),
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

/// What `purge` accepts: where the agent of this host had its store and state.
#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// End them; without it, only say how many there are.
    #[arg(long)]
    pub yes: bool,
    /// As the agent was started.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// What `audit` accepts: where the agent of this host has its state. No agent need run.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// As the agent was started.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// What `pages` accepts.
#[derive(Debug, Args)]
pub struct PagesArgs {
    /// Where to write them.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// What to do with a host.
#[derive(Debug, Subcommand)]
pub enum HostVerb {
    /// Take over, on this host, the members that another instance of its agent made: keep those whose containers run here, and
    /// end the others.
    Adopt {
        /// End more than five members without a question.
        #[arg(long)]
        yes: bool,
        /// Take the host's name although the lease of another agent of that name lives.
        #[arg(long)]
        force: bool,
        /// The agent to ask.
        #[command(flatten)]
        agent: AgentSocket,
    },
    /// Empty a host: withdraw the names of its members, attach nothing there, and wait until its containers have left.
    Drain {
        /// The host's name.
        #[arg(value_name = "HOST", value_parser = NonEmptyStringValueParser::new())]
        host: String,
        /// How long to wait.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
        /// Take members again, and give its members their names back.
        #[arg(long, conflicts_with = "wait")]
        cancel: bool,
        /// The agent to ask.
        #[command(flatten)]
        agent: AgentSocket,
    },
    /// End the members of a host that is gone for ever, and forget it; should it come back, it obeys.
    Forget {
        /// The host's name.
        #[arg(value_name = "HOST", value_parser = NonEmptyStringValueParser::new())]
        host: String,
        /// End more than five members.
        #[arg(long)]
        yes: bool,
        /// Forget it although the lease of its agent lives.
        #[arg(long)]
        force: bool,
        /// The agent to ask.
        #[command(flatten)]
        agent: AgentSocket,
    },
}

/// What to do with the fleet.
#[derive(Debug, Subcommand)]
pub enum FleetVerb {
    /// Show the fleet of this host.
    Show(AgentSocket),
    /// Set what all hosts of the fleet use.
    Set {
        /// The UDP port of VXLAN between the hosts; refused while a network has members.
        #[arg(long, value_name = "N")]
        vxlan_port: NonZeroU16,
        /// The agent to ask.
        #[command(flatten)]
        agent: AgentSocket,
    },
}

/// What `resolve` accepts.
#[derive(Debug, Args)]
pub struct ResolveArgs {
    /// The name, in the form that `dig` takes.
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// The container that asks, `<number>.<type>.<app>`, or its address.
    #[arg(long = "as", value_name = "MEMBER", value_parser = NonEmptyStringValueParser::new())]
    pub asker: String,
    /// The type of record.
    #[arg(long = "type", value_name = "TYPE", default_value = "A")]
    pub kind: String,
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
    /// The app: a name, for example shop-api, or ap-<uuid>.
    #[arg(long, value_name = "AP", value_parser = NonEmptyStringValueParser::new())]
    pub app: String,
    /// The container's type [default: web].
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// The container's number [default: attach takes the namespace's own, or the lowest free one; detach the only one].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub number: Option<ContainerNumber>,
}

/// What `attach` accepts.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The member.
    #[command(flatten)]
    pub member: MemberArgs,
    /// Its address [default: a free one].
    #[arg(long, value_name = "IP")]
    pub address: Option<Ipv4Addr>,
    /// A port to publish as an SRV record, http=8080 or dns=53/udp; may be repeated.
    #[arg(long = "port", value_name = "NAME=N[/udp]")]
    pub ports: Vec<Port>,
    /// The container's resolv.conf on this host, to be written from all its networks. As root: with each attach and detach,
    /// and what stood there comes back with the last one.
    #[arg(long, value_name = "PATH")]
    pub resolv_conf: Option<PathBuf>,
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
    /// The network namespace at this path, or of this name of `ip netns`.
    #[arg(long, value_name = "PATH|NAME")]
    pub netns: Option<PathBuf>,
    /// The network namespace of this process.
    #[arg(long, value_name = "PID", value_parser = whole(1, MAX_PID), allow_negative_numbers = true)]
    pub pid: Option<u32>,
    /// The Docker container of this name or id.
    #[arg(long, value_name = "NAME")]
    pub container: Option<String>,
}

/// What `detach` accepts.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// The member.
    #[command(flatten)]
    pub member: MemberArgs,
    /// Withdraw the name first, and wait until no client can have it cached.
    #[arg(long)]
    pub drain: bool,
    /// End a member of another host, whose agent is away; that host obeys when it is back.
    #[arg(long, requires = "number", conflicts_with = "drain")]
    pub force: bool,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentSocket,
}

/// What `run` accepts.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The member.
    #[command(flatten)]
    pub member: MemberArgs,
    /// A port to publish as an SRV record, http=8080 or dns=53/udp; may be repeated.
    #[arg(long = "port", value_name = "NAME=N[/udp]")]
    pub ports: Vec<Port>,
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
    /// Calculate for an underlay of this MTU [default: the agent's; without one, that of the default route's interface].
    #[arg(long, value_name = "N", value_parser = whole(686, MAX_UNDERLAY_MTU_BYTES), allow_negative_numbers = true)]
    pub underlay_mtu: Option<u32>,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentSocket,
}

/// What `demo` accepts: what `privnet-demo` does.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Passed to `privnet-demo`, whose `--help` shows them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    pub arguments: Vec<OsString>,
}

#[cfg(test)]
mod tests;
