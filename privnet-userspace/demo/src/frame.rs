//! Frames as captures show them, read and made by value. Pure.

use std::net::{Ipv4Addr, SocketAddrV4};

use privnet_ebpf::net::MacAddr;

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const VXLAN_BYTES: usize = 8;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const PROTOCOL_UDP: u8 = 17;
/// "The VNI is valid", RFC 7348 section 5.
const VXLAN_FLAGS: u8 = 0x08;
/// The port between the demo's hosts, which are a fleet of their own.
pub const VXLAN_PORT: u16 = privnet::model::DEFAULT_VXLAN_PORT.get();

/// An Ethernet frame with IPv4 without options and UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The sender's MAC.
    pub source_mac: MacAddr,
    /// The receiver's MAC.
    pub destination_mac: MacAddr,
    /// From where.
    pub source: SocketAddrV4,
    /// Where to.
    pub destination: SocketAddrV4,
    /// What is in it.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads one; nothing when the frame is something else.
    #[must_use]
    pub fn read(frame: &'a [u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_first_chunk::<ETHERNET_BYTES>()?;
        let (ipv4, rest) = packet.split_first_chunk::<IPV4_BYTES>()?;
        let (udp, _) = rest.split_first_chunk::<UDP_BYTES>()?;
        if ethernet[12..] != ETHERTYPE_IPV4 || ipv4[0] != 0x45 || ipv4[9] != PROTOCOL_UDP {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
        let address = |at: usize| Ipv4Addr::new(ipv4[at], ipv4[at + 1], ipv4[at + 2], ipv4[at + 3]);
        let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
        Some(Self {
            source_mac: mac(&ethernet[6..12])?,
            destination_mac: mac(&ethernet[..6])?,
            source: SocketAddrV4::new(address(12), port(0)),
            destination: SocketAddrV4::new(address(16), port(2)),
            payload: rest.get(UDP_BYTES..length)?,
        })
    }

    /// The frame that reads as this.
    #[must_use]
    pub fn to_frame(self) -> Vec<u8> {
        let udp_bytes = u16::try_from(UDP_BYTES + self.payload.len()).unwrap_or(u16::MAX);
        let total_bytes = udp_bytes.saturating_add(20);
        let mut ipv4 = [0; IPV4_BYTES];
        ipv4[0] = 0x45;
        ipv4[2..4].copy_from_slice(&total_bytes.to_be_bytes());
        ipv4[8] = 64;
        ipv4[9] = PROTOCOL_UDP;
        ipv4[12..16].copy_from_slice(&self.source.ip().octets());
        ipv4[16..20].copy_from_slice(&self.destination.ip().octets());
        let sum = checksum(&ipv4);
        ipv4[10..12].copy_from_slice(&sum);
        let mut frame = Vec::with_capacity(ETHERNET_BYTES + usize::from(total_bytes));
        frame.extend_from_slice(&self.destination_mac.bytes());
        frame.extend_from_slice(&self.source_mac.bytes());
        frame.extend_from_slice(&ETHERTYPE_IPV4);
        frame.extend_from_slice(&ipv4);
        frame.extend_from_slice(&self.source.port().to_be_bytes());
        frame.extend_from_slice(&self.destination.port().to_be_bytes());
        frame.extend_from_slice(&udp_bytes.to_be_bytes());
        // No checksum, which UDP over IPv4 allows (RFC 768).
        frame.extend_from_slice(&[0, 0]);
        frame.extend_from_slice(self.payload);
        frame
    }

    /// The VNI and the inner frame, when this is VXLAN.
    #[must_use]
    pub fn vxlan(&self) -> Option<(u32, &'a [u8])> {
        let (header, inner) = self.payload.split_first_chunk::<VXLAN_BYTES>()?;
        let is_vxlan = self.destination.port() == VXLAN_PORT && header[0] & VXLAN_FLAGS != 0;
        is_vxlan.then(|| (u32::from_be_bytes([0, header[4], header[5], header[6]]), inner))
    }

    /// Whether it goes from `a` to `b` or back.
    #[must_use]
    pub fn is_between(&self, a: Ipv4Addr, b: Ipv4Addr) -> bool {
        [(a, b), (b, a)].contains(&(*self.source.ip(), *self.destination.ip()))
    }
}

/// What a WireGuard datagram is, by its first byte (the WireGuard paper, section 5.4).
#[must_use]
pub fn wireguard_kind(payload: &[u8]) -> Option<&'static str> {
    match payload.split_first_chunk::<4>()?.0 {
        [1, 0, 0, 0] => Some("handshake initiation"),
        [2, 0, 0, 0] => Some("handshake response"),
        [3, 0, 0, 0] => Some("cookie"),
        [4, 0, 0, 0] => Some("data"),
        _ => None,
    }
}

/// Whether `needle` is somewhere in `haystack`.
#[must_use]
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.first_chunk().map(|bytes| MacAddr::new(*bytes))
}

/// RFC 1071, of a header whose own checksum is zero.
fn checksum(header: &[u8; IPV4_BYTES]) -> [u8; 2] {
    let words = header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    // Ten words carry at most 9: after two folds nothing is above 16 bits.
    let folded = (folded & 0xffff) + (folded >> 16);
    let [_, _, high, low] = (!folded).to_be_bytes();
    [high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(payload: &[u8]) -> Datagram<'_> {
        Datagram {
            source_mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
            destination_mac: MacAddr::new([2, 0, 0, 0, 0, 2]),
            source: "10.240.0.2:51820".parse().expect("an address"),
            destination: "10.240.0.3:4789".parse().expect("an address"),
            payload,
        }
    }

    #[test]
    fn what_is_written_reads_the_same_and_no_part_of_it_reads_at_all() {
        let written = datagram(b"hello").to_frame();
        assert_eq!(Datagram::read(&written), Some(datagram(b"hello")));
        for length in 0..written.len() {
            assert_eq!(Datagram::read(&written[..length]), None, "{length}");
        }
    }

    #[test]
    fn the_checksum_is_that_of_a_known_header() {
        // From RFC 1071's method by hand: the words of the header below sum to 0x2_4784 without the checksum.
        let header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 0x01, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(checksum(&header), [0xb8, 0x61]);
    }

    #[test]
    fn vxlan_is_known_by_port_and_flag() {
        let vxlan = [8, 0, 0, 0, 0, 1, 2, 0, 0xaa];
        assert_eq!(datagram(&vxlan).vxlan(), Some((0x102, &[0xaa][..])));
        assert_eq!(datagram(&[0, 0, 0, 0, 0, 1, 2, 0]).vxlan(), None);
        let mut elsewhere = datagram(&vxlan);
        elsewhere.destination.set_port(4790);
        assert_eq!(elsewhere.vxlan(), None);
    }
}
