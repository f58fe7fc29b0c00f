//! What `privnet agent` accepts, on the command line and in its file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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
    /// This host's name [default: the first label of `hostname`].
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// The VTEP's address on the underlay [default: with etcd the address from which etcd is reached, else that of
    /// the default route's interface].
    #[arg(long, value_name = "ADDR")]
    pub vtep: Option<VtepAddress>,
    /// The state directory [default: /var/lib/privnet].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The control socket [default: /run/privnet/privnet.sock].
    #[arg(long, env = "PRIVNET_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The store of networks and members [default: embedded].
    #[arg(long, value_enum, value_name = "STORE")]
    pub store: Option<StoreKind>,
    /// The client URLs of the etcd cluster.
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    pub etcd_endpoints: Option<Vec<String>>,
    /// The CA certificates of the etcd cluster, in PEM; required with https endpoints.
    #[arg(long, value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// The client certificate for the etcd cluster, in PEM, when the cluster requires one.
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    pub etcd_cert: Option<PathBuf>,
    /// The private key of --etcd-cert, in PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub etcd_key: Option<PathBuf>,
    /// The user as which the agent asks the etcd cluster, when the cluster asks for a password.
    #[arg(long, value_name = "NAME", requires = "etcd_password_file")]
    pub etcd_user: Option<String>,
    /// The file with the password of --etcd-user; it is read again whenever etcd asks for it.
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    pub etcd_password_file: Option<PathBuf>,
    /// The datapath that forwards packets on this host [default: auto].
    #[arg(long, value_enum, value_name = "DATAPATH")]
    pub datapath: Option<DatapathChoice>,
    /// The WireGuard that encrypts packets on this host [default: auto].
    #[arg(long, value_enum, value_name = "WIREGUARD")]
    pub wireguard: Option<WireguardChoice>,
    /// Whether a userspace WireGuard moves many packets in one system call [default: auto].
    #[arg(long, value_enum, value_name = "OFFLOAD")]
    pub offload: Option<OffloadChoice>,
    /// Serve GET /metrics over HTTP at this address, without authentication [default: not served].
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// The address of the DNS server on each container's loopback, or `off` [default: 127.0.0.82].
    #[arg(long, value_name = "ADDR|off")]
    pub dns_address: Option<DnsAddress>,
    /// Serve Docker's network plugin at this socket, which names the driver: `docker network create -d privnet` looks for
    /// /run/docker/plugins/privnet.sock [default: served where systemd opens it].
    #[arg(long, value_name = "PATH")]
    pub docker_socket: Option<PathBuf>,
    /// The prefix of the names of this agent's namespaces; for a second agent on the same kernel.
    #[arg(long, hide = true, value_name = "PREFIX")]
    pub netns_prefix: Option<String>,
    /// The bpffs, or a directory of it; for a second agent on the same kernel.
    #[arg(long, hide = true, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// How often every network is observed anew, in seconds; for tests of what the kernel announces.
    #[arg(long, hide = true, value_name = "SECONDS")]
    pub observe_interval_seconds: Option<u64>,
    /// The file with this machine's id; where each container of a test is a machine.
    #[arg(long, hide = true, value_name = "FILE")]
    pub machine_id_file: Option<PathBuf>,
}

/// The address of a VTEP: IPv4, since VXLAN runs over IPv4 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct VtepAddress(pub Ipv4Addr);

impl std::str::FromStr for VtepAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(IpAddr::V4(address)) => Ok(Self(address)),
            Ok(IpAddr::V6(_)) => Err(format!(
                "{text} is an IPv6 address, and VXLAN runs over IPv4: use an address that `ip -4 address` shows"
            )),
            Err(_) => Err(format!("{text:?} is no IPv4 address: use an address that `ip -4 address` shows")),
        }
    }
}

impl TryFrom<String> for VtepAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Where containers send DNS queries.
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
                Err(format!("{text} is outside the loopback, 127.0.0.0/8: only the container may reach its DNS server"))
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

/// The store of networks and members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// A file on this host.
    Embedded,
    /// An etcd cluster.
    Etcd,
}

/// The datapath that forwards packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatapathChoice {
    /// eBPF programs where the kernel supports them, else a bridge.
    Auto,
    /// eBPF programs.
    Ebpf,
    /// A bridge.
    Bridge,
}

/// The WireGuard that encrypts packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireguardChoice {
    /// The kernel's WireGuard where it exists, else a process per member.
    Auto,
    /// The kernel's WireGuard.
    Kernel,
    /// A process per member.
    Userspace,
}

/// Whether a userspace WireGuard moves many packets in one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffloadChoice {
    /// Where the kernel is known to do it right.
    Auto,
    /// One packet in each call.
    Off,
}

impl From<OffloadChoice> for agent::config::OffloadChoice {
    fn from(choice: OffloadChoice) -> Self {
        match choice {
            OffloadChoice::Auto => Self::Auto,
            OffloadChoice::Off => Self::Off,
        }
    }
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
