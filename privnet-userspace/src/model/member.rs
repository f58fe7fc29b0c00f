//! A member's record in the store: one container's place in one network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use privnet_ebpf::net::MacAddr;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::app::AppName;
use super::ids::{ContainerRef, HostName, NetworkId};
use super::keys::PublicKey;
use super::member_id::MemberId;
use super::port::Port;

/// How far a member's host has come with it, in the order in which a member goes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
pub enum MemberState {
    /// Its address is claimed; its host is building it.
    Attaching,
    /// It can send and receive.
    Ready,
    /// It can send and receive, and has no name any more: it is about to leave.
    Draining,
}

/// A member, as `members/<pn>/<member>` holds it. `<member>` is the container's text form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The membership's identity; records that were written without one have that of their key, [`MemberId::of_key`].
    pub id: MemberId,
    /// The network it is a member of.
    pub network: NetworkId,
    /// The container that it is the place of.
    #[serde(flatten)]
    pub container: ContainerRef,
    /// Its one address: inside the tunnel and on the carrier.
    pub address: Ipv4Addr,
    /// Raised each time the address is given out, so that its MAC is never an earlier holder's.
    pub generation: u8,
    /// Its WireGuard public key, which no other member has.
    pub public_key: PublicKey,
    /// The UDP port of its WireGuard socket in the binding netns.
    pub wireguard_port: u16,
    /// The host it lives on.
    pub host: HostName,
    /// The identity of the state directory of the agent that made it; `None` where the build before did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Uuid>,
    /// How far its host has come with it.
    pub state: MemberState,
    /// The ports that it declared by name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ports: BTreeSet<Port>,
    /// The name of the container's app, where the app was given by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_name: Option<AppName>,
    /// Further names of the same membership, in the order in which they were given; `container` is the oldest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<MemberName>,
}

/// A further name of a membership: another type of container that shares its network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberName {
    /// The name.
    #[serde(flatten)]
    pub container: ContainerRef,
    /// The name of its app, where the app was given by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_name: Option<AppName>,
    /// The ports that were declared with it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ports: BTreeSet<Port>,
    /// Whether it has been withdrawn, and is about to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Fields that this build does not know; they are kept.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

impl Member {
    /// Its MAC address on the carrier.
    #[must_use]
    pub const fn mac(&self) -> MacAddr {
        MacAddr::of_member(self.address.octets(), self.generation)
    }

    /// The oldest of its names, which stands for it.
    #[must_use]
    pub const fn oldest_name(&self) -> NameOf<'_> {
        NameOf { container: &self.container, app_name: self.app_name.as_ref(), ports: &self.ports, state: self.state }
    }

    /// Its names, the oldest first.
    pub fn each_name(&self) -> impl Iterator<Item = NameOf<'_>> {
        let further = self.names.iter().map(|name| NameOf {
            container: &name.container,
            app_name: name.app_name.as_ref(),
            ports: &name.ports,
            state: match self.state {
                _ if name.draining => MemberState::Draining,
                MemberState::Attaching => MemberState::Attaching,
                MemberState::Ready | MemberState::Draining => MemberState::Ready,
            },
        });
        std::iter::once(self.oldest_name()).chain(further)
    }

    /// One of its names; nothing when it does not have it.
    #[must_use]
    pub fn name(&self, container: &ContainerRef) -> Option<NameOf<'_>> {
        self.each_name().find(|name| name.container == container)
    }
}

/// One of a membership's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameOf<'a> {
    /// The name.
    pub container: &'a ContainerRef,
    /// The name of its app, where the app was given by name.
    pub app_name: Option<&'a AppName>,
    /// The ports that were declared with it.
    pub ports: &'a BTreeSet<Port>,
    /// How far its host has come with it.
    pub state: MemberState,
}
