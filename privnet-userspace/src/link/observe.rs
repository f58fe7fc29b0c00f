//! The links, addresses, routes, neighbours and filters of a namespace. Each answer is complete or an error. Changes
//! nothing.

#![expect(clippy::wildcard_enum_match_arm, reason = "the enums of netlink grow with the kernel")]

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::os::fd::AsRawFd;

use super::socket::{Message, Operation};
use super::{
    Address, BridgeFdbEntry, Error, FdbEntry, Filter, FilterHook, Link, Links, Neighbour, Route, RouteTarget, read,
};
use crate::netns::Netns;

impl Links {
    /// All links, by index.
    ///
    /// # Errors
    /// [`Error::Incomplete`] and the others. An error tells nothing about the links.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        const WHAT: &str = "links";
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let rows = self.socket.dump(RouteNetlinkMessage::GetLink(request), WHAT).await?;
        let mut links = rows
            .iter()
            .map(|row| read::link(row).ok_or_else(|| self.malformed(WHAT, row)))
            .collect::<Result<Vec<_>, _>>()?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The link `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it does not exist.
    pub async fn link(&self, name: &str) -> Result<Link, Error> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let operation = Operation::new("find", format!("link {name}"));
        let answers = self.socket.get(RouteNetlinkMessage::GetLink(request), 0, operation.clone()).await?;
        answers.iter().find_map(read::link).ok_or(Error::NoAnswer {
            op: operation.op,
            object: operation.object,
            netns: self.netns(),
        })
    }

    /// All IPv4 addresses, sorted.
    ///
    /// # Errors
    /// As [`Links::links`].
    pub async fn addresses(&self) -> Result<Vec<Address>, Error> {
        const WHAT: &str = "addresses";
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet;
        let mut addresses = Vec::new();
        for row in self.socket.dump(RouteNetlinkMessage::GetAddress(request), WHAT).await? {
            let Message::Route(RouteNetlinkMessage::NewAddress(message)) = &row else {
                return Err(self.malformed(WHAT, &row));
            };
            addresses.push(address(message).ok_or_else(|| self.malformed(WHAT, &row))?);
        }
        addresses.sort();
        Ok(addresses)
    }

    /// The IPv4 routes of the main table, sorted.
    ///
    /// # Errors
    /// As [`Links::links`].
    pub async fn routes(&self) -> Result<Vec<Route>, Error> {
        const WHAT: &str = "routes";
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let rows = match self.socket.dump(RouteNetlinkMessage::GetRoute(request), WHAT).await {
            // A namespace that never had a route has no table.
            Err(Error::NotFound(_)) => Vec::new(),
            rows => rows?,
        };
        let mut routes = Vec::new();
        for row in rows {
            let Message::Route(RouteNetlinkMessage::NewRoute(message)) = &row else {
                return Err(self.malformed(WHAT, &row));
            };
            if message.header.table == RouteHeader::RT_TABLE_MAIN {
                routes.push(route(message).ok_or_else(|| self.malformed(WHAT, &row))?);
            }
        }
        routes.sort();
        Ok(routes)
    }

    /// The FDB of a VXLAN link, sorted.
    ///
    /// # Errors
    /// As [`Links::links`].
    pub async fn fdb(&self, index: u32) -> Result<Vec<FdbEntry>, Error> {
        const WHAT: &str = "forwarding table";
        let mut entries = Vec::new();
        for row in self.neighbour_rows(AddressFamily::Bridge, Some(index), WHAT).await? {
            let Message::Route(RouteNetlinkMessage::NewNeighbour(message)) = &row else {
                return Err(self.malformed(WHAT, &row));
            };
            // The dump has the entries of the link's bridge, too.
            if message.header.ifindex == index && controller(message).is_none() {
                entries.extend(fdb_entry(message));
            }
        }
        entries.sort();
        Ok(entries)
    }

    /// The FDB of a bridge, sorted; without the addresses of its ports.
    ///
    /// # Errors
    /// As [`Links::links`].
    pub async fn bridge_fdb(&self, bridge: u32) -> Result<Vec<BridgeFdbEntry>, Error> {
        const WHAT: &str = "forwarding table of a bridge";
        let mut entries = Vec::new();
        for row in self.neighbour_rows(AddressFamily::Bridge, None, WHAT).await? {
            let Message::Route(RouteNetlinkMessage::NewNeighbour(message)) = &row else {
                return Err(self.malformed(WHAT, &row));
            };
            // With VLANs in the kernel's bridge, an entry without a VLAN appears for each VLAN of the port, too. The
            // bridges of privnet use no VLANs, so the entry without a VLAN is enough.
            let has_vlan = message.attributes.iter().any(|attribute| matches!(attribute, NeighbourAttribute::Vlan(_)));
            if controller(message) == Some(bridge) && !is_permanent(message) && !has_vlan {
                let mac = link_layer_address(message).ok_or_else(|| self.malformed(WHAT, &row))?;
                let fixed = u16::from(message.header.state) & u16::from(NeighbourState::Noarp) != 0;
                entries.push(BridgeFdbEntry { mac, port: message.header.ifindex, fixed });
            }
        }
        entries.sort();
        Ok(entries)
    }

    /// The IPv4 neighbours of one link, sorted.
    ///
    /// # Errors
    /// As [`Links::links`].
    pub async fn neighbours(&self, index: u32) -> Result<Vec<Neighbour>, Error> {
        const WHAT: &str = "neighbours";
        let mut neighbours = Vec::new();
        for row in self.neighbour_rows(AddressFamily::Inet, Some(index), WHAT).await? {
            let Message::Route(RouteNetlinkMessage::NewNeighbour(message)) = &row else {
                return Err(self.malformed(WHAT, &row));
            };
            if message.header.ifindex == index {
                neighbours.push(neighbour(message).ok_or_else(|| self.malformed(WHAT, &row))?);
            }
        }
        neighbours.sort();
        Ok(neighbours)
    }

    /// The filters at one hook of a link's clsact, in the order in which they run; none without clsact.
    ///
    /// # Errors
    /// As [`Links::links`].
    pub async fn filters(&self, index: u32, hook: FilterHook) -> Result<Vec<Filter>, Error> {
        const WHAT: &str = "filters";
        let mut request = TcMessage::default();
        request.header.index = index.cast_signed();
        let minor = match hook {
            FilterHook::Ingress => TcHandle::MIN_INGRESS,
            FilterHook::Egress => TcHandle::MIN_EGRESS,
        };
        request.header.parent = TcHandle { major: 0xffff, minor };
        let mut filters = Vec::new();
        for row in self.socket.dump(RouteNetlinkMessage::GetTrafficFilter(request), WHAT).await? {
            let Message::Route(RouteNetlinkMessage::NewTrafficFilter(message)) = &row else {
                return Err(self.malformed(WHAT, &row));
            };
            filters.extend(filter(message));
        }
        // The kernel lists those of one priority in the order in which they run, which is not that of their handles.
        filters.sort_by_key(|filter| filter.priority);
        Ok(filters)
    }

    /// Whether the link has a clsact (or ingress) qdisc, which its filters need.
    ///
    /// # Errors
    /// As [`Links::links`].
    pub async fn has_clsact(&self, index: u32) -> Result<bool, Error> {
        const WHAT: &str = "qdiscs";
        let mut found = false;
        for row in self.socket.dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()), WHAT).await? {
            let Message::Route(RouteNetlinkMessage::NewQueueDiscipline(message)) = &row else {
                return Err(self.malformed(WHAT, &row));
            };
            let is_clsact = message.header.parent == TcHandle::CLSACT;
            found |= is_clsact && message.header.index == index.cast_signed();
        }
        Ok(found)
    }

    /// The id of the namespace `other` in this one, as in [`Link::lower_nsid`]. `None` when there is no such id,
    /// because no link of this namespace has its other end or its socket there, or when `other` is this namespace.
    ///
    /// # Errors
    /// As [`Links::link`].
    pub async fn nsid_of(&self, other: &Netns) -> Result<Option<i32>, Error> {
        let mut request = NsidMessage::default();
        let fd = other.fd().as_raw_fd().cast_unsigned();
        request.attributes.push(NsidAttribute::Fd(fd));
        let operation = Operation::new("identify", other.id().to_string());
        let answers = self.socket.get(RouteNetlinkMessage::GetNsId(request), 0, operation).await?;
        let ids = answers.iter().filter_map(|answer| match answer {
            Message::Route(RouteNetlinkMessage::NewNsId(message)) => {
                message.attributes.iter().find_map(|attribute| match attribute {
                    NsidAttribute::Id(id) => Some(*id),
                    _ => None,
                })
            }
            Message::Route(_) | Message::Undecodable { .. } => None,
        });
        Ok(ids.into_iter().find(|id| *id >= 0))
    }

    async fn neighbour_rows(
        &self,
        family: AddressFamily,
        index: Option<u32>,
        what: &'static str,
    ) -> Result<Vec<Message>, Error> {
        let mut request = NeighbourMessage::default();
        request.header.family = family;
        request.attributes.extend(index.map(NeighbourAttribute::IfIndex));
        self.socket.dump(RouteNetlinkMessage::GetNeighbour(request), what).await
    }

    /// The error for a row of another object, or without an attribute that every such row has.
    pub(super) fn malformed(&self, what: &'static str, row: &Message) -> Error {
        let reason = match row {
            Message::Undecodable { reason, .. } => format!("cannot decode an entry: {reason}"),
            Message::Route(_) => "an entry lacks an attribute that every such entry has".to_owned(),
        };
        Error::Incomplete { what, netns: self.netns(), reason }
    }
}

pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    // IFA_LOCAL is the address; on a point-to-point link IFA_ADDRESS is the peer's.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    let address = Ipv4Net::new(local, message.header.prefix_len).ok()?;
    let told = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let flags = told.unwrap_or_else(|| AddressFlags::from_bits_retain(message.header.flags.bits().into()));
    let is_plain = flags.contains(AddressFlags::Permanent)
        && !flags.intersects(AddressFlags::Deprecated | AddressFlags::Noprefixroute)
        && message.header.scope == AddressScope::Universe;
    Some(Address { index: message.header.index, address, is_plain })
}

pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let (mut index, mut gateway, mut metric) = (None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let kind = message.header.kind;
    let target = match (kind, index) {
        (RouteType::Unicast, Some(index)) => RouteTarget::Link { index, gateway },
        (RouteType::Unreachable, _) => RouteTarget::Unreachable,
        _ => RouteTarget::Other(kind.into()),
    };
    let destination = Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { destination, target, metric, protocol: message.header.protocol.into() })
}

/// `None` for entries without a MAC address, such as those of multicast routes.
pub(super) fn fdb_entry(message: &NeighbourMessage) -> Option<FdbEntry> {
    let mac = link_layer_address(message)?;
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        // A message of the bridge family has the address without its family.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from)
        }
        _ => None,
    });
    Some(FdbEntry { mac, destination, permanent: is_permanent(message) })
}

pub(super) fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        _ => None,
    })?;
    let mac = link_layer_address(message);
    Some(Neighbour { index: message.header.ifindex, address, mac, permanent: is_permanent(message) })
}

fn link_layer_address(message: &NeighbourMessage) -> Option<privnet_ebpf::net::MacAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => read::mac(bytes),
        _ => None,
    })
}

/// The bridge whose FDB has the entry; `None` for an entry of a VXLAN link's FDB.
pub(super) fn controller(message: &NeighbourMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

fn is_permanent(message: &NeighbourMessage) -> bool {
    u16::from(message.header.state) & u16::from(NeighbourState::Permanent) != 0
}

/// `None` for the head of a chain: the dump has one for each priority, without a handle.
fn filter(message: &TcMessage) -> Option<Filter> {
    let handle = u32::from(message.header.handle);
    let mut filter = Filter {
        // The upper 16 bits of tcm_info are the priority, the lower the protocol.
        priority: u16::try_from(message.header.info >> 16).ok()?,
        handle,
        kind: String::new(),
        program_id: None,
        name: None,
    };
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
            TcAttribute::Options(options) => options.iter().for_each(|option| match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program_id = Some(*id),
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name = Some(name.clone()),
                _ => {}
            }),
            _ => {}
        }
    }
    Some(filter).filter(|filter| filter.handle != 0)
}
