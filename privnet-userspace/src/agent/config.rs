//! What an agent is started with. Every path and namespace it touches is here, so that two agents can share one kernel.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::companion::{BinaryId, Program};
pub use crate::dns::DEFAULT_ADDRESS as DEFAULT_DNS_ADDRESS;
use crate::dns::ProcessSpec;
use crate::dns::engine::DEFAULT_MAX_AGE;
use crate::model::{HostName, NetworkId};
use crate::netns::Netns;
pub use crate::topology::Datapath;
use crate::topology::ownership;
pub use crate::wireguard::{Choice as WireguardChoice, OffloadChoice};

/// The bpffs that the programs and maps are pinned in, unless told otherwise.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";
/// The state directory, unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/privnet";

/// How often every network is observed anew, whatever is believed, unless told otherwise.
pub const DEFAULT_OBSERVE_INTERVAL: Duration = Duration::from_secs(30);

/// Where systemd, and most systems without it, keep the machine's id; machine-id(5).
pub const DEFAULT_MACHINE_ID: &str = "/etc/machine-id";

/// Most threads that serve names by UDP: each answers more than 100,000 queries a second.
const MAX_DNS_THREADS: usize = 4;
/// Where the host's own resolvers are named.
pub const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";

/// Which datapath to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DatapathChoice {
    /// eBPF where the kernel can, else the bridge.
    #[default]
    Auto,
    /// This one or none.
    Only(Datapath),
}

impl FromStr for DatapathChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "ebpf" => Ok(Self::Only(Datapath::Ebpf)),
            "bridge" => Ok(Self::Only(Datapath::Bridge)),
            other => Err(format!("datapath {other:?} is none of auto, ebpf, bridge")),
        }
    }
}

/// What an agent is started with.
#[derive(Clone)]
pub struct Config {
    /// The host's name in the store.
    pub host: HostName,
    /// The VTEP's address on the underlay. When absent: with etcd the address from which an endpoint is reached; otherwise the
    /// source address of the default route, and the loopback's when there is no default route.
    pub vtep: Option<Ipv4Addr>,
    /// The namespace that holds the underlay's interface, and `vxlan0`'s UDP socket.
    pub host_netns: Netns,
    /// Where our namespaces are pinned by name.
    pub netns_dir: PathBuf,
    /// What their names begin with; empty but where two agents share a kernel.
    pub netns_prefix: String,
    /// The bpffs under which `privnet/v<abi>/<network>/` is made.
    pub bpffs_dir: PathBuf,
    /// Records of this host's members and their keys.
    pub state_dir: PathBuf,
    /// Which datapath.
    pub datapath: DatapathChoice,
    /// Which WireGuard.
    pub wireguard: WireguardChoice,
    /// Whether a userspace WireGuard uses super-packets.
    pub offload: OffloadChoice,
    /// The `privnet` binary that userspace WireGuard processes run.
    pub wireguard_binary: PathBuf,
    /// How names are answered in this host's containers; nothing when they are not.
    pub names: Option<NamesConfig>,
    /// How often every network is observed anew, whatever is believed.
    pub observe_interval: Duration,
    /// Where the machine's id is, machine-id(5): a state directory belongs to one machine.
    pub machine_id_file: PathBuf,
    /// Whether the agent serves what it has seen while its store does not answer, or is not the fleet's; otherwise it waits, or
    /// ends with the reason.
    pub serves_alone: bool,
}

/// How names are answered in this host's containers.
#[derive(Clone, Debug)]
pub struct NamesConfig {
    /// Where in each container, UDP and TCP port 53.
    pub address: Ipv4Addr,
    /// How the DNS process is started.
    pub process: ProcessSpec,
    /// Its binary as it was when the agent was started: a process of another build is replaced.
    pub program: Program,
}

impl NamesConfig {
    /// The defaults, with `binary` as the DNS process.
    #[must_use]
    pub fn new(binary: PathBuf) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_DNS_THREADS);
        let program = Program { path: binary.clone(), id: BinaryId::of(&binary) };
        let process =
            ProcessSpec { binary, threads, max_age: DEFAULT_MAX_AGE, resolv_conf: PathBuf::from(HOST_RESOLV_CONF) };
        Self { address: DEFAULT_DNS_ADDRESS, process, program }
    }
}

/// Where the DNS process of a state directory keeps its control socket; a second place is its successor's.
#[must_use]
pub fn dns_dirs(state_dir: &Path) -> [PathBuf; 2] {
    ["dns-0", "dns-1"].map(|name| state_dir.join(name))
}

/// Where the userspace WireGuard processes of a state directory keep their control sockets, each in a directory of its own.
#[must_use]
pub fn wireguard_dirs(state_dir: &Path) -> PathBuf {
    state_dir.join("wireguard")
}

/// Where the userspace WireGuard process of a member keeps its control socket, in a state directory.
#[must_use]
pub fn wireguard_dir(state_dir: &Path, network: NetworkId, address: Ipv4Addr) -> PathBuf {
    wireguard_dirs(state_dir).join(format!("{:x}-{:08x}", network.uuid().as_fields().0, u32::from(address)))
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("host", &self.host)
            .field("vtep", &self.vtep)
            .field("netns_prefix", &self.netns_prefix)
            .field("state_dir", &self.state_dir)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Where a network's programs and maps are pinned.
    #[must_use]
    pub fn pins_of(&self, network: NetworkId) -> PathBuf {
        let version = format!("v{}", privnet_ebpf::abi::ABI_VERSION);
        self.bpffs_dir.join("privnet").join(version).join(ownership::network_netns(&self.netns_prefix, network))
    }

    /// The path of a namespace of ours.
    #[must_use]
    pub fn netns_path(&self, name: &str) -> PathBuf {
        self.netns_dir.join(name)
    }

    /// Where a userspace WireGuard process keeps its control socket.
    #[must_use]
    pub fn wireguard_dir(&self, network: NetworkId, address: Ipv4Addr) -> PathBuf {
        wireguard_dir(&self.state_dir, network, address)
    }

    /// Where the DNS process keeps its control socket; a second place is its successor's.
    #[must_use]
    pub fn dns_dirs(&self) -> [PathBuf; 2] {
        dns_dirs(&self.state_dir)
    }

    /// Where it is kept what stood in the containers' `resolv.conf` files.
    #[must_use]
    pub fn resolv_conf_dir(&self) -> PathBuf {
        self.state_dir.join("resolv-conf")
    }

    /// Where it is kept what was seen of the store.
    #[must_use]
    pub fn snapshot_path(&self) -> PathBuf {
        self.state_dir.join("snapshot")
    }

    /// Where the records of this host's members are.
    #[must_use]
    pub fn journal_dir(&self) -> PathBuf {
        Path::join(&self.state_dir, "members")
    }
}
