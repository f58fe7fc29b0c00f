//! One record: what this host knows of one of its members.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{ContainerRef, HostName, MemberId, NetworkId};
use crate::netns::{Netns, NetnsId};
use crate::topology::ownership::MemberLink;

/// What this host knows of one of its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The membership.
    pub id: MemberId,
    /// The network.
    pub network: NetworkId,
    /// The container.
    pub container: ContainerRef,
    /// The member's address.
    pub address: Ipv4Addr,
    /// The n of its `wg<n>`.
    pub index: u8,
    /// A number among this host's members by which its link in the network netns is named. Nothing where a build before slots
    /// attached the member: its link is named by its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Where the app netns was found.
    pub netns_path: PathBuf,
    /// Which namespace that was: paths are recycled, this is not as long as the namespace lives.
    pub netns: NetnsId,
    /// Which one it was among all that ever had that number; absent where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_cookie: Option<u64>,
    /// Which boot of the kernel that was.
    pub boot_id: String,
    /// Whether only its teardown remains.
    pub leaving: bool,
    /// How often the clocks of its peers' hosts had stepped back when its peers were made; those that never did are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clock_steps: BTreeMap<HostName, u64>,
    /// The store's records of the membership, by key, as they were written last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stored: BTreeMap<String, String>,
    /// Fields that this build does not know; they are kept.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

impl Record {
    /// What the member's link in the network netns is named after.
    #[must_use]
    pub fn link(&self) -> MemberLink {
        self.slot.map_or(MemberLink::Address(self.address), MemberLink::Slot)
    }

    /// Whether the container's namespace is still the one that was attached; `boot_id` is the running boot's.
    #[must_use]
    pub fn is_alive(&self, boot_id: &str) -> bool {
        self.boot_id == boot_id && Netns::identify(&self.netns_path).is_ok_and(|id| id == self.netns)
    }
}
