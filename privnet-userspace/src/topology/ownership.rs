//! The names of our namespaces and interfaces: made here, recognized here, and nowhere else.
//!
//! A name that does not parse is a stranger's and invisible to every operation.

use std::fmt;
use std::net::Ipv4Addr;

use crate::model::{ContainerRef, IfName, MemberId, NetworkId};

/// The VTEP in a network netns.
pub const VTEP: &str = "vxlan0";
/// The bridge in a network netns of the bridge datapath.
pub const BRIDGE: &str = "br0";
/// The first UDP port of a container's WireGuard sockets; the device `wg<n>` uses this plus n.
pub const WIREGUARD_PORT_BASE: u16 = 51_820;
/// How many networks a container can be in at once: `wg0` to `wg63`.
pub const MAX_NETWORKS_PER_CONTAINER: u8 = 64;

/// What the alias of a member's WireGuard device begins with.
const ALIAS: &str = "privnet ";
/// How many slots there are for links: their numbers have at most 7 digits, so that none looks like an address in hex.
pub const MAX_LINK_SLOTS: u32 = 10_000_000;

/// The use of a namespace of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsName {
    /// A network's, `<prefix>pn-<uuid>`.
    Network(NetworkId),
    /// A container's binding netns, `<prefix>bind-<16 hex>`; the digits are mostly [`binding_digest`] of its first name.
    Binding(u64),
    /// The one in which a device is made that is handed over, `<prefix>hand-<16 hex>`; the digits are its holder's.
    Handover(u64),
}

/// The name under which a network's namespace is pinned.
#[must_use]
pub fn network_netns(prefix: &str, network: NetworkId) -> String {
    format!("{prefix}{network}")
}

/// The name under which a container's binding netns is pinned.
#[must_use]
pub fn binding_netns(prefix: &str, digits: u64) -> String {
    format!("{prefix}bind-{digits:016x}")
}

/// The name under which the namespace is pinned in which a device is made that is handed over.
#[must_use]
pub fn handover_netns(prefix: &str, digits: u64) -> String {
    format!("{prefix}hand-{digits:016x}")
}

/// The name that a device has while it is handed over, between the namespaces of ours and the container: `pn<10 hex>`, which the
/// package tells the host's other managers of interfaces to leave alone.
#[must_use]
pub fn handover_link(digits: u64) -> IfName {
    name(format!("pn{:010x}", digits >> 24))
}

/// The alias of a member's WireGuard device: by it the device is found in whatever namespace, and under whatever name another
/// program gave it. Devices of the build before have none.
#[must_use]
pub fn tunnel_alias(member: MemberId) -> String {
    format!("{ALIAS}{member}")
}

/// Whether an alias is one that [`tunnel_alias`] made.
#[must_use]
pub fn is_tunnel_alias(alias: Option<&str>) -> bool {
    alias.is_some_and(|alias| alias.strip_prefix(ALIAS).is_some_and(|id| id.parse::<MemberId>().is_ok()))
}

/// Recognizes a name that [`network_netns`], [`binding_netns`] or [`handover_netns`] made with this prefix.
#[must_use]
pub fn parse_netns(prefix: &str, name: &str) -> Option<NetnsName> {
    let rest = name.strip_prefix(prefix)?;
    if let Ok(network) = rest.parse() {
        return Some(NetnsName::Network(network));
    }
    if let Some(digits) = rest.strip_prefix("hand-") {
        return lower_hex(digits, 16).map(NetnsName::Handover);
    }
    let digits = rest.strip_prefix("bind-")?;
    let digest = lower_hex(digits, 16)?;
    Some(NetnsName::Binding(digest))
}

/// FNV-1a of the container's text, 64 bits (draft-eastlake-fnv). It must be the same in every build; it need not resist an
/// attacker, since a container's name is unique on a host.
#[must_use]
pub fn binding_digest(container: &ContainerRef) -> u64 {
    container
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The name of the network netns's end of a member's veth pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MemberLink {
    /// A small number that no other member of this host has: `veth-<slot>`, below [`MAX_LINK_SLOTS`].
    Slot(u32),
    /// The member's address, as agents before slots did: `veth-<address in 8 hex digits>`.
    Address(Ipv4Addr),
}

impl MemberLink {
    /// The link's name.
    #[must_use]
    pub fn name(self) -> IfName {
        name(self.to_string())
    }

    /// Recognizes a name that [`MemberLink::name`] made.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("veth-")?;
        if let Some(address) = lower_hex(rest, 8) {
            return u32::try_from(address).ok().map(|bits| Self::Address(bits.into()));
        }
        let is_canonical = |slot: &u32| *slot < MAX_LINK_SLOTS && slot.to_string() == rest;
        rest.parse().ok().filter(is_canonical).map(Self::Slot)
    }
}

impl fmt::Display for MemberLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(slot) => write!(f, "veth-{slot}"),
            Self::Address(address) => write!(f, "veth-{:08x}", u32::from(*address)),
        }
    }
}

/// The binding netns's end of a member's veth pair: `vxlan-<n+1>-veth0`.
#[must_use]
pub fn binding_veth(index: u8) -> IfName {
    name(format!("vxlan-{}-veth0", u16::from(index) + 1))
}

