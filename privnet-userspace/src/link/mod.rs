//! The door to rtnetlink: observes links, addresses, routes, neighbours and filters, and changes one object per call.
//!
//! A [`Links`] is a netlink socket that was opened in one namespace. An observation is complete or an error. A change
//! is one request, which the kernel carries out wholly or not at all. Links are created in their final namespace and
//! never moved (measured: 0.1 ms instead of 16 ms). Never decides which links should exist or which are privnet's, and
//! attaches no program: it reports filters.
//!
//! The kernel carries a request out during the `send`, so a request that waits for a grace period (deleting a link, 16
//! to 29 ms) occupies a thread of the runtime for that time.
//!
//! | file | what it owns |
//! |---|---|
//! | `socket` | one netlink socket: requests, acknowledgements, complete dumps |
//! | `read` | netlink messages as values; pure |
//! | `observe` | what a namespace holds |
//! | `create` | making links |
//! | `change` | changing what exists |
//! | `watch` | notifications of links, addresses, routes, neighbours and filters |
//! | `routes` | the routes that the kernel makes for an address, and the way that it takes to one |
//! | `rules` | the rules by which the kernel chooses a table of routes |
//! | `port` | the holder of a UDP port |

mod change;
mod create;
mod error;
mod observe;
mod port;
mod read;
mod routes;
mod rules;
mod socket;
mod watch;

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use privnet_ebpf::net::MacAddr;

use crate::netns::{Netns, NetnsId};

pub use create::{BridgeSpec, VethEnd, VethSpec, VxlanSpec};
pub use error::{AbsentIsDone, Error, Refusal};
pub use port::{PortHolder, udp_port_holder};
pub use rules::RuleChanges;
pub use watch::{Event, FdbEvent, LinkEvent, RouteEvent, Topic, Watch};

/// The loopback interface, which has the same index in every namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
pub const LOOPBACK_INDEX: u32 = 1;

/// A netlink socket in one namespace. It does not hold the namespace's thread, and closes when it is dropped.
///
/// Calls can run at the same time; the kernel answers them in order.
#[derive(Clone, Debug)]
pub struct Links {
    socket: Arc<socket::Socket>,
}

impl Links {
    /// Opens a socket in `netns`, served by a task on the calling task's runtime.
    ///
    /// # Errors
    /// [`Error::Netns`] or [`Error::Socket`].
    pub async fn open(netns: &Netns) -> Result<Self, Error> {
        Ok(Self { socket: Arc::new(socket::Socket::open(netns).await?) })
    }

    /// The namespace of the socket.
    #[must_use]
    pub fn netns(&self) -> NetnsId {
        self.socket.netns()
    }
}

/// Sets `lo` up, if it is down. A namespace reaches its own addresses through it.
///
/// # Errors
/// As [`Links::set_up`].
pub async fn ensure_loopback_up(links: &Links) -> Result<(), Error> {
    links.set_up(LOOPBACK_INDEX).await
}

/// A network interface of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index, which is unique in its namespace only.
    pub index: u32,
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Its kind.
    pub kind: LinkKind,
    /// Its Ethernet address; `None` for links without one (WireGuard, TUN).
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// `IFF_UP`: whether it was set up.
    pub up: bool,
    /// `IFF_LOWER_UP`: whether it can carry packets. A link without carrier can be `up`.
    pub carrier: bool,
    /// Whether its other flags are those of a new link: it resolves addresses where it has them, and takes no packets but its
    /// own; and whether a bridge neither speaks the spanning tree protocol nor looks into multicast.
    pub plain: bool,
    /// Its alias, a free text.
    pub alias: Option<String>,
    /// The index of the bridge (or VRF, bond) that it is a port of.
    pub controller: Option<u32>,
    /// Its settings as a port of a bridge; `None` when it is not one.
    pub bridge_port: Option<BridgePort>,
    /// The other end of a veth, or the device below.
    pub lower: Option<u32>,
    /// The namespace of `lower`, or of the socket of a tunnel, when it is another one: an id that is valid in the
    /// observing namespace only, see [`Links::nsid_of`]. -1: a namespace without such an id.
    pub lower_nsid: Option<i32>,
}

/// The kind of a link, with the settings that privnet compares.
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

