//! The routes that the kernel makes by itself for an address of a link, and does not make again when a stranger deletes them;
//! and the way that it takes to an address.

#![expect(clippy::wildcard_enum_match_arm, reason = "the enums of netlink grow with the kernel")]

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::{Message, Operation};
use super::{AddressRoute, Error, Links};

/// `RT_TABLE_LOCAL`, include/uapi/linux/rtnetlink.h.
pub(super) const LOCAL_TABLE: u8 = 255;

/// Networks of two addresses or one have no broadcast address (RFC 3021).
const MAX_BROADCAST_BITS: u8 = 30;

impl Links {
    /// Those routes of an address of a link, which must be up, that are not there.
    ///
    /// # Errors
    /// As [`Links::links`]; [`Error::NotFound`] when the link went.
    pub async fn missing_routes(&self, index: u32, address: Ipv4Net) -> Result<Vec<AddressRoute>, Error> {
        const WHAT: &str = "routes of a link";
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        // Of all tables; the kernel leaves out what goes by other links.
        request.header.table = RouteHeader::RT_TABLE_UNSPEC;
        request.attributes.push(RouteAttribute::Oif(index));
        let mut there = Vec::new();
        for row in self.socket.dump(RouteNetlinkMessage::GetRoute(request), WHAT).await? {
            let Message::Route(RouteNetlinkMessage::NewRoute(message)) = &row else {
                return Err(self.malformed(WHAT, &row));
            };
            there.extend(address_route(message, index, address));
        }
        Ok(routes_of(address).filter(|route| !there.contains(route)).collect())
    }

    /// Adds one of the routes of an address of a link, behind what is there, as the kernel does. The local one comes first:
    /// the others have the address as their source.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when it is there; [`Error::Kernel`] when the link is down or does not have the address.
    pub async fn add_address_route(&self, index: u32, address: Ipv4Net, route: AddressRoute) -> Result<(), Error> {
        let operation =
            Operation::new("add", format!("the {} route of address {address} of link {index}", name(route)));
        let message = RouteNetlinkMessage::NewRoute(message(index, address, route));
        self.socket.request(message, NLM_F_CREATE | NLM_F_APPEND, operation).await
    }
}

impl Links {
    /// The link by which the kernel sends what goes from an address of this namespace to another; `None` when it sends it by
    /// none, as an unreachable route or rule says.
    ///
    /// # Errors
    /// [`Error::NoAnswer`].
    pub async fn way(&self, from: Ipv4Addr, to: Ipv4Addr) -> Result<Option<u32>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        request.header.destination_prefix_length = 32;
        request.header.source_prefix_length = 32;
        request.attributes =
            vec![RouteAttribute::Destination(RouteAddress::Inet(to)), RouteAttribute::Source(RouteAddress::Inet(from))];
        let operation = Operation::new("find", format!("the way from {from} to {to}"));
        match self.socket.get(RouteNetlinkMessage::GetRoute(request), 0, operation).await {
            Ok(answers) => Ok(answers.iter().find_map(|answer| match answer {
                Message::Route(RouteNetlinkMessage::NewRoute(route)) => link_of(route),
                Message::Route(_) | Message::Undecodable { .. } => None,
            })),
            Err(error @ Error::NoAnswer { .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }
}

fn link_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The routes that the kernel makes for an address.
fn routes_of(address: Ipv4Net) -> impl Iterator<Item = AddressRoute> {
    let of_prefix = move |route: &AddressRoute| match route {
        AddressRoute::Local => true,
        AddressRoute::Connected => address.prefix_len() < 32,
        AddressRoute::Broadcast => address.prefix_len() <= MAX_BROADCAST_BITS,
    };
    [AddressRoute::Local, AddressRoute::Connected, AddressRoute::Broadcast].into_iter().filter(of_prefix)
}

const fn name(route: AddressRoute) -> &'static str {
    match route {
        AddressRoute::Local => "local",
        AddressRoute::Connected => "connected",
        AddressRoute::Broadcast => "broadcast",
    }
}

fn message(index: u32, address: Ipv4Net, route: AddressRoute) -> RouteMessage {
    let (destination, table, kind, scope) = shape(address, route);
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = table;
    message.header.protocol = RouteProtocol::Kernel;
    message.header.kind = kind;
    message.header.scope = scope;
    message.header.destination_prefix_length = destination.prefix_len();
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(destination.network())),
        RouteAttribute::Oif(index),
        RouteAttribute::PrefSource(RouteAddress::Inet(address.addr())),
    ];
    message
}

/// Destination, table, type and scope of a route of an address.
fn shape(address: Ipv4Net, route: AddressRoute) -> (Ipv4Net, u8, RouteType, RouteScope) {
    match route {
        AddressRoute::Local => (address.addr().into(), LOCAL_TABLE, RouteType::Local, RouteScope::Host),
        AddressRoute::Connected => (address.trunc(), RouteHeader::RT_TABLE_MAIN, RouteType::Unicast, RouteScope::Link),
        AddressRoute::Broadcast => (address.broadcast().into(), LOCAL_TABLE, RouteType::Broadcast, RouteScope::Link),
    }
}

/// Which route of an address of a link this is, if it is one.
fn address_route(message: &RouteMessage, index: u32, address: Ipv4Net) -> Option<AddressRoute> {
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let (mut oif, mut source, mut metric, mut gateway) = (None, None, 0, false);
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(RouteAddress::Inet(to)) = attribute {
            destination = *to;
        } else if let RouteAttribute::Oif(index) = attribute {
            oif = Some(*index);
        } else if let RouteAttribute::PrefSource(RouteAddress::Inet(from)) = attribute {
            source = Some(*from);
        } else if let RouteAttribute::Priority(priority) = attribute {
            metric = *priority;
        } else if let RouteAttribute::Gateway(_) = attribute {
            gateway = true;
        }
    }
    let destination = Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?;
    let is_the_kernels = oif == Some(index) && source == Some(address.addr()) && metric == 0 && !gateway;
    let found = |route: &AddressRoute| {
        let (to, table, kind, _) = shape(address, *route);
        to == destination && table == message.header.table && kind == message.header.kind
    };
    routes_of(address).find(found).filter(|_| is_the_kernels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Ipv4Net {
        text.parse().expect("an address")
    }

    #[test]
    fn each_route_of_an_address_is_recognized_as_what_it_was_made_for() {
        for (text, count) in [("10.240.0.2/22", 3), ("10.240.0.2/31", 2), ("10.240.0.2/32", 1)] {
            let own = address(text);
            let routes: Vec<AddressRoute> = routes_of(own).collect();
            assert_eq!(routes.len(), count, "{text}");
            for route in routes {
                assert_eq!(address_route(&message(7, own, route), 7, own), Some(route), "{text}");
            }
        }
    }

    #[test]
    fn a_route_of_another_link_address_table_or_source_is_a_strangers() {
        let own = address("10.240.0.2/22");
        let connected = message(7, own, AddressRoute::Connected);
        assert_eq!(address_route(&connected, 8, own), None);
        assert_eq!(address_route(&connected, 7, address("10.240.4.2/22")), None);
        assert_eq!(address_route(&connected, 7, address("10.240.0.3/22")), None, "another source");
        let mut other_table = connected.clone();
        other_table.header.table = 100;
        assert_eq!(address_route(&other_table, 7, own), None);
        let mut dear = connected.clone();
        dear.attributes.push(RouteAttribute::Priority(100));
        assert_eq!(address_route(&dear, 7, own), None);
        let mut far = connected;
        far.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(10, 240, 0, 1))));
        assert_eq!(address_route(&far, 7, own), None);
    }
}
