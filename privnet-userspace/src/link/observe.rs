//! What a namespace holds. Every answer is whole or an error. Changes nothing.

#![expect(clippy::wildcard_enum_match_arm, reason = "the enums of netlink grow with the kernel")]

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::os::fd::AsRawFd;

use super::wire::{Doing, Message};
use super::{Address, BridgeFdbEntry, Error, FdbEntry, Filter, Hook, Link, Links, Neighbour, Route, RouteTarget, read};
use crate::netns::Netns;

impl Links {
    /// All links, by index.
    ///
    /// # Errors
    /// [`Error::Incomplete`] and the others; then nothing is known.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        const WHAT: &str = "links";
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let rows = self.wire.dump(RouteNetlinkMessage::GetLink(request), WHAT).await?;
        let mut links =
            rows.iter().map(|row| read::link(row).ok_or_else(|| self.odd(WHAT, row))).collect::<Result<Vec<_>, _>>()?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The link of that name.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none.
    pub async fn link(&self, name: &str) -> Result<Link, Error> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let doing = Doing::new("find", format!("link {name}"));
        let answers = self.wire.get(RouteNetlinkMessage::GetLink(request), 0, doing.clone()).await?;
        answers.iter().find_map(read::link).ok_or(Error::NoAnswer {
            op: doing.op,
            object: doing.object,
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
        for row in self.wire.dump(RouteNetlinkMessage::GetAddress(request), WHAT).await? {
            let Message::Route(RouteNetlinkMessage::NewAddress(message)) = &row else {
                return Err(self.odd(WHAT, &row));
            };
            addresses.push(address(message).ok_or_else(|| self.odd(WHAT, &row))?);
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
        let rows = match self.wire.dump(RouteNetlinkMessage::GetRoute(request), WHAT).await {
            // A namespace that never had a route has no table either.
            Err(Error::NotFound(_)) => Vec::new(),
            rows => rows?,
        };
        let mut routes = Vec::new();
        for row in rows {
            let Message::Route(RouteNetlinkMessage::NewRoute(message)) = &row else {
                return Err(self.odd(WHAT, &row));
            };
            if message.header.table == RouteHeader::RT_TABLE_MAIN {
                routes.push(route(message).ok_or_else(|| self.odd(WHAT, &row))?);
            }
        }
        routes.sort();
        Ok(routes)
    }

    /// The forwarding table of a VXLAN link, sorted.
    ///
    /// # Errors
    /// As [`Links::links`].
    pub async fn fdb(&self, index: u32) -> Result<Vec<FdbEntry>, Error> {
        const WHAT: &str = "forwarding table";
        let mut entries = Vec::new();
        for row in self.neighbour_rows(AddressFamily::Bridge, Some(index), WHAT).await? {
            let Message::Route(RouteNetlinkMessage::NewNeighbour(message)) = &row else {
                return Err(self.odd(WHAT, &row));
            };
            // The dump tells of the port's bridge as well.
            if message.header.ifindex == index && controller(message).is_none() {
                entries.extend(fdb_entry(message));
            }
        }
        entries.sort();
        Ok(entries)
    }

    /// The forwarding table of a bridge, sorted; without the addresses of the ports themselves.
    ///
    /// # Errors
    /// As [`Links::links`].
    pub async fn bridge_fdb(&self, bridge: u32) -> Result<Vec<BridgeFdbEntry>, Error> {
        const WHAT: &str = "forwarding table of a bridge";
        let mut entries = Vec::new();
        for row in self.neighbour_rows(AddressFamily::Bridge, None, WHAT).await? {
            let Message::Route(RouteNetlinkMessage::NewNeighbour(message)) = &row else {
                return Err(self.odd(WHAT, &row));
            };
            // Where the kernel's bridges know of VLANs, a row that is written for none is there for each VLAN of the port as
            // well. Ours tell no VLANs apart, and ask only for the first.
            let has_vlan = message.attributes.iter().any(|attribute| matches!(attribute, NeighbourAttribute::Vlan(_)));
            if controller(message) == Some(bridge) && !is_permanent(message) && !has_vlan {
                let mac = link_layer_address(message).ok_or_else(|| self.odd(WHAT, &row))?;
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
                return Err(self.odd(WHAT, &row));
            };
            if message.header.ifindex == index {
                neighbours.push(neighbour(message).ok_or_else(|| self.odd(WHAT, &row))?);
            }
        }
        neighbours.sort();
        Ok(neighbours)
    }

    /// The filters at one hook of a link's clsact, in the order in which they run. None when it has no clsact.
    ///
    /// # Errors
    /// As [`Links::links`].
    pub async fn filters(&self, index: u32, hook: Hook) -> Result<Vec<Filter>, Error> {
        const WHAT: &str = "filters";
        let mut request = TcMessage::default();
        request.header.index = index.cast_signed();
        let minor = match hook {
            Hook::Ingress => TcHandle::MIN_INGRESS,
            Hook::Egress => TcHandle::MIN_EGRESS,
        };
        request.header.parent = TcHandle { major: 0xffff, minor };
        let mut filters = Vec::new();
        for row in self.wire.dump(RouteNetlinkMessage::GetTrafficFilter(request), WHAT).await? {
            let Message::Route(RouteNetlinkMessage::NewTrafficFilter(message)) = &row else {
                return Err(self.odd(WHAT, &row));
            };
            filters.extend(filter(message));
        }
        filters.sort();
        Ok(filters)
    }

    /// Whether the link has a clsact (or ingress) qdisc, without which it has no filters.
    ///
    /// # Errors
    /// As [`Links::links`].
    pub async fn has_clsact(&self, index: u32) -> Result<bool, Error> {
        const WHAT: &str = "qdiscs";
        let mut found = false;
        for row in self.wire.dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()), WHAT).await? {
            let Message::Route(RouteNetlinkMessage::NewQueueDiscipline(message)) = &row else {
                return Err(self.odd(WHAT, &row));
            };
            let is_clsact = message.header.parent == TcHandle::CLSACT;
            found |= is_clsact && message.header.index == index.cast_signed();
        }
        Ok(found)
    }

