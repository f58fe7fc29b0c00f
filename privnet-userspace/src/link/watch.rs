//! Notifications of what appears, changes and goes in a namespace. Changes nothing.

#![expect(clippy::wildcard_enum_match_arm, reason = "the enums of netlink grow with the kernel")]

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use rtnetlink::packet_core::{NLM_F_EXCL, NLM_F_REPLACE, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::packet_route::tc::TcHandle;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use rustix::io::Errno;

use super::socket::{Message, opened_in};
use super::{Address, BridgePort, Error, FdbEntry, Link, Links, Neighbour, observe, read, routes, rules};
use crate::netns::Netns;

/// `RTNLGRP_LINK` as a bit mask (include/uapi/linux/rtnetlink.h).
const LINK_GROUP: u32 = 1;

/// What a watch listens to besides links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// IPv4 addresses.
    Addresses,
    /// IPv4 routes.
    Routes,
    /// IPv4 neighbours and forwarding tables.
    Neighbours,
    /// Filters that go or are replaced.
    Filters,
    /// IPv4 rules.
    Rules,
}

/// A notification of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The link appeared or changed, to these values.
    Changed(Link),
    /// The link was deleted, or moved to another namespace.
    Gone {
        /// The index that it had.
        index: u32,
        /// The name that it had.
        name: String,
    },
    /// Events were lost; an observation has to follow.
    Lost,
}

/// Something happened in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// To a link, or events were lost.
    Link(LinkEvent),
    /// A bridge treats a port as it is given.
    PortChanged {
        /// The port's index.
        index: u32,
        /// How.
        port: BridgePort,
    },
    /// An address was added, or is as it is given.
    AddressChanged(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route was added beside those that were there.
    RouteAdded(RouteEvent),
    /// A route is gone, or another one has its place.
    RouteGone(RouteEvent),
    /// A neighbour was added, or is as it is given.
    NeighbourChanged(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Neighbour),
    /// An entry of a forwarding table was added, or is as it is given.
    FdbChanged(FdbEvent),
    /// An entry of a forwarding table is gone.
    FdbGone(FdbEvent),
    /// A filter is gone, or all of them, or another program has its place.
    FilterGone {
        /// Of which link.
        index: u32,
        /// Its handle; 0 for all.
        handle: u32,
    },
    /// A rule was added that a new namespace does not have, or one is gone that it has.
    RulesChanged,
    /// A rule is gone that a new namespace does not have, or one is there again that it has.
    RulesRestored,
}

/// A route of the main or the local table that was added, is gone, or that another one replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteEvent {
    /// Whether it was in the local table.
    pub is_local: bool,
    /// Where it led.
    pub destination: Ipv4Net,
    /// Its metric.
    pub metric: u32,
    /// The link that it goes by; nothing when it goes by none, or when it was replaced and the kernel does not say.
    pub index: Option<u32>,
}

/// An entry of a forwarding table, with where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEvent {
    /// The VXLAN link, or the port of the bridge.
    pub index: u32,
    /// Whether it is in the table of a bridge.
    pub is_of_bridge: bool,
    /// The entry.
    pub entry: FdbEntry,
}

/// The events of one namespace, from when it was opened. Does not keep the namespace's thread.
///
/// What is not read yet waits in the kernel's buffer of the socket (`net.core.rmem_default`, 208 KiB); what does not fit there
/// is lost, and said to be.
pub struct Watch {
    socket: TokioSocket,
    /// Of the last datagram.
    events: VecDeque<Event>,
}

impl Watch {
    /// Listens in `netns`, to links and to the given topics. To miss nothing: open, then observe, then read events.
    ///
    /// # Errors
    /// As [`Links::open`].
    pub async fn open(netns: &Netns, topics: &[Topic]) -> Result<Self, Error> {
        let groups = topics.iter().fold(LINK_GROUP, |groups, topic| groups | group(*topic));
        let listen_here = move || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
            Ok(socket)
        };
        Ok(Self { socket: opened_in(netns, listen_here).await?, events: VecDeque::new() })
    }

    /// The next event; `None` when the socket was closed, after which there are no more. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            match self.socket.recv_from_full().await {
                // What another process sends is not the kernel's.
                Ok((datagram, from)) if from.port_number() == KERNEL => self.events.extend(events(&datagram)),
                Ok(_) => {}
                // The kernel had more to say than the socket's buffer holds.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => return Some(LOST),
                Err(_) => return None,
            }
        }
    }
}

/// The port of the kernel's messages.
const KERNEL: u32 = 0;
const LOST: Event = Event::Link(LinkEvent::Lost);

