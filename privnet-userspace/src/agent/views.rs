//! What the surfaces may see and ask: the JSON of the API, field for field. Names are stable; fields are only added.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::dns::engine::Counted;
use crate::model::ids::ContainerNumber;
use crate::model::{
    AppId, ContainerType, HostName, IfName, MemberState, NameOptions, NetworkId, NetworkName, PublicKey,
};

/// Asks for a network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// Its name.
    pub name: String,
    /// Its subnet; the next free /22 of the pool when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// What it says about its names; the defaults when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<NameOptions>,
}

/// A network as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// Its identifier.
    pub id: NetworkId,
    /// Its name.
    pub name: NetworkName,
    /// Its VNI.
    pub vni: u32,
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// The MTU of its members' WireGuard interfaces, in bytes.
    pub mtu: u32,
    /// When it was created, in seconds since 1970-01-01 UTC.
    pub created_unix_seconds: u64,
    /// How many addresses are held.
    pub addresses_used: u64,
    /// How many addresses members can have.
    pub addresses_max: u64,
    /// What it says about its names.
    #[serde(default)]
    pub names: NameOptions,
}

/// Which namespace to attach.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The namespace behind this path.
    Netns(PathBuf),
    /// The namespace of this process.
    Pid(u32),
}

/// Asks for a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The network's id or name.
    pub network: String,
    /// The app's id.
    pub app: String,
    /// The container's type; `web` when absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The container's number; the lowest free one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// The member's address; a free one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// The container's namespace.
    pub target: Target,
    /// The ports that it declares by name, `http=8080` or `dns=53/udp`; others find them as SRV records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
}

/// A member that was attached and can send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The network.
    pub network: NetworkId,
    /// The container's app.
    pub app: AppId,
    /// The container's type.
    #[serde(rename = "type")]
    pub kind: ContainerType,
    /// The container's number.
    pub number: ContainerNumber,
    /// The member's address.
    pub address: Ipv4Addr,
    /// The member's full domain name.
    pub hostname: String,
    /// The WireGuard interface in the app netns.
    pub interface: IfName,
    /// Whether it can send.
    pub ready: bool,
    /// What to put into the container's environment.
    pub env: BTreeMap<String, String>,
    /// What to put into the container's `/etc/resolv.conf`; nothing when this host answers no names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolv_conf: Option<String>,
}

/// Asks for the end of a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// The network's id or name.
    pub network: String,
    /// The app's id.
    pub app: String,
    /// The container's type; `web` when absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The container's number; the only one of its type on this host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// Whether to withdraw the name first, and to wait until nobody has it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
}

/// One name of an app's containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainNameView {
    /// The name, without a final dot.
    pub name: String,
    /// The network.
    pub network: NetworkId,
    /// The network's name.
    pub network_name: NetworkName,
    /// The type in the name; without one it is `web`.
    #[serde(rename = "type")]
    pub kind: Option<ContainerType>,
    /// The number in the name; without one it is all of the type.
    pub number: Option<ContainerNumber>,
    /// The addresses of the ready containers, in order.
    pub addresses: Vec<Ipv4Addr>,
}

/// What a container is told about a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveView {
    /// The name, with the final dot.
    pub name: String,
    /// The type of record.
    #[serde(rename = "type")]
    pub kind: String,
    /// The container, `<number>.<type>.<app>`.
    pub asker: String,
    /// `snapshot`, `forwarded` or `refused`.
    pub source: String,
    /// `noerror`, `nxdomain`, `servfail` or `refused`; empty when others are asked.
    pub rcode: String,
    /// The records, `<owner> <ttl> <type> <data>`.
    pub records: Vec<String>,
    /// How long ago the names were last known to be current, in seconds.
    pub age_seconds: Option<u64>,
    /// Why it is told that.
    pub reason: String,
}

