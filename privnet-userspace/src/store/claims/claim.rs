//! What a claim of a membership asks for.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::model::ids::ContainerNumber;
use crate::model::{AppId, AppName, ContainerType, HostName, MemberId, NetworkId, Port, PublicKey};

/// What a new member is, and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberClaim {
    /// The identity of the new membership.
    pub id: MemberId,
    /// The network to become a member of.
    pub network: NetworkId,
    /// The container's app.
    pub app: AppId,
    /// The name of the app, where it was given by name.
    pub app_name: Option<AppName>,
    /// The container's type.
    pub kind: ContainerType,
    /// The container's number; the lowest free one when none is asked for.
    pub number: Option<ContainerNumber>,
    /// The address; a free one when none is asked for.
    pub address: Option<Ipv4Addr>,
    /// The host that it lives on.
    pub host: HostName,
    /// Its WireGuard public key.
    pub public_key: PublicKey,
    /// The UDP port of its WireGuard socket.
    pub wireguard_port: u16,
    /// The ports that it declares by name.
    pub ports: BTreeSet<Port>,
    /// When that is, in seconds since 1970-01-01 UTC: an address that was just released rests.
    pub now_unix_seconds: u64,
}
