//! What the guard compares: the network addresses of a packet on a foreign interface.

use super::{ETHERTYPE_ARP, ETHERTYPE_IPV4, Frame, is_vlan};
use crate::verdict::Direction;

/// The network addresses of a packet on a foreign interface: all that the guard compares.
///
/// They have a value in every case, for the reason given at [`super::Packet`]: where they were undefined, the compiler read the stack
/// where nothing had been written, and Linux 6.1 refused `guard_ingress` ("invalid read from stack"). From 6.3 on that is
/// allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    protocol: Protocol,
    from: [u8; 4],
    to: [u8; 4],
}

/// Of which packet the addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// IPv4: the source and the destination.
    Ipv4,
    /// ARP, read as ARP for IPv4 over Ethernet whatever its own fields say: the sender's protocol address and the target's.
    Arp,
    /// None: it is shorter than its EtherType needs.
    Truncated,
    /// None: it is neither IPv4 nor ARP.
    Other,
}

impl Addresses {
    /// Of a packet that is shorter than its EtherType needs.
    pub const TRUNCATED: Self = Self::new(Protocol::Truncated, [0; 4], [0; 4]);
    /// Of a packet that is neither IPv4 nor ARP.
    pub const OTHER: Self = Self::new(Protocol::Other, [0; 4], [0; 4]);

    /// Those of IPv4 or ARP, as on the wire.
    #[must_use]
    #[inline(always)]
    pub const fn new(protocol: Protocol, from: [u8; 4], to: [u8; 4]) -> Self {
        Self { protocol, from, to }
    }

    /// Reads the addresses of a packet whose `payload` begins with the first byte after the EtherType.
    ///
    /// Reads behind up to two VLAN tags. `payload` begins at the network header, so interfaces without Ethernet are
    /// read, too.
    #[inline(always)]
    pub fn read(ethertype: u16, payload: &impl Frame) -> Self {
        let mut ethertype = ethertype;
        let mut offset = 0;
        for _ in 0..2 {
            if is_vlan(ethertype) {
                // Two bytes of tag control, then the EtherType of the payload.
                let Some([high, low]) = payload.read::<2>(offset + 2) else {
                    return Self::TRUNCATED;
                };
                ethertype = u16::from_be_bytes([high, low]);
                offset += 4;
            }
        }
        match ethertype {
            ETHERTYPE_IPV4 => match payload.read::<8>(offset + 12) {
                Some([a, b, c, d, e, f, g, h]) => Self::new(Protocol::Ipv4, [a, b, c, d], [e, f, g, h]),
                None => Self::TRUNCATED,
            },
            ETHERTYPE_ARP => match payload.read::<14>(offset + 14) {
                Some([a, b, c, d, _, _, _, _, _, _, e, f, g, h]) => {
                    Self::new(Protocol::Arp, [a, b, c, d], [e, f, g, h])
                }
                None => Self::TRUNCATED,
            },
            _ => Self::OTHER,
        }
    }

    /// Of which packet they are.
    #[must_use]
    #[inline(always)]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The address of the sender.
    #[must_use]
    #[inline(always)]
    pub const fn from(&self) -> [u8; 4] {
        self.from
    }

    /// The address of the receiver, or the one that ARP asks for.
    #[must_use]
    #[inline(always)]
    pub const fn to(&self) -> [u8; 4] {
        self.to
    }

    /// The address on the container's side of the packet: the sender's when it leaves, the receiver's when it arrives.
    #[must_use]
    #[inline(always)]
    pub const fn of_container(&self, direction: Direction) -> Option<[u8; 4]> {
        match (self.protocol, direction) {
            (Protocol::Ipv4 | Protocol::Arp, Direction::Out) => Some(self.from),
            (Protocol::Ipv4 | Protocol::Arp, Direction::In) => Some(self.to),
            (Protocol::Truncated | Protocol::Other, Direction::Out | Direction::In) => None,
        }
    }
}
