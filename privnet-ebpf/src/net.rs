//! The identifiers that the packets, the programs and the agent all speak.

use core::fmt;

use bytemuck::{Pod, Zeroable};

/// A VXLAN network identifier, 1..=16777215 (RFC 7348 section 5: 24 bits; 0 is never ours).
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

/// An Ethernet address, in the order of the wire.
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

    /// The address that privnet gives a member: locally administered, unicast, `02:<generation>:<address>`.
    ///
    /// The generation makes a reused IPv4 address meet no stale neighbour or FDB entry.
    #[must_use]
    pub const fn of_member(address: [u8; 4], generation: u8) -> Self {
        Self([0x02, generation, address[0], address[1], address[2], address[3]])
    }

    /// The six bytes as they stand on the wire.
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
    fn a_members_mac_is_unicast_and_locally_administered_in_every_generation() {
        for generation in 0..=u8::MAX {
            let first = MacAddr::of_member([10, 240, 0, 2], generation).bytes()[0];
            assert_eq!(first & 0b11, 0b10);
        }
        assert_eq!(MacAddr::of_member([10, 240, 0, 2], 7).to_string(), "02:07:0a:f0:00:02");
    }
}