/// What a datagram tells.
fn events(datagram: &[u8]) -> Vec<Event> {
    let (mut events, mut rest) = (Vec::new(), datagram);
    while !rest.is_empty() {
        let Ok(message) = NetlinkMessage::<Message>::deserialize(rest) else {
            events.push(LOST);
            break;
        };
        let NetlinkMessage { header, payload, .. } = message;
        match payload {
            NetlinkPayload::InnerMessage(message) => events.extend(event(&message, header)),
            NetlinkPayload::Overrun(_) => events.push(LOST),
            _ => {}
        }
        // Messages begin at multiples of four bytes.
        let length = usize::try_from(header.length).unwrap_or(usize::MAX).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    events
}

impl Links {
    /// Waits until the link `name` has carrier; false when it has none after `bound`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the link does not exist at first. `netns` has to be the namespace of these [`Links`].
    pub async fn wait_carrier(&self, netns: &Netns, name: &str, bound: Duration) -> Result<bool, Error> {
        let mut watch = Watch::open(netns, &[]).await?;
        if self.link(name).await?.carrier {
            return Ok(true);
        }
        let carrier = async {
            while let Some(event) = watch.next().await {
                let up = match event {
                    Event::Link(LinkEvent::Changed(link)) => link.name == name && link.carrier,
                    Event::Link(LinkEvent::Lost) => self.link(name).await?.carrier,
                    _ => false,
                };
                if up {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        tokio::time::timeout(bound, carrier).await.unwrap_or(Ok(false))
    }
}

/// The bit of `RTNLGRP_…`, include/uapi/linux/rtnetlink.h.
const fn group(topic: Topic) -> u32 {
    let number = match topic {
        Topic::Neighbours => 3,
        Topic::Filters => 4,
        Topic::Addresses => 5,
        Topic::Routes => 7,
        Topic::Rules => 8,
    };
    1 << (number - 1)
}

fn event(message: &Message, header: NetlinkHeader) -> Option<Event> {
    let has = |flag: u16| header.flags & flag != 0;
    match message {
        Message::Route(RouteNetlinkMessage::NewAddress(message)) => {
            observe::address(message).map(Event::AddressChanged)
        }
        Message::Route(RouteNetlinkMessage::DelAddress(message)) => observe::address(message).map(Event::AddressGone),
        Message::Route(RouteNetlinkMessage::NewRoute(message)) if has(NLM_F_REPLACE) => {
            route(message).map(|route| Event::RouteGone(RouteEvent { index: None, ..route }))
        }
        Message::Route(RouteNetlinkMessage::NewRoute(message)) => route(message).map(Event::RouteAdded),
        Message::Route(RouteNetlinkMessage::DelRoute(message)) => route(message).map(Event::RouteGone),
        Message::Route(RouteNetlinkMessage::NewNeighbour(message)) if is_fdb(message.header.family) => {
            fdb(message).map(Event::FdbChanged)
        }
        Message::Route(RouteNetlinkMessage::DelNeighbour(message)) if is_fdb(message.header.family) => {
            fdb(message).map(Event::FdbGone)
        }
        Message::Route(RouteNetlinkMessage::NewNeighbour(message)) => {
            observe::neighbour(message).map(Event::NeighbourChanged)
        }
        Message::Route(RouteNetlinkMessage::DelNeighbour(message)) => {
            observe::neighbour(message).map(Event::NeighbourGone)
        }
        // One that must not be there before takes nobody's place.
        Message::Route(RouteNetlinkMessage::NewTrafficFilter(_)) if has(NLM_F_EXCL) => None,
        Message::Route(
            RouteNetlinkMessage::NewTrafficFilter(message) | RouteNetlinkMessage::DelTrafficFilter(message),
        ) => {
            let handle = message.header.handle.into();
            Some(Event::FilterGone { index: message.header.index.cast_unsigned(), handle })
        }
        Message::Route(RouteNetlinkMessage::DelQueueDiscipline(message))
            if message.header.parent == TcHandle::CLSACT =>
        {
            Some(Event::FilterGone { index: message.header.index.cast_unsigned(), handle: 0 })
        }
        Message::Route(RouteNetlinkMessage::NewRule(message)) => {
            Some(if rules::is_of_a_new_namespace(message) { Event::RulesRestored } else { Event::RulesChanged })
        }
        Message::Route(RouteNetlinkMessage::DelRule(message)) => {
            Some(if rules::is_of_a_new_namespace(message) { Event::RulesChanged } else { Event::RulesRestored })
        }
        Message::Route(RouteNetlinkMessage::NewLink(message))
            if message.header.interface_family == AddressFamily::Bridge =>
        {
            read::port_settings(message).map(|port| Event::PortChanged { index: message.header.index, port })
        }
        message => link_event(message).map(Event::Link),
    }
}

fn link_event(message: &Message) -> Option<LinkEvent> {
    match message {
        // A notification of a bridge about its port: there RTM_DELLINK means "no longer a port".
        Message::Route(RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link))
            if link.header.interface_family != AddressFamily::Unspec =>
        {
            None
        }
        Message::Route(RouteNetlinkMessage::DelLink(_)) => {
            read::link(message).map(|link| LinkEvent::Gone { index: link.index, name: link.name })
        }
        Message::Route(RouteNetlinkMessage::NewLink(_)) => read::link(message).map(LinkEvent::Changed),
        Message::Route(_) => None,
        // The group has notifications of links only.
        Message::Undecodable { .. } => Some(LinkEvent::Lost),
    }
}

fn is_fdb(family: AddressFamily) -> bool {
    family == AddressFamily::Bridge
}

fn fdb(message: &rtnetlink::packet_route::neighbour::NeighbourMessage) -> Option<FdbEvent> {
    let entry = observe::fdb_entry(message)?;
    Some(FdbEvent { index: message.header.ifindex, is_of_bridge: observe::controller(message).is_some(), entry })
}

/// Of the main and the local table only: privnet has nothing in another one.
fn route(message: &RouteMessage) -> Option<RouteEvent> {
    let is_local = message.header.table == routes::LOCAL_TABLE;
    if message.header.address_family != AddressFamily::Inet
        || !(is_local || message.header.table == RouteHeader::RT_TABLE_MAIN)
    {
        return None;
    }
    let route = observe::route(message)?;
    let index = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    Some(RouteEvent { is_local, destination: route.destination, metric: route.metric, index })
}

impl RouteEvent {
    /// Whether it could have been one of the routes that the kernel makes for an address of a link.
    #[must_use]
    pub fn may_be_of(&self, index: u32, address: Ipv4Net) -> bool {
        let own: [Ipv4Addr; 2] = [address.addr(), address.broadcast()];
        let is_of_address = match self.is_local {
            true => own.iter().any(|own| self.destination == Ipv4Net::from(*own)),
            false => self.destination == address.trunc(),
        };
        is_of_address && self.index.is_none_or(|by| by == index)
    }
}
