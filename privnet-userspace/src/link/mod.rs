//! The door to rtnetlink: observe links, addresses, routes, neighbours and filters, and change one thing per call.
//!
//! A [`Links`] is a netlink socket that was opened in one namespace. An observation is whole or it is an error. An
//! operation is one request, which the kernel carries out wholly or not at all. Links are created directly in the
//! namespace where they belong, never moved (measured: 0.1 ms instead of 16 ms). Never decides what should exist or
//! which link is ours, and never attaches a program: it only reports filters.
//!
//! The kernel carries a request out while it is being sent, so a request that waits for a grace period (deleting a
//! link, 16 to 29 ms) occupies a thread of the runtime that long.

mod change;
mod create;
mod error;
mod observe;
mod port;
mod read;
mod watch;
mod wire;

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use privnet_ebpf::net::MacAddr;

use crate::netns::{Netns, NetnsId};

pub use change::BridgePort;
pub use create::{BridgeSpec, VethEnd, VethSpec, VxlanSpec};
pub use error::{AbsentIsDone, Error, Refusal};
pub use port::{PortHolder, udp_port_holder};
pub use watch::{LinkEvent, LinkWatch};

/// The loopback interface, which has the same index in every namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
pub const LOOPBACK_INDEX: u32 = 1;

/// A netlink socket in one namespace. Does not keep the namespace's thread; closes its socket when dropped.
///
/// Calls may run at the same time; the kernel answers them in order.
#[derive(Debug)]
pub struct Links {
    wire: Arc<wire::Wire>,
}

impl Links {
    /// Opens a socket in `netns`, served by a task on the calling task's runtime.
    ///
    /// # Errors
    /// [`Error::Netns`] or [`Error::Socket`].
    pub async fn open(netns: &Netns) -> Result<Self, Error> {
        let (wire, _unasked) = wire::Wire::open(netns, 0).await?;
        Ok(Self { wire: Arc::new(wire) })
    }

    /// The namespace that it observes and changes.
    #[must_use]
    pub fn netns(&self) -> NetnsId {
        self.wire.netns()
    }
}

/// Brings `lo` up, without which a namespace cannot reach its own addresses. Up already is done.
///
/// # Errors
/// As [`Links::set_up`].
pub async fn ensure_loopback_up(links: &Links) -> Result<(), Error> {
    links.set_up(LOOPBACK_INDEX).await
}

/// A network interface as one namespace sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index, unique in its namespace only.
    pub index: u32,
    /// Its name, as the kernel has it; bytes that are no UTF-8 are replaced.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Its Ethernet address; `None` for links without one (WireGuard, TUN).
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// `IFF_UP`: whether it was set up, by an administrator.
    pub up: bool,
    /// `IFF_LOWER_UP`: whether it can carry packets. Health is this, not `up`.
    pub carrier: bool,
    /// Free text.
    pub alias: Option<String>,
    /// The index of the bridge (or VRF, bond) that it is a port of.
    pub controller: Option<u32>,
    /// How the bridge that it is a port of treats it; `None` when it is no port of a bridge.
    pub bridge_port: Option<BridgePort>,
    /// The other end of a veth, or the device below.
    pub lower: Option<u32>,
    /// In which namespace `lower` is, or where the socket of a tunnel is, when that is another one: an id that is valid
    /// in the observing namespace only, see [`Links::nsid_of`]. -1: in one that it has no id for.
    pub lower_nsid: Option<i32>,
}

/// What a link is, with what matters of its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// One end of a pair; the other is [`Link::lower`] in [`Link::lower_nsid`].
    Veth,
    /// A VTEP.
    Vxlan(Vxlan),
    /// A bridge.
    Bridge,
    /// A WireGuard device of the kernel.
    Wireguard,
    /// A TUN or TAP device.
    Tun,
    /// `lo`.
    Loopback,
    /// Another kind, by the kernel's name for it; empty for hardware, `?` when the answer could not be decoded.
    Other(String),
}

/// The settings of a VXLAN link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The VNI; 0 for a flow-based device.
    pub vni: u32,
    /// The underlay address that it sends from.
    pub local: Option<Ipv4Addr>,
    /// A default destination, unicast or multicast; ours have none.
    pub remote: Option<Ipv4Addr>,
    /// The UDP port, sent to and listened on.
    pub port: u16,
    /// Whether it learns addresses from what it receives.
    pub learning: bool,
    /// Whether it answers ARP from its neighbour table.
    pub proxy: bool,
    /// Whether it is flow-based: the VNI comes with each packet.
    pub external: bool,
    /// Whether it computes the outer UDP checksum.
    pub udp_checksum: bool,
}

/// An IPv4 address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Of which link.
    pub index: u32,
    /// The address with its prefix length, not truncated to the prefix.
    pub address: Ipv4Net,
}

/// An IPv4 route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub destination: Ipv4Net,
    /// What happens there.
    pub target: RouteTarget,
    /// The metric; the lower wins. 0 when none was given.
    pub metric: u32,
    /// Who made it (`RTPROT_…`, include/uapi/linux/rtnetlink.h): 2 the kernel, 3 boot, 4 an administrator.
    pub protocol: u8,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTarget {
    /// Sends it out of a link, through a gateway if there is one.
    Link {
        /// The link's index.
        index: u32,
        /// The gateway.
        gateway: Option<Ipv4Addr>,
    },
    /// Answers "no route to host".
    Unreachable,
    /// Another kind (`RTN_…`), among them routes with several next hops.
    Other(u8),
}

/// An entry of a VXLAN link's forwarding table: where the host of a MAC address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbEntry {
    /// The inner destination.
    pub mac: MacAddr,
    /// The VTEP that it is behind.
    pub destination: Option<Ipv4Addr>,
    /// Whether it stays until it is deleted (`NUD_PERMANENT`), which ours do.
    pub permanent: bool,
}

/// An entry of a bridge's forwarding table: behind which of its ports a MAC address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeFdbEntry {
    /// The destination.
    pub mac: MacAddr,
    /// The index of the port.
    pub port: u32,
    /// Whether it stays until it is deleted (`NUD_NOARP`), which ours do; what a bridge learns does not.
    pub fixed: bool,
}

/// An entry of a link's IPv4 neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// Of which link.
    pub index: u32,
    /// Whose.
    pub address: Ipv4Addr,
    /// At which MAC address; `None` while it is being asked for.
    pub mac: Option<MacAddr>,
    /// Whether it stays until it is deleted (`NUD_PERMANENT`), which ours do.
    pub permanent: bool,
}

/// Which of clsact's two hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Packets that the link received.
    Ingress,
    /// Packets that it is about to send.
    Egress,
}

/// A filter at a hook of clsact. TCX programs are not filters and do not show here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    /// Its priority; the lower runs first.
    pub priority: u16,
    /// Its handle within the priority.
    pub handle: u32,
    /// The classifier: `bpf`, `flower`.
    pub kind: String,
    /// The id of its BPF program.
    pub program_id: Option<u32>,
    /// What its BPF program was called when it was attached.
    pub name: Option<String>,
}