/// The metric of the backstop: the kernel prefers every other route of the prefix.
pub const BACKSTOP_METRIC: u32 = u32::MAX;
/// The metric that tells our routes to departed members from others: the longer prefix wins, whatever the metric.
pub const DEPARTED_METRIC: u32 = u32::MAX - 1;

/// Whether an `unreachable` route of this metric is ours: no route of an administrator needs one of the highest two.
#[must_use]
pub const fn is_own_metric(metric: u32) -> bool {
    metric == BACKSTOP_METRIC || metric == DEPARTED_METRIC
}

/// The WireGuard interface in the app netns: `wg<n>`.
#[must_use]
pub fn wireguard_interface(index: u8) -> IfName {
    name(format!("wg{index}"))
}

/// The UDP port of `wg<n>`'s socket in the binding netns.
#[must_use]
pub fn wireguard_port(index: u8) -> u16 {
    WIREGUARD_PORT_BASE + u16::from(index)
}

/// The n of the `wg<n>` whose socket has that port; nothing for another port.
#[must_use]
pub fn wireguard_index(port: u16) -> Option<u8> {
    u8::try_from(port.checked_sub(WIREGUARD_PORT_BASE)?).ok().filter(|index| *index < MAX_NETWORKS_PER_CONTAINER)
}

/// One of the names that do not vary, [`VTEP`] or [`BRIDGE`].
#[must_use]
pub fn fixed(name: &'static str) -> IfName {
    name.parse().expect("the fixed names are at most 15 bytes of letters and digits")
}

fn lower_hex(text: &str, digits: usize) -> Option<u64> {
    let canonical = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    canonical.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn name(text: String) -> IfName {
    // The longest are "veth-" and 8 digits (13 bytes) and "vxlan-256-veth0" (15 bytes): all fit IFNAMSIZ.
    text.parse().expect("generated names are at most 15 bytes of letters, digits and '-'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn container(number: u32) -> ContainerRef {
        format!("{number}.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053").parse().expect("valid")
    }

    #[test]
    fn the_names_of_strangers_are_invisible() {
        for stranger in [
            "docker0",
            "cni0",
            "flannel.1",
            "wg0",
            "veth0af00002",
            "veth-0AF00002",
            "veth-0af0002",
            "veth-",
            "eth0",
            "veth-00",
            "veth-10000000000",
            "veth-+1",
            "veth1a2b3c4",
        ] {
            assert_eq!(MemberLink::parse(stranger), None, "{stranger}");
        }
        for stranger in [
            "hand-",
            "hand-0123",
            "",
            "default",
            "pn-",
            "pn-1",
            "bind-",
            "bind-xyz",
            "bind-0123456789ABCDEF",
            "cni-1234",
        ] {
            assert_eq!(parse_netns("", stranger), None, "{stranger}");
        }
    }

    #[test]
    fn a_prefix_separates_two_hosts_on_one_kernel() {
        let name = binding_netns("demo-1-", binding_digest(&container(1)));
        assert_eq!(parse_netns("demo-1-", &name), Some(NetnsName::Binding(binding_digest(&container(1)))));
        assert_eq!(parse_netns("demo-2-", &name), None);
        assert_eq!(parse_netns("", &name), None);
    }

    #[test]
    fn every_index_gives_a_name_that_fits() {
        for index in 0..=u8::MAX {
            assert!(binding_veth(index).as_str().len() <= 15);
            assert!(wireguard_interface(index).as_str().len() <= 15);
        }
        assert_eq!(binding_veth(0).as_str(), "vxlan-1-veth0");
        for index in 0..MAX_NETWORKS_PER_CONTAINER {
            assert_eq!(wireguard_index(wireguard_port(index)), Some(index));
        }
        assert_eq!([51_819, 51_820 + 64, 53].map(wireguard_index), [None; 3]);
    }

    proptest! {
        #[test]
        fn a_member_veth_is_recognized_as_what_it_was_made_for(address: u32, slot in 0..MAX_LINK_SLOTS) {
            for link in [MemberLink::Address(address.into()), MemberLink::Slot(slot)] {
                prop_assert_eq!(MemberLink::parse(link.name().as_str()), Some(link));
            }
        }

        #[test]
        fn a_network_netns_is_recognized_as_what_it_was_made_for(bits: u128) {
            let network = NetworkId::from_uuid(uuid::Uuid::from_u128(bits));
            prop_assert_eq!(parse_netns("x-", &network_netns("x-", network)), Some(NetnsName::Network(network)));
        }

        #[test]
        fn a_handover_is_recognized_as_what_it_was_made_for(digits: u64) {
            prop_assert_eq!(parse_netns("x-", &handover_netns("x-", digits)), Some(NetnsName::Handover(digits)));
            prop_assert_eq!(handover_link(digits).as_str().len(), 12);
        }

        #[test]
        fn what_parses_as_ours_prints_the_same(name in "[ -~]{0,20}") {
            if let Some(link) = MemberLink::parse(&name) {
                prop_assert_eq!(link.name().to_string(), name);
            }
        }
    }
}
