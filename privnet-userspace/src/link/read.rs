//! Netlink messages as values. Pure.

#![expect(clippy::wildcard_enum_match_arm, reason = "the enums of netlink grow with the kernel")]

use privnet_ebpf::net::MacAddr;
use rtnetlink::packet_core::{DecodeError, Nla, NlaBuffer, NlasIterator};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    BridgePortState, BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVxlan,
    LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use super::socket::Message;
use super::{BridgePort, Link, LinkKind, Vxlan};

/// `RTM_NEWLINK` and `RTM_DELLINK`, include/uapi/linux/rtnetlink.h.
const LINK_MESSAGES: [u16; 2] = [16, 17];

/// The link of an answer; `None` when the answer is of another object.
pub(super) fn link(message: &Message) -> Option<Link> {
    match message {
        Message::Route(RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)) => {
            Some(decoded(message))
        }
        Message::Undecodable { message_type, payload, .. } if LINK_MESSAGES.contains(message_type) => {
            undecoded(payload)
        }
        Message::Route(_) | Message::Undecodable { .. } => None,
    }
}

/// The address of an Ethernet link; `None` for addresses of other link layers, which have other lengths.
pub(super) fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr::new)
}

fn decoded(message: &LinkMessage) -> Link {
    let header = &message.header;
    let kind = if header.link_layer_type == LinkLayerType::Loopback {
        LinkKind::Loopback
    } else {
        LinkKind::Other(String::new())
    };
    let mut link = Link {
        index: header.index,
        name: String::new(),
        kind,
        mac: None,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        plain: is_plain(header.flags, header.link_layer_type == LinkLayerType::Ether),
        alias: None,
        controller: None,
        bridge_port: None,
        lower: None,
        lower_nsid: None,
    };
    let is_ethernet = header.link_layer_type == LinkLayerType::Ether;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) if is_ethernet => link.mac = mac(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::Link(index) => link.lower = Some(*index).filter(|index| *index != 0),
            LinkAttribute::LinkNetNsId(id) => link.lower_nsid = Some(*id),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = link_kind(infos);
                link.bridge_port = bridge_port(infos);
                link.plain &= is_plain_bridge(infos);
            }
            _ => {}
        }
    }
    link
}

/// Whether the flags are those that the kernel gives to a new link.
fn is_plain(flags: LinkFlags, is_ethernet: bool) -> bool {
    flags.intersection(settable_flags(is_ethernet)) == plain_flags(is_ethernet)
}

/// Whether a bridge has the settings of [`PLAIN_BRIDGE`]; another link has none of them.
fn is_plain_bridge(infos: &[LinkInfo]) -> bool {
    let settings = infos.iter().filter_map(|info| match info {
        LinkInfo::Data(InfoData::Bridge(settings)) => Some(settings),
        _ => None,
    });
    settings
        .flatten()
        .all(|setting| PLAIN_BRIDGE.iter().all(|plain| plain.kind() != setting.kind() || plain == setting))
}

/// The settings with which a bridge forwards whatever its table says, at once.
pub(super) const PLAIN_BRIDGE: [InfoBridge; 2] =
    [InfoBridge::StpState(BridgeStpState::Disabled), InfoBridge::MulticastSnooping(false)];

/// The flags that anybody can set besides [`LinkFlags::Up`] and that mean something.
pub(super) fn settable_flags(is_ethernet: bool) -> LinkFlags {
    let flags = LinkFlags::Noarp | LinkFlags::Promisc | LinkFlags::Allmulti;
    // TUN links have it, WireGuard's have not; neither means anything.
    if is_ethernet { flags | LinkFlags::Multicast } else { flags }
}

/// Those of them that a new link has.
pub(super) const fn plain_flags(is_ethernet: bool) -> LinkFlags {
    if is_ethernet { LinkFlags::Multicast } else { LinkFlags::Noarp }
}

fn link_kind(infos: &[LinkInfo]) -> LinkKind {
    let mut kind = None;
    let mut data = None;
    for info in infos {
        match info {
            LinkInfo::Kind(found) => kind = Some(found),
            LinkInfo::Data(found) => data = Some(found),
            _ => {}
        }
    }
    match (kind, data) {
        (Some(InfoKind::Veth), _) => LinkKind::Veth,
        (Some(InfoKind::Vxlan), Some(InfoData::Vxlan(settings))) => LinkKind::Vxlan(vxlan(settings)),
        (Some(InfoKind::Bridge), _) => LinkKind::Bridge,
        (Some(InfoKind::Wireguard), _) => LinkKind::Wireguard,
        (Some(InfoKind::Tun), _) => LinkKind::Tun,
        (Some(other), _) => LinkKind::Other(kernel_name(other)),
        // A device of hardware has no kind. As a port of a bridge it has port data.
        (None, _) => LinkKind::Other(String::new()),
    }
}

fn bridge_port(infos: &[LinkInfo]) -> Option<BridgePort> {
    let settings = infos.iter().find_map(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(settings)) => Some(settings),
        _ => None,
    })?;
    // Every kernel sends all of them; the values here are the defaults of a bridge.
    let mut port = BridgePort {
        learning: true,
        unicast_flood: true,
        multicast_flood: true,
        broadcast_flood: true,
        forwarding: true,
        isolated: false,
        locked: false,
    };
    for setting in settings {
        match setting {
            InfoBridgePort::Learning(on) => port.learning = *on,
            InfoBridgePort::UnicastFlood(on) => port.unicast_flood = *on,
            InfoBridgePort::MulticastFlood(on) => port.multicast_flood = *on,
            InfoBridgePort::BroadcastFlood(on) => port.broadcast_flood = *on,
            InfoBridgePort::State(state) => port.forwarding = *state == BridgePortState::Forwarding,
            InfoBridgePort::Isolated(on) => port.isolated = *on,
            InfoBridgePort::Locked(on) => port.locked = *on,
            _ => {}
        }
    }
    Some(port)
}

