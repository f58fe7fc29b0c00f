//! What the surfaces may see and ask: the JSON of the API, field for field. Names are stable; fields are only added.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::model::ids::ContainerNumber;
use crate::model::{
    AppId, AppName, ContainerType, FleetId, HostName, IfName, MemberState, NameOptions, NetworkId, NetworkName, Port,
    PublicKey, published,
};

mod attachments;
mod drops;
mod hosts;
mod names;
#[cfg(test)]
pub(crate) mod schemas;
mod scrape;
mod state;
mod status;
mod streams;
mod version;
mod within;

pub use attachments::{Attachment, AttachmentView, EndAttachment};
pub use drops::{DropLine, DroppedFrame, DropsQuery};
pub use hosts::{AdoptHost, Adopted, DrainHost, DrainedHost, ForgetHost, ForgottenHost, HostState, HostView};
pub use names::{
    AnswerSource, DomainNameView, DomainNamesQuery, NamesCounted, NamesView, RepliesCounted, ResolveQuery, ResolveView,
};
pub use scrape::{CounterRow, MemberProblems, NetworkCounters, Scrape, ScrapeErrorKind, TunnelView};
pub use state::{ExportedState, ImportedState, RebuildState, RebuiltState};
pub use status::StatusView;
pub use streams::OpenStream;
pub use version::{BuildProfile, VersionView};
use within::within;

pub use crate::datapath::{Direction, DropReason, Explained, explained};
pub use crate::dns::{ResponseCode, Transport};

/// Asks for a network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CreateNetwork {
    /// Its name.
    #[cfg_attr(test, schemars(with = "NetworkName"))]
    pub name: String,
    /// Its subnet; the next free /22 of the pool when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<schemas::Subnet>"))]
    pub subnet: Option<String>,
    /// The MTU of its members' interfaces in bytes; what the underlay of the creating host leaves when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 576, max = 65_425)))]
    pub mtu: Option<u32>,
    /// What it says about its names; the defaults when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<NameOptions>,
}

/// A network as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Network"))]
pub struct NetworkView {
    /// Its identifier.
    pub id: NetworkId,
    /// Its name.
    pub name: NetworkName,
    /// Its VNI.
    #[cfg_attr(test, schemars(with = "schemas::Vni"))]
    pub vni: u32,
    /// Its subnet.
    #[cfg_attr(test, schemars(with = "schemas::Subnet"))]
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
    /// How old what is known of the store is, in seconds; absent while it is current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_age_seconds: Option<u64>,
}

/// What the hosts that share a store have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Fleet"))]
pub struct FleetView {
    /// The fleet's identifier.
    pub id: FleetId,
    /// How often an operator said that a store is the fleet's from then on, and the first time.
    pub epoch: u64,
    /// The UDP port of VXLAN between the hosts.
    pub vxlan_port: NonZeroU16,
}

/// Asks for another setting of the fleet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SetFleet {
    /// The UDP port of VXLAN between the hosts. Refused while a network has members.
    pub vxlan_port: NonZeroU16,
}

/// Which namespace to attach.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Target {
    /// The namespace behind this path.
    Netns(#[cfg_attr(test, schemars(with = "schemas::AbsolutePath"))] PathBuf),
    /// The namespace of this process.
    Pid(#[cfg_attr(test, schemars(with = "std::num::NonZeroU32"))] u32),
}

/// Asks for a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Attach {
    /// The network's id or name.
    #[cfg_attr(test, schemars(with = "schemas::NetworkIdOrName"))]
    pub network: String,
    /// The app's id or name.
    #[cfg_attr(test, schemars(with = "schemas::AppIdOrName"))]
    pub app: String,
    /// The container's type; `web` when absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<ContainerType>"))]
    pub kind: Option<String>,
    /// The container's number; when absent the one that its namespace has already, or the lowest that is free in all networks.
    #[serde(default, deserialize_with = "within::<_, 1, 99_999>", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<ContainerNumber>"))]
    pub number: Option<u32>,
    /// The member's address; a free one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// The container's namespace.
    pub target: Target,
    /// The ports that it declares by name, `http=8080` or `dns=53/udp`; others find them as SRV records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<crate::model::Port>"))]
    pub ports: Vec<String>,
    /// The container's `resolv.conf`; it stays as it is when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolv_conf: Option<ResolvConfFile>,
    /// What the container runtime says of it that asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
}

/// A container's `resolv.conf` on this host, and who writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ResolvConfFile {
    /// Its path, without symbolic links. The agent writes the file from all networks of the container, with each attach and
    /// detach, and puts back what stood there with the last one.
    #[cfg_attr(test, schemars(with = "schemas::AbsolutePath"))]
    pub path: PathBuf,
    /// Whether the caller writes it instead, with the `resolv_conf` of the answer: only root may have the agent write a file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_caller: bool,
    /// What stands in it, where the caller writes it: the servers that it names are asked for the names of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// What is not as it should be, although what was asked for is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Problem"))]
