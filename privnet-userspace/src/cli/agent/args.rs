//! What `privnet agent` accepts, on the command line and in its file.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::agent::{self, config::Datapath};

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
    /// The certificates, in PEM, of who signs those of the etcd cluster; needed with https endpoints.
    #[arg(long, value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// This host's certificate, in PEM, where the etcd cluster asks for one.
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    pub etcd_cert: Option<PathBuf>,
    /// The private key of --etcd-cert, in PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub etcd_key: Option<PathBuf>,
    /// Who forwards packets on this host [default: auto].
    #[arg(long, value_enum, value_name = "DATAPATH")]
    pub datapath: Option<DatapathChoice>,
    /// Who encrypts packets on this host [default: auto].
    #[arg(long, value_enum, value_name = "WIREGUARD")]
    pub wireguard: Option<WireguardChoice>,
    /// Serve GET /metrics over HTTP here, to anybody who can connect [default: not at all].
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// Where containers ask for names, on their own loopback, or `off` [default: 127.0.0.82].
    #[arg(long, value_name = "ADDR|off")]
    pub dns_address: Option<DnsAddress>,
    /// What the names of this agent's namespaces begin with; for a second agent on the same kernel.
    #[arg(long, hide = true, value_name = "PREFIX")]
    pub netns_prefix: Option<String>,
    /// The bpffs, or a directory of it; for a second agent on the same kernel.
    #[arg(long, hide = true, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
}

/// Where containers ask for names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum DnsAddress {
    /// Nowhere.
    Off,
    /// Here.
    At(Ipv4Addr),
}

impl std::str::FromStr for DnsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse::<Ipv4Addr>()) {
            ("off", _) => Ok(Self::Off),
            (_, Ok(address)) if address.is_loopback() => Ok(Self::At(address)),
            (_, Ok(_)) => {
                Err(format!("{text} is not on the loopback, 127.0.0.0/8: others than the container would ask there"))
            }
            (_, Err(_)) => Err(format!("{text:?} is neither an IPv4 address nor `off`")),
        }
    }
}

impl TryFrom<String> for DnsAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
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

impl From<DatapathChoice> for agent::DatapathChoice {
    fn from(choice: DatapathChoice) -> Self {
        match choice {
            DatapathChoice::Auto => Self::Auto,
            DatapathChoice::Ebpf => Self::Only(Datapath::Ebpf),
            DatapathChoice::Bridge => Self::Only(Datapath::Bridge),
        }
    }
}

impl From<WireguardChoice> for agent::config::WireguardChoice {
    fn from(choice: WireguardChoice) -> Self {
        match choice {
            WireguardChoice::Auto => Self::Auto,
            WireguardChoice::Kernel => Self::Kernel,
            WireguardChoice::Userspace => Self::Userspace,
        }
    }
}
