//! Input of the planner: everything that determines what one host must have for one network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ownership::MemberLink;
use crate::model::{HostName, IfName, Member, MemberId, Mtu, Network};

/// How a host forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
pub enum Datapath {
    /// TC eBPF programs redirect past any bridge.
    Ebpf,
    /// A bridge between the members' veths and the VTEP, as the seed draws it.
    Bridge,
}

impl fmt::Display for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ebpf => "ebpf",
            Self::Bridge => "bridge",
        })
    }
}

/// The facts about a member that only its own host knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalMember {
    /// The name of its link in the network netns.
    pub link: MemberLink,
    /// The n of its `vxlan-<n+1>-veth0`, and mostly of its `wg<n>`.
    pub index: u8,
    /// The digits in the name of its container's binding netns.
    pub binding: u64,
    /// Where its device is.
    pub device: DeviceAt,
}

/// Where a member's device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceAt {
    /// In the app netns, under this name.
    Home(IfName),
    /// In a namespace that stands for the app netns, under this name, until another program moves it. It is not set up before:
    /// to set it down again would wait for a grace period.
    Made(IfName),
    /// Under way to the app netns, in the hands of another program, which gives it its address. dockerd refuses one whose
    /// prefix a route of the container has, an `unreachable` one as well: only the guard comes before the device.
    Coming,
    /// Under way from the app netns, in the hands of another program.
    Going,
}

/// Input of the planner: a value, taken from the store and the host's own records.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The network.
    pub network: Network,
    /// This host.
    pub host: HostName,
    /// This host's VTEP address on the underlay.
    pub vtep: Ipv4Addr,
    /// The fleet's VXLAN port.
    pub vxlan_port: NonZeroU16,
    /// This host's MTUs.
    pub mtu: Mtu,
    /// This host's datapath.
    pub datapath: Datapath,
    /// All members of the network, by address, those of this host included.
    pub members: BTreeMap<Ipv4Addr, Arc<Member>>,
    /// The addresses of the network whose members have left, and which have had no holder since; of any host.
    pub departed: BTreeSet<Ipv4Addr>,
    /// The members of this host.
    pub local: BTreeMap<MemberId, LocalMember>,
    /// The VTEP addresses of the hosts that have members in the network.
    pub vteps: BTreeMap<HostName, Ipv4Addr>,
    /// How often the clocks of hosts have stepped back, this host's among them; those that never did are left out.
    pub clock_steps: BTreeMap<HostName, u64>,
}