/// How names are answered on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesView {
    /// Where in each container.
    pub address: Ipv4Addr,
    /// How many containers can ask.
    pub containers: usize,
    /// How many networks' names are known.
    pub networks: usize,
    /// How many members' names are known.
    pub members: usize,
    /// How long ago the names were last known to be current, in seconds; nothing when none were told.
    pub age_seconds: Option<u64>,
    /// Whether they are too old to be answered from.
    pub is_stale: bool,
    /// What was counted since the DNS process began.
    pub counted: Counted,
}

/// What a detach did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// Whether there was a member; false when it was gone already.
    pub detached: bool,
}

/// A member as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// The network.
    pub network: NetworkId,
    /// The network's name.
    pub network_name: NetworkName,
    /// The container's app.
    pub app: AppId,
    /// The container's type.
    #[serde(rename = "type")]
    pub kind: ContainerType,
    /// The container's number.
    pub number: ContainerNumber,
    /// The member's address.
    pub address: Ipv4Addr,
    /// The member's full domain name.
    pub hostname: String,
    /// Its WireGuard public key.
    pub public_key: PublicKey,
    /// The host it lives on.
    pub host: HostName,
    /// How far its host has come with it.
    pub state: MemberState,
    /// On its own host: the WireGuard interface in the app netns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<IfName>,
}

/// The agent's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Its version.
    pub version: String,
    /// The host's name.
    pub host: HostName,
    /// The VTEP's address on the underlay.
    pub vtep: Ipv4Addr,
    /// The MTU of the underlay, in bytes.
    pub underlay_mtu: u32,
    /// The datapath in use: `ebpf` or `bridge`.
    pub datapath: String,
    /// The WireGuard in use: `kernel` or `userspace`.
    pub wireguard: String,
    /// The store in use: `memory`, `embedded`, `etcd`.
    pub store: String,
    /// How many networks have members on this host.
    pub networks: usize,
    /// How many members are on this host.
    pub members: usize,
    /// How many of them are ready.
    pub members_ready: usize,
    /// When the last complete pass ended, in seconds since 1970-01-01 UTC.
    pub last_pass_unix_seconds: Option<u64>,
    /// What the last pass could not do, one line each; empty when all is as it should be.
    pub problems: Vec<String>,
    /// How names are answered; nothing when they are not.
    #[serde(default)]
    pub names: Option<NamesView>,
    /// How often the host's clock was seen to step back.
    #[serde(default)]
    pub clock_steps: u64,
}

/// The answer of one check of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub status: CheckStatus,
    /// What was found.
    pub detail: String,
    /// What to do; empty when all is well.
    pub remedy: String,
}

/// How a check of `doctor` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// It works, with less than all there is.
    Warn,
    /// It does not work.
    Fail,
}

/// One network's counters on this host, for metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCounters {
    /// The network.
    pub network: NetworkId,
    /// The network's name.
    pub network_name: NetworkName,
    /// One row per member, direction and reason that was ever counted.
    pub rows: Vec<CounterRow>,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRow {
    /// The container, `<number>.<type>.<app>`; `unknown` for packets that no member of this host can be charged with.
    pub member: String,
    /// `egress` from the member, `ingress` to it.
    pub direction: String,
    /// `forwarded`, `arp_answered`, or the reason of a drop.
    pub reason: String,
    /// Whether the packets were dropped.
    pub dropped: bool,
    /// How many packets.
    pub packets: u64,
    /// Their bytes on the carrier, Ethernet header included.
    pub bytes: u64,
}

/// One member's WireGuard figures, for metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelView {
    /// The network's name.
    pub network_name: NetworkName,
    /// The network.
    pub network: NetworkId,
    /// The container, `<number>.<type>.<app>`.
    pub member: String,
    /// How many peers it has.
    pub peers: u64,
    /// Encrypted bytes received, all peers.
    pub received_bytes: u64,
    /// Encrypted bytes sent, all peers.
    pub sent_bytes: u64,
}
