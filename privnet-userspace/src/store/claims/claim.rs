//! What a claim of a membership, or of a further name of one, asks for.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use uuid::Uuid;

use crate::model::ids::ContainerNumber;
use crate::model::{AppId, AppName, ContainerRef, ContainerType, HostName, MemberId, NetworkId, Port, PublicKey};

/// What a new name is, the first one of a membership or a further one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameWish {
    /// The container's app.
    pub app: AppId,
    /// The name of the app, where it was given by name.
    pub app_name: Option<AppName>,
    /// The container's type.
    pub kind: ContainerType,
    /// The container's number; when absent, one of `own` that is free, else the lowest that is free in all networks.
    pub number: Option<ContainerNumber>,
    /// The numbers that its namespace has for the app and type in other networks: one of these is preferred.
    pub own: BTreeSet<ContainerNumber>,
    /// The numbers that other namespaces have for the app and type in other networks: none of these is chosen.
    pub elsewhere: BTreeSet<ContainerNumber>,
    /// The ports that are declared with it.
    pub ports: BTreeSet<Port>,
}

/// What a new member is, and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberClaim {
    /// The identity of the new membership.
    pub id: MemberId,
    /// The network to become a member of.
    pub network: NetworkId,
    /// Its name.
    pub name: NameWish,
    /// The address; a free one when none is asked for.
    pub address: Option<Ipv4Addr>,
    /// The host that it lives on.
    pub host: HostName,
    /// The identity of the state directory of that host's agent.
    pub instance: Option<Uuid>,
    /// Its WireGuard public key.
    pub public_key: PublicKey,
    /// The UDP port of its WireGuard socket.
    pub wireguard_port: u16,
    /// When that is, in seconds since 1970-01-01 UTC: an address that was just released rests.
    pub now_unix_seconds: u64,
}

/// A further name of a membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameClaim {
    /// The network.
    pub network: NetworkId,
    /// The membership.
    pub member: MemberId,
    /// One of its names.
    pub known_as: ContainerRef,
    /// The new name.
    pub name: NameWish,
}
