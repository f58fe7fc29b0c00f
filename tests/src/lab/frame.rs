//! Frames, byte for byte, to send what no honest stack would.

use std::net::Ipv4Addr;

/// IPv4's EtherType.
pub const IPV4: u16 = 0x0800;
/// ARP's EtherType.
pub const ARP: u16 = 0x0806;
/// IPv6's EtherType.
pub const IPV6: u16 = 0x86dd;
/// Everybody's MAC.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// A UDP datagram in IPv4 in Ethernet; every field can be forged.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// The Ethernet source.
    pub source_mac: [u8; 6],
    /// The Ethernet destination.
    pub destination_mac: [u8; 6],
    /// The IPv4 source.
    pub source: Ipv4Addr,
    /// The IPv4 destination.
    pub destination: Ipv4Addr,
    /// The UDP source port.
    pub source_port: u16,
    /// The UDP destination port.
    pub destination_port: u16,
    /// The flags and fragment offset of IPv4.
    pub fragment: u16,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let udp = udp(self.source_port, self.destination_port, &self.payload);
        let packet = ipv4(self.source, self.destination, 17, self.fragment, &udp);
        ethernet(self.destination_mac, self.source_mac, IPV4, &packet)
    }
}

/// An Ethernet frame.
#[must_use]
pub fn ethernet(destination: [u8; 6], source: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The same frame with an 802.1Q tag.
///
/// # Panics
/// When the frame has no Ethernet header.
#[must_use]
pub fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let mut tagged = addresses.to_vec();
    tagged.extend(0x8100_u16.to_be_bytes());
    tagged.extend(vlan.to_be_bytes());
    tagged.extend(rest);
    tagged
}

/// An IPv4 packet without options; `fragment` is the field of flags and offset.
///
/// # Panics
/// When it is too long.
#[must_use]
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a packet fits 65535 bytes");
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0x12, 0x34]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(&header);
    header.splice(10..12, sum.to_be_bytes());
    header.extend(payload);
    header
}

/// A UDP datagram without a checksum, which IPv4 allows (RFC 768).
///
/// # Panics
/// When it is too long.
#[must_use]
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a datagram fits 65535 bytes");
    let mut datagram = [source.to_be_bytes(), destination.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    datagram.extend(payload);
    datagram
}

/// A TCP segment with SYN, without a checksum that anybody could accept.
#[must_use]
pub fn tcp_syn(source: u16, destination: u16) -> Vec<u8> {
    let mut segment = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}

/// An ICMP echo request.
#[must_use]
pub fn icmp_echo(payload: &[u8]) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0x77, 0x77, 0, 1];
    message.extend(payload);
    let sum = checksum(&message);
    message.splice(2..4, sum.to_be_bytes());
    message
}

/// An ARP message for IPv4 over Ethernet: operation 1 asks, 2 answers.
#[must_use]
pub fn arp(operation: u16, sender: ([u8; 6], Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4];
    message.extend(operation.to_be_bytes());
    message.extend(sender.0);
    message.extend(sender.1.octets());
    message.extend([0; 6]);
    message.extend(target.octets());
    message
}

/// An IPv6 packet from one link-local address to another; `next` is its next header.
///
/// # Panics
/// When it is too long.
#[must_use]
pub fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a payload fits 65535 bytes");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next, 255]);
    for last in [1_u8, 2] {
        packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    packet.extend(payload);
    packet
}

/// A frame in a VXLAN header (RFC 7348 section 5), the payload of a UDP datagram to port 4789.
#[must_use]
pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x08, 0, 0, 0];
    datagram.extend((vni << 8).to_be_bytes());
    datagram.extend(frame);
    datagram
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_to_nothing() {
        let packet = ipv4(Ipv4Addr::new(10, 240, 0, 2), Ipv4Addr::new(10, 240, 0, 3), 17, 0, &udp(1, 2, b"x"));
        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(checksum(&icmp_echo(b"odd")), 0);
    }

    #[test]
    fn a_vxlan_header_holds_its_vni_in_the_middle_of_its_second_word() {
        assert_eq!(vxlan(0x0001_02ff, b"x"), [8, 0, 0, 0, 1, 2, 0xff, 0, b'x']);
    }
}