/// The settings of a port of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgePort {
    /// Whether the bridge learns addresses from frames of the port.
    pub learning: bool,
    /// Whether the bridge sends frames to unknown unicast addresses to the port.
    pub unicast_flood: bool,
    /// Whether the bridge sends multicast frames to the port.
    pub multicast_flood: bool,
    /// Whether the bridge sends broadcast frames to the port.
    pub broadcast_flood: bool,
    /// Whether frames pass the port at all; not while the port or the bridge is down.
    pub forwarding: bool,
    /// Whether it exchanges no frames with other ports of this kind.
    pub isolated: bool,
    /// Whether the bridge takes frames from it of addresses only that are behind it.
    pub locked: bool,
}

/// The settings of a VXLAN link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The VNI; 0 for a flow-based device.
    pub vni: u32,
    /// The underlay address that is the source of its packets.
    pub local: Option<Ipv4Addr>,
    /// The default destination, unicast or multicast; a link of privnet has none.
    pub remote: Option<Ipv4Addr>,
    /// The UDP port, of its socket and of the destinations.
    pub port: u16,
    /// Whether it learns addresses from received packets.
    pub learning: bool,
    /// Whether it answers ARP from its neighbour table.
    pub proxy: bool,
    /// Whether it is flow-based: each packet brings its VNI.
    pub external: bool,
    /// Whether it computes the outer UDP checksum.
    pub udp_checksum: bool,
}

/// An IPv4 address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The index of the link.
    pub index: u32,
    /// The address and its prefix length.
    pub address: Ipv4Net,
    /// Whether it is as the kernel makes one without options: it stays, may be the source of any packet, and the kernel makes
    /// the route of its prefix.
    pub is_plain: bool,
}

/// A route that the kernel makes by itself for an address of a link that is up, and does not make again when it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressRoute {
    /// `local`: the address is this namespace's own.
    Local,
    /// The prefix is behind the link, and the address is the source of what goes there.
    Connected,
    /// The last address of the prefix is everybody's.
    Broadcast,
}

/// An IPv4 route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The destination.
    pub destination: Ipv4Net,
    /// The target.
    pub target: RouteTarget,
    /// The metric; the kernel prefers the lowest. 0 when none was given.
    pub metric: u32,
    /// The origin (`RTPROT_…`, include/uapi/linux/rtnetlink.h): 2 the kernel, 3 boot, 4 an administrator.
    pub protocol: u8,
}

/// The effect of a route on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTarget {
    /// The kernel sends it out of a link, through the gateway if the route has one.
    Link {
        /// The link's index.
        index: u32,
        /// The gateway.
        gateway: Option<Ipv4Addr>,
    },
    /// The kernel drops it and answers "no route to host".
    Unreachable,
    /// Another type (`RTN_…`), also of routes with several next hops.
    Other(u8),
}

/// An entry of a VXLAN link's FDB: the VTEP for a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbEntry {
    /// The inner destination.
    pub mac: MacAddr,
    /// The address of the VTEP.
    pub destination: Option<Ipv4Addr>,
    /// Whether it stays until it is deleted (`NUD_PERMANENT`), as privnet's entries do.
    pub permanent: bool,
}

/// An entry of a bridge's FDB: the port for a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeFdbEntry {
    /// The destination.
    pub mac: MacAddr,
    /// The index of the port.
    pub port: u32,
    /// Whether it stays until it is deleted (`NUD_NOARP`), as privnet's entries do; learnt entries age.
    pub fixed: bool,
}

/// An entry of a link's IPv4 neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The index of the link.
    pub index: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its MAC; `None` while the kernel resolves it.
    pub mac: Option<MacAddr>,
    /// Whether it stays until it is deleted (`NUD_PERMANENT`), as privnet's entries do.
    pub permanent: bool,
}

/// A hook of clsact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FilterHook {
    /// Packets that the link received.
    Ingress,
    /// Packets that the link is about to send.
    Egress,
}

/// A filter at a hook of clsact. TCX programs are not filters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    /// Its priority; the filter with the lowest runs first.
    pub priority: u16,
    /// Its handle within the priority.
    pub handle: u32,
    /// The classifier: `bpf`, `flower`.
    pub kind: String,
    /// The id of its BPF program.
    pub program_id: Option<u32>,
    /// The name of its BPF program when it was attached.
    pub name: Option<String>,
}
