//! Identifiers that packets, programs and agent share.

use core::fmt;

use bytemuck::{Pod, Zeroable};

/// A VXLAN network identifier, 1..=16777215 (RFC 7348 section 5: 24 bits; privnet does not use 0).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The smallest VNI.
    pub const MIN: Self = Self(1);
    /// The largest VNI.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// Checks `value`.
    ///
    /// # Errors
    /// [`InvalidVni`] when it is 0 or needs more than 24 bits.
    pub const fn new(value: u32) -> Result<Self, InvalidVni> {
        if value < Self::MIN.0 || value > Self::MAX.0 {
            return Err(InvalidVni { value });
        }
        Ok(Self(value))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vni({})", self.0)
    }
}

/// A number that is not a VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidVni {
    /// The offending number.
    pub value: u32,
}

impl fmt::Display for InvalidVni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VNI {} is not in {}..={}", self.value, Vni::MIN, Vni::MAX)
    }
}

impl core::error::Error for InvalidVni {}

/// The first byte of a member's MAC. This one and the next two are locally administered and unicast (IEEE 802, 8.2).
const MEMBER: u8 = 0x02;
/// The first byte of the MACs of a host's own devices.
const HOST: u8 = 0x06;
/// The first byte of the MAC of a veth's end in the network netns.
const NEAR_END: u8 = 0x0a;

/// An Ethernet address, in the order of the wire. The addresses that privnet assigns are made and read here only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Wraps the six bytes as they stand on the wire.
    #[must_use]
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// A member's: `02:<generation>:<address>`.
    ///
    /// The generation makes a reused IPv4 address meet no stale neighbour or FDB entry.
    #[must_use]
    #[inline(always)]
    pub const fn of_member(address: [u8; 4], generation: u8) -> Self {
        Self::ours(MEMBER, generation, address)
    }

    /// A host's `vxlan0`: `06:00:<VTEP address>`.
    #[must_use]
    pub const fn of_vtep(vtep: [u8; 4]) -> Self {
        Self::ours(HOST, 0, vtep)
    }

    /// A host's `br0`: `06:01:<VTEP address>`.
    #[must_use]
    pub const fn of_bridge(vtep: [u8; 4]) -> Self {
        Self::ours(HOST, 1, vtep)
    }

    /// The near end, in the network netns, of the veth pair whose far end has the member's MAC `self`:
    /// `0a:<generation>:<address>`.
    #[must_use]
    pub const fn near_end(self) -> Self {
        let [_, generation, a, b, c, d] = self.0;
        Self::ours(NEAR_END, generation, [a, b, c, d])
    }

    /// The IPv4 address of the member with this MAC, whatever the generation; `None` when it is not the MAC of a
    /// member.
    #[must_use]
    #[inline(always)]
    pub const fn member_address(self) -> Option<[u8; 4]> {
        match self.0 {
            [MEMBER, _, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }

    /// Whether this is the MAC of the member at `address`, whatever the generation.
    #[must_use]
    #[inline(always)]
    pub fn is_of_member(self, address: [u8; 4]) -> bool {
        let [_, generation, ..] = self.0;
        self == Self::of_member(address, generation)
    }

    const fn ours(first: u8, second: u8, address: [u8; 4]) -> Self {
        Self([first, second, address[0], address[1], address[2], address[3]])
    }

    /// The six bytes, in the order of the wire.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vni_has_24_bits_and_is_not_zero() {
        assert_eq!(Vni::new(1).map(Vni::get), Ok(1));
        assert_eq!(Vni::new(16_777_215).map(Vni::get), Ok(16_777_215));
        assert_eq!(Vni::new(0), Err(InvalidVni { value: 0 }));
        assert_eq!(Vni::new(16_777_216), Err(InvalidVni { value: 16_777_216 }));
    }

    #[test]
    fn every_mac_of_ours_is_unicast_and_locally_administered_in_every_generation() {
        let address = [10, 240, 0, 2];
        for generation in 0..=u8::MAX {
            let member = MacAddr::of_member(address, generation);
            for mac in [member, member.near_end(), MacAddr::of_vtep(address), MacAddr::of_bridge(address)] {
                assert_eq!(mac.bytes()[0] & 0b11, 0b10, "{mac}");
            }
        }
        assert_eq!(MacAddr::of_member(address, 7).to_string(), "02:07:0a:f0:00:02");
        assert_eq!(MacAddr::of_member(address, 7).near_end().to_string(), "0a:07:0a:f0:00:02");
        assert_eq!(MacAddr::of_vtep(address).to_string(), "06:00:0a:f0:00:02");
        assert_eq!(MacAddr::of_bridge(address).to_string(), "06:01:0a:f0:00:02");
    }

    #[test]
    fn a_members_mac_is_read_as_what_it_was_made_for_and_no_other_mac_is_a_members() {
        let (address, other) = ([10, 240, 0, 2], [10, 240, 0, 3]);
        for generation in [0, 1, u8::MAX] {
            let mac = MacAddr::of_member(address, generation);
            assert_eq!(mac.member_address(), Some(address));
            assert!(mac.is_of_member(address) && !mac.is_of_member(other));
        }
        let near_end = MacAddr::of_member(address, 0).near_end();
        for stranger in [near_end, MacAddr::of_vtep(address), MacAddr::of_bridge(address), MacAddr::BROADCAST] {
            assert_eq!(stranger.member_address(), None, "{stranger}");
            assert!(!stranger.is_of_member(address), "{stranger}");
        }
    }
}