    /// The id by which this namespace knows `other`, as in [`Link::lower_nsid`]; `None` when it has none, which means
    /// that no link of this namespace has its other half there. Of itself it has none either.
    ///
    /// # Errors
    /// As [`Links::link`].
    pub async fn nsid_of(&self, other: &Netns) -> Result<Option<i32>, Error> {
        let mut request = NsidMessage::default();
        let fd = other.fd().as_raw_fd().cast_unsigned();
        request.attributes.push(NsidAttribute::Fd(fd));
        let doing = Doing::new("identify", other.id().to_string());
        let answers = self.wire.get(RouteNetlinkMessage::GetNsId(request), 0, doing).await?;
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
        self.wire.dump(RouteNetlinkMessage::GetNeighbour(request), what).await
    }

    /// A row that is not what was asked for, or lacks what it must have.
    fn odd(&self, what: &'static str, row: &Message) -> Error {
        let reason = match row {
            Message::Undecodable { reason, .. } => format!("cannot decode an entry: {reason}"),
            Message::Route(_) => "an entry lacks what every such entry has".to_owned(),
        };
        Error::Incomplete { what, netns: self.netns(), reason }
    }
}

fn address(message: &AddressMessage) -> Option<Address> {
    // IFA_LOCAL is the address itself; IFA_ADDRESS is the peer's on a point-to-point link, else the same.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    Some(Address { index: message.header.index, address: Ipv4Net::new(local, message.header.prefix_len).ok()? })
}

fn route(message: &RouteMessage) -> Option<Route> {
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

/// `None` for entries without a MAC address (of a multicast route, say).
fn fdb_entry(message: &NeighbourMessage) -> Option<FdbEntry> {
    let mac = link_layer_address(message)?;
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        // In a bridge message the address has no family.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from)
        }
        _ => None,
    });
    Some(FdbEntry { mac, destination, permanent: is_permanent(message) })
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
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

/// The bridge whose table the entry is in; `None` for an entry of a VXLAN link's own.
fn controller(message: &NeighbourMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

fn is_permanent(message: &NeighbourMessage) -> bool {
    u16::from(message.header.state) & u16::from(NeighbourState::Permanent) != 0
}

/// `None` for the head of a chain, which is listed with each priority and has no handle.
fn filter(message: &TcMessage) -> Option<Filter> {
    let handle = u32::from(message.header.handle);
    let mut filter = Filter {
        // TC_H_MAJ of tcm_info is the priority, the rest the protocol.
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
