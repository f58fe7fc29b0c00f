//! Changing links, addresses, routes, FDB entries and neighbours. One request per call.
//!
//! Never creates a link. Never observes before a change: an object that exists already, or does not exist, is a typed
//! error.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use ipnet::Ipv4Net;
use privnet_ebpf::net::MacAddr;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{BridgePortState, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{LinkBridgePort, LinkMessageBuilder, LinkUnspec};

use super::socket::Operation;
use super::{BridgePort, Error, Links, Route, RouteTarget, read};
use crate::model::IfName;
use crate::netns::Netns;

impl Links {
    /// Sets a link up, if it is down.
    ///
    /// # Errors
    /// [`Error::PortInUse`] for a VXLAN link whose UDP port another socket holds, [`Error::NotFound`].
    pub async fn set_up(&self, index: u32) -> Result<(), Error> {
        self.set("set up", unspec(index).up().build()).await
    }

    /// Sets a link up, with the flags of a new one ([`Link::plain`](super::Link::plain)).
    ///
    /// # Errors
    /// As [`Links::set_up`].
    pub async fn set_up_plain(&self, index: u32, is_ethernet: bool) -> Result<(), Error> {
        let mut message = unspec(index).up().build();
        message.header.flags |= read::plain_flags(is_ethernet);
        message.header.change_mask |= read::settable_flags(is_ethernet);
        self.set("set up", message).await
    }

    /// Sets a link down, if it is up.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_down(&self, index: u32) -> Result<(), Error> {
        self.set("set down", unspec(index).down().build()).await
    }

    /// Sets a link's MTU, in bytes.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the link cannot have this MTU.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), Error> {
        self.set("set the MTU of", unspec(index).mtu(mtu).build()).await
    }

    /// Sets of a TUN link, which is down, its MTU and its largest super-packet in bytes, how many packets wait for the program
    /// behind it, and its alias. A link that is up loses what is sent while its queue changes.
    ///
    /// # Errors
    /// As [`Links::set_mtu`].
    pub async fn set_tun(
        &self,
        index: u32,
        (mtu, super_packet): (u32, u32),
        queue_packets: u32,
        alias: &str,
    ) -> Result<(), Error> {
        let mut message = unspec(index).mtu(mtu).alias(alias).build();
        message.attributes.push(LinkAttribute::TxQueueLen(queue_packets));
        message.attributes.push(LinkAttribute::GsoMaxSize(super_packet));
        self.set("set the MTU, the queue and the alias of", message).await
    }

    /// Sets a link's alias, at most 255 bytes; an empty text removes it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_alias(&self, index: u32, alias: &str) -> Result<(), Error> {
        self.set("set the alias of", unspec(index).alias(alias).build()).await
    }

    /// Moves a link, which is down, to another namespace under another name. It loses its addresses and routes.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::AlreadyExists`] when the name is taken there.
    pub async fn give(&self, index: u32, name: &IfName, into: &Netns) -> Result<(), Error> {
        let message = unspec(index).name(name.as_str()).setns_by_fd(into.fd().as_raw_fd()).build();
        let operation = Operation::new("move", format!("link {index} as {name} to {}", into.id()));
        let (socket, lost, named) = (Arc::clone(&self.socket), operation.clone(), into.clone());
        // A task goes on when the caller is cancelled: the file descriptor in the message stays open until it is read.
        let request = tokio::spawn(async move {
            let answer = socket.request(RouteNetlinkMessage::NewLink(message), 0, operation).await;
            drop(named);
            answer
        });
        request.await.unwrap_or_else(|_| Err(self.socket.no_answer(&lost)))
    }

    /// Sets a link's Ethernet address.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_mac(&self, index: u32, mac: MacAddr) -> Result<(), Error> {
        self.set("set the address of", unspec(index).address(mac.bytes().to_vec()).build()).await
    }

    /// Makes a link a port of the bridge `controller`; with `None`, of no bridge.
    ///
    /// # Errors
    /// [`Error::NotFound`] when either does not exist.
    pub async fn set_controller(&self, index: u32, controller: Option<u32>) -> Result<(), Error> {
        let message = unspec(index).controller(controller.unwrap_or(0)).build();
        self.set("set the controller of", message).await
    }

    /// Sets the settings of a link as a port of its bridge, but for [`BridgePort::forwarding`], which follows from its being up.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the link is no port of a bridge.
    pub async fn set_bridge_port(&self, index: u32, port: BridgePort) -> Result<(), Error> {
        let message = LinkBridgePort::new(index)
            .learning(port.learning)
            .flood(port.unicast_flood)
            .mcast_flood(port.multicast_flood)
            .bcast_flood(port.broadcast_flood)
            .isolated(port.isolated)
            .locked(port.locked)
            .build();
        self.set("set the bridge port", message).await
    }

    /// Gives a bridge the settings of a plain one ([`Link::plain`](super::Link::plain)).
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Kernel`] when the link is no bridge.
    pub async fn set_plain_bridge(&self, index: u32) -> Result<(), Error> {
        let mut message = unspec(index).build();
        let settings = InfoData::Bridge(read::PLAIN_BRIDGE.to_vec());
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(settings)]));
        self.set("set the bridge", message).await
    }

    /// Has frames pass a port of a bridge again that a stranger blocked; both are up.
    ///
    /// # Errors
    /// [`Error::Kernel`] when one of them is down, or the bridge speaks the spanning tree protocol.
    pub async fn open_bridge_port(&self, index: u32) -> Result<(), Error> {
        let message = LinkBridgePort::new(index).state(BridgePortState::Forwarding).build();
        self.set("open the bridge port", message).await
    }

    /// Deletes a link; of a veth, both ends.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it does not exist, see [`super::AbsentIsDone`].
    pub async fn delete(&self, index: u32) -> Result<(), Error> {
        let message = unspec(index).build();
        tracing::debug!(netns = %self.netns(), index, "deleting a link");
        self.socket.request(RouteNetlinkMessage::DelLink(message), 0, on_link("delete", index)).await
    }

    /// Adds an address to a link. The kernel adds the route of its prefix when the link is up.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when the link has the address with this prefix length.
    pub async fn add_address(&self, index: u32, address: Ipv4Net) -> Result<(), Error> {
        let message = RouteNetlinkMessage::NewAddress(address_message(index, address));
        let operation = Operation::new("add", format!("address {address} to link {index}"));
        self.socket.request(message, NLM_F_CREATE | NLM_F_EXCL, operation).await
    }

    /// Removes an address from a link, with its routes.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the link does not have the address.
    pub async fn del_address(&self, index: u32, address: Ipv4Net) -> Result<(), Error> {
        let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
        self.socket.request(message, 0, Operation::new("delete", format!("address {address} of link {index}"))).await
    }

    /// Adds a route to the main table.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when a route has the destination and metric; [`Error::Unsupported`] for
    /// [`RouteTarget::Other`], without a request.
    pub async fn add_route(&self, route: &Route) -> Result<(), Error> {
        let operation = Operation::new("add", describe(route));
        let message = self.route_message(route, &operation)?;
        self.socket.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL, operation).await
    }

    /// Deletes a route of the main table.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no route is like it.
    pub async fn del_route(&self, route: &Route) -> Result<(), Error> {
        let operation = Operation::new("delete", describe(route));
        let mut message = self.route_message(route, &operation)?;
        // A route of any scope.
        message.header.scope = RouteScope::NoWhere;
        self.socket.request(RouteNetlinkMessage::DelRoute(message), 0, operation).await
    }

    /// Adds or replaces the entry of `mac` in a VXLAN link's FDB: it is behind the VTEP `destination`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the link does not exist.
    pub async fn fdb_replace(&self, index: u32, mac: MacAddr, destination: Ipv4Addr) -> Result<(), Error> {
        let message = fdb_message(index, mac, Some(destination));
        let operation = Operation::new("write", format!("forwarding entry {mac} of link {index}"));
        self.socket.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, operation).await
    }

    /// Deletes the entry of `mac` from a VXLAN link's FDB.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such entry.
    pub async fn fdb_delete(&self, index: u32, mac: MacAddr) -> Result<(), Error> {
        let message = fdb_message(index, mac, None);
        let operation = Operation::new("delete", format!("forwarding entry {mac} of link {index}"));
        self.socket.request(RouteNetlinkMessage::DelNeighbour(message), 0, operation).await
    }

    /// Adds or replaces the static entry of `mac` in the FDB of the bridge that the link is a port of.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the link does not exist, [`Error::Kernel`] when it is no port of a bridge.
    pub async fn bridge_fdb_replace(&self, port: u32, mac: MacAddr) -> Result<(), Error> {
        let message = bridge_fdb_message(port, mac);
        let operation = Operation::new("write", format!("forwarding entry {mac} of port {port}"));
        self.socket.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, operation).await
    }

    /// Deletes the entry of `mac` from the FDB of the bridge that a link is a port of.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such entry, or one of another port.
    pub async fn bridge_fdb_delete(&self, port: u32, mac: MacAddr) -> Result<(), Error> {
        let message = bridge_fdb_message(port, mac);
        let operation = Operation::new("delete", format!("forwarding entry {mac} of port {port}"));
        self.socket.request(RouteNetlinkMessage::DelNeighbour(message), 0, operation).await
    }

    /// Adds or replaces the permanent neighbour entry of `address` on a link, with `mac`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the link does not exist.
    pub async fn neighbour_replace(&self, index: u32, address: Ipv4Addr, mac: MacAddr) -> Result<(), Error> {
        let mut message = neighbour_message(index, address);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.bytes().to_vec()));
        let operation = Operation::new("write", format!("neighbour {address} of link {index}"));
        self.socket.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, operation).await
    }

    /// Deletes the neighbour entry of `address` on a link.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such entry.
    pub async fn neighbour_delete(&self, index: u32, address: Ipv4Addr) -> Result<(), Error> {
        let message = neighbour_message(index, address);
        let operation = Operation::new("delete", format!("neighbour {address} of link {index}"));
        self.socket.request(RouteNetlinkMessage::DelNeighbour(message), 0, operation).await
    }

    /// `RTM_NEWLINK` without `NLM_F_CREATE`, as `ip link set` does: `RTM_SETLINK` ignores the settings of a port.
    async fn set(&self, op: &'static str, message: LinkMessage) -> Result<(), Error> {
        let operation = on_link(op, message.header.index);
        self.socket.request(RouteNetlinkMessage::NewLink(message), 0, operation).await
    }

    fn route_message(&self, route: &Route, operation: &Operation) -> Result<RouteMessage, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = route.protocol.into();
        message.header.destination_prefix_length = route.destination.prefix_len();
        let destination = RouteAddress::Inet(route.destination.network());
        message.attributes.push(RouteAttribute::Destination(destination));
        if route.metric != 0 {
            message.attributes.push(RouteAttribute::Priority(route.metric));
        }
        match route.target {
            RouteTarget::Link { index, gateway } => {
                message.header.kind = RouteType::Unicast;
                message.header.scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
                message.attributes.push(RouteAttribute::Oif(index));
                message.attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(RouteAddress::Inet(gateway))));
            }
            RouteTarget::Unreachable => {
                message.header.kind = RouteType::Unreachable;
                message.header.scope = RouteScope::Universe;
            }
            RouteTarget::Other(_) => return Err(self.socket.unsupported(operation)),
        }
        Ok(message)
    }
}

fn unspec(index: u32) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_index(index)
}

fn on_link(op: &'static str, index: u32) -> Operation {
    Operation::new(op, format!("link {index}"))
}

fn describe(route: &Route) -> String {
    let (destination, metric) = (route.destination, route.metric);
    match route.target {
        RouteTarget::Link { index, .. } => format!("route {destination} on link {index} metric {metric}"),
        RouteTarget::Unreachable => format!("route unreachable {destination} metric {metric}"),
        RouteTarget::Other(kind) => format!("route {destination} of type {kind} metric {metric}"),
    }
}

fn address_message(index: u32, address: Ipv4Net) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    let own = IpAddr::V4(address.addr());
    message.attributes = vec![AddressAttribute::Local(own), AddressAttribute::Address(own)];
    message
}

fn fdb_message(index: u32, mac: MacAddr, destination: Option<Ipv4Addr>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    // NTF_SELF: the FDB of the VXLAN link, and not of its bridge.
    message.header.flags = NeighbourFlags::Own;
    // As `bridge fdb add … permanent` does: two states at once, which the enum does not have.
    let state = u16::from(NeighbourState::Permanent) | u16::from(NeighbourState::Noarp);
    message.header.state = NeighbourState::Other(state);
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.bytes().to_vec()));
    message.attributes.extend(destination.map(|at| NeighbourAttribute::Destination(NeighbourAddress::Inet(at))));
    message
}

fn bridge_fdb_message(port: u32, mac: MacAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port;
    // NTF_MASTER: the FDB of the port's bridge.
    message.header.flags = NeighbourFlags::Controller;
    // As `bridge fdb add … master static` does. NUD_PERMANENT marks addresses of the bridge itself.
    message.header.state = NeighbourState::Noarp;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.bytes().to_vec()));
    message
}

fn neighbour_message(index: u32, address: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
    message
}