pub struct ProblemView {
    /// The object.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

/// A member: its container, its address and its name, in the object that tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MemberRef {
    /// The container's app.
    pub app: AppId,
    /// The app's name, where the app was given by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_name: Option<AppName>,
    /// The container's type.
    #[serde(rename = "type")]
    pub kind: ContainerType,
    /// The container's number.
    pub number: ContainerNumber,
    /// The member's address.
    pub address: Ipv4Addr,
    /// The full domain name; of a member as a whole, and in the answer to an attach, that of its oldest name.
    pub hostname: String,
}

/// A member that was attached and can send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Attached {
    /// The network.
    pub network: NetworkId,
    /// The member.
    #[serde(flatten)]
    pub member: MemberRef,
    /// The WireGuard interface in the app netns.
    pub interface: IfName,
    /// Whether it can send.
    pub ready: bool,
    /// What to put into the container's environment.
    pub env: BTreeMap<String, String>,
    /// What to put into the container's `/etc/resolv.conf`; nothing when this host answers no names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolv_conf: Option<String>,
    /// What does not work, although the container is a member.
    #[serde(default)]
    pub problems: Vec<ProblemView>,
}

/// Asks for the end of a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Detach {
    /// The network's id or name.
    #[cfg_attr(test, schemars(with = "schemas::NetworkIdOrName"))]
    pub network: String,
    /// The app's id or name.
    #[cfg_attr(test, schemars(with = "schemas::AppIdOrName"))]
    pub app: String,
    /// The container's type; `web` when absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<ContainerType>"))]
    pub kind: Option<String>,
    /// The container's number; the only one of its type on this host when absent.
    #[serde(default, deserialize_with = "within::<_, 1, 99_999>", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<ContainerNumber>"))]
    pub number: Option<u32>,
    /// Whether to withdraw the name first, and to wait until no client can have it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
    /// Whether to end a member of another host, whose agent is away; it obeys when it is back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Names the network of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NetworkPath {
    /// The network's id or name.
    #[cfg_attr(test, schemars(with = "schemas::NetworkIdOrName"))]
    pub network: String,
}

/// Asks that a network is deleted with its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EndNetwork {
    /// The network's id or name.
    #[cfg_attr(test, schemars(with = "schemas::NetworkIdOrName"))]
    pub network: String,
    /// Whether more than five members may end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub yes: bool,
}

/// What the end of a network ended with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EndedNetwork {
    /// How many members it had.
    pub members_ended: u64,
}

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Deleted {
    /// Always true; a network that was not there is an error.
    pub deleted: bool,
}

/// Says whose members are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MembersQuery {
    /// The network's id or name; all networks when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<schemas::NetworkIdOrName>"))]
    pub network: Option<String>,
}

/// What a detach did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Detached {
    /// Whether there was a member; false when it was gone already.
    pub detached: bool,
    /// What was left in the container that is not as it was before.
    #[serde(default)]
    pub problems: Vec<ProblemView>,
}

/// A member as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Member"))]
pub struct MemberView {
    /// The network.
    pub network: NetworkId,
    /// The network's name.
    pub network_name: NetworkName,
    /// The member.
    #[serde(flatten)]
    pub member: MemberRef,
    /// Its WireGuard public key.
    pub public_key: PublicKey,
    /// The host it lives on.
    pub host: HostName,
    /// How far its host has come with it.
    pub state: MemberState,
    /// On its own host: the WireGuard interface in the app netns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<IfName>,
    /// All names of the member, the oldest first: app, type, number, hostname and state above are those of the oldest.
    #[serde(default)]
    pub names: Vec<NameView>,
    /// Since when the member's host is not heard, as far as this agent knows, in seconds since 1970-01-01 UTC; absent while it
    /// is. The member may go on, and its names are withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable_since_unix_seconds: Option<u64>,
    /// How old what is known of the store is, in seconds; absent while it is current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_age_seconds: Option<u64>,
}

/// One name of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "MemberName"))]
pub struct NameView {
    /// The name.
    #[serde(flatten)]
    pub name: MemberRef,
    /// How far the host has come with it.
    pub state: MemberState,
    /// The ports that were declared with it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ports: BTreeSet<Port>,
}

/// The answer of one check of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

published! {
    /// How a check of `doctor` ended.
    CheckStatus {
        /// As it should be.
        Ok "ok",
        /// It works, with less than all there is.
        Warn "warn",
        /// It does not work.
        Fail "fail",
    }
}