/// `IFLA_BRPORT_…`, include/uapi/linux/if_link.h.
const STATE: u16 = 1;
const LEARNING: u16 = 8;
const UNICAST_FLOOD: u16 = 9;
const MULTICAST_FLOOD: u16 = 27;
const BROADCAST_FLOOD: u16 = 30;
const ISOLATED: u16 = 33;
const LOCKED: u16 = 39;
/// `BR_STATE_FORWARDING`, include/uapi/linux/if_bridge.h.
const FORWARDING: u8 = 3;

/// How a bridge treats a port, as the bridge itself announces it; `None` when it says nothing of it.
pub(super) fn port_settings(message: &LinkMessage) -> Option<BridgePort> {
    let settings = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::ProtoInfoBridge(settings) => Some(settings),
        _ => None,
    })?;
    let value = |kind: u16| {
        let setting = settings.iter().find(|setting| setting.kind() == kind && setting.value_len() == 1)?;
        let mut value = [0];
        setting.emit_value(&mut value);
        Some(value[0])
    };
    let is_on = |kind: u16| value(kind).map(|value| value != 0);
    Some(BridgePort {
        learning: is_on(LEARNING)?,
        unicast_flood: is_on(UNICAST_FLOOD)?,
        multicast_flood: is_on(MULTICAST_FLOOD)?,
        broadcast_flood: is_on(BROADCAST_FLOOD)?,
        forwarding: value(STATE)? == FORWARDING,
        isolated: is_on(ISOLATED)?,
        locked: is_on(LOCKED)?,
    })
}

fn vxlan(settings: &[InfoVxlan]) -> Vxlan {
    let mut vxlan = Vxlan {
        vni: 0,
        local: None,
        remote: None,
        port: 0,
        learning: false,
        proxy: false,
        external: false,
        udp_checksum: false,
    };
    for setting in settings {
        match setting {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Local(address) => vxlan.local = Some(*address),
            InfoVxlan::Group(address) => vxlan.remote = Some(*address),
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Learning(on) => vxlan.learning = *on,
            InfoVxlan::Proxy(on) => vxlan.proxy = *on,
            InfoVxlan::CollectMetadata(on) => vxlan.external = *on,
            InfoVxlan::UDPCsum(on) => vxlan.udp_checksum = *on,
            _ => {}
        }
    }
    vxlan
}

fn kernel_name(kind: &InfoKind) -> String {
    let mut bytes = vec![0; kind.value_len()];
    kind.emit_value(&mut bytes);
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

/// `IFLA_ADDRESS`, `IFLA_IFNAME`, `IFLA_MTU`, include/uapi/linux/if_link.h.
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;

/// A link with an attribute that the decoder does not understand, most likely a foreign link: `struct ifinfomsg` and
/// three attributes. `None` without these.
fn undecoded(payload: &[u8]) -> Option<Link> {
    let (header, attributes) = payload.split_at_checked(16)?;
    let number = |at: usize| header.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let flags = LinkFlags::from_bits_retain(number(8)?);
    let mut link = Link {
        index: number(4)?,
        name: String::new(),
        kind: LinkKind::Other("?".to_owned()),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        plain: false,
        alias: None,
        controller: None,
        bridge_port: None,
        lower: None,
        lower_nsid: None,
    };
    let attributes =
        NlasIterator::new(attributes).map_while(|attribute: Result<NlaBuffer<&[u8]>, DecodeError>| attribute.ok());
    for attribute in attributes {
        match attribute.kind() {
            NAME => link.name = String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned(),
            ADDRESS => link.mac = mac(attribute.value()),
            MTU => link.mtu = attribute.value().try_into().map_or(0, u32::from_ne_bytes),
            _ => {}
        }
    }
    Some(link).filter(|link| !link.name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_cannot_be_decoded_is_still_seen_by_name_and_index() {
        let mut payload = vec![0; 16];
        payload[4] = 7;
        payload[8] = 1;
        payload.extend([9, 0, 3, 0, b'e', b't', b'h', 0xff, 0, 0, 0, 0]);
        let seen = undecoded(&payload).expect("a link");
        assert_eq!((seen.index, seen.name.as_str(), seen.up), (7, "eth\u{fffd}", true));
        assert_eq!(undecoded(&payload[..15]), None);
        assert_eq!(undecoded(&payload[..16]), None, "no name");
    }

    #[test]
    fn a_bridge_that_speaks_stp_or_looks_into_multicast_is_not_plain() {
        let bridge = |settings: &[InfoBridge]| is_plain_bridge(&[LinkInfo::Data(InfoData::Bridge(settings.to_vec()))]);
        assert!(bridge(&PLAIN_BRIDGE) && bridge(&[InfoBridge::ForwardDelay(0)]) && is_plain_bridge(&[]));
        assert!(!bridge(&[InfoBridge::StpState(BridgeStpState::KernelStp)]));
        assert!(!bridge(&[InfoBridge::ForwardDelay(0), InfoBridge::MulticastSnooping(true)]));
    }

    #[test]
    fn other_kinds_keep_the_kernels_name() {
        assert_eq!(link_kind(&[LinkInfo::Kind(InfoKind::MacVlan)]), LinkKind::Other("macvlan".to_owned()));
        assert_eq!(link_kind(&[LinkInfo::Kind(InfoKind::Veth)]), LinkKind::Veth);
    }
}
