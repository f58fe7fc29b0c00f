//! What the first bytes of a dropped frame say: Ethernet II, then IPv4 with the ports of UDP and TCP, or ARP. A tunnel's interface
//! in a container has no Ethernet: what the guard drops there begins with IPv4.

use std::net::Ipv4Addr;

use privnet_ebpf::net::MacAddr;

/// What a frame says of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Described {
    /// Whether it has an Ethernet header.
    pub is_ethernet: bool,
    /// What it carries: `udp`, `arp`, or a number where it has no name here.
    pub protocol: String,
    /// The sender, as far down as the bytes say: address and port, address, MAC; nothing of a frame that is too short.
    pub from: String,
    /// The receiver, likewise.
    pub to: String,
}

/// Describes a frame by its first bytes; all zero when it is shorter.
pub fn describe(headers: &[u8]) -> Described {
    let (is_ethernet, short) = (true, String::new());
    let Some((ethernet, rest)) = headers.split_first_chunk::<14>().filter(|_| headers.iter().any(|byte| *byte != 0))
    else {
        return Described { is_ethernet, protocol: "short".to_owned(), from: short.clone(), to: short };
    };
    let [to, from] =
        [0, 6].map(|at| ethernet[at..].first_chunk().map_or_else(String::new, |mac| MacAddr::new(*mac).to_string()));
    let by_mac = |protocol: &str| Described { is_ethernet, protocol: protocol.to_owned(), from, to };
    match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        0x0800 => ipv4(rest).unwrap_or_else(|| by_mac("ipv4")),
        0x0806 => arp(rest).unwrap_or_else(|| by_mac("arp")),
        0x86dd => by_mac("ipv6"),
        0x8100 | 0x88a8 => by_mac("vlan"),
        other => match ipv4(headers) {
            Some(packet) => Described { is_ethernet: false, ..packet },
            None => by_mac(&format!("ethertype {other:#06x}")),
        },
    }
}

/// RFC 791 section 3.1; the ports of RFC 768 and RFC 9293 section 3.1 stand first in what it carries.
fn ipv4(packet: &[u8]) -> Option<Described> {
    let header = packet.first_chunk::<20>()?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < 20 {
        return None;
    }
    let is_later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    let ports = packet.get(length..).and_then(<[u8]>::first_chunk::<4>).filter(|_| !is_later_fragment);
    let (protocol, ports) = match header[9] {
        1 => ("icmp".to_owned(), None),
        6 => ("tcp".to_owned(), ports),
        17 => ("udp".to_owned(), ports),
        other => (format!("protocol {other}"), None),
    };
    let end = |at: usize, port: usize| {
        let address = address(&header[at..])?;
        let port = ports.map(|ports| u16::from_be_bytes([ports[port], ports[port + 1]]));
        Some(port.map_or_else(|| address.to_string(), |port| format!("{address}:{port}")))
    };
    Some(Described { is_ethernet: true, protocol, from: end(12, 0)?, to: end(16, 2)? })
}

/// RFC 826 with the addresses of Ethernet and IPv4: the sender's, and the one that is asked for.
fn arp(packet: &[u8]) -> Option<Described> {
    let is_ipv4_over_ethernet = packet.starts_with(&[0, 1, 8, 0, 6, 4]);
    let (from, to) = (address(packet.get(14..)?)?, address(packet.get(24..)?)?);
    is_ipv4_over_ethernet.then(|| Described {
        is_ethernet: true,
        protocol: "arp".to_owned(),
        from: from.to_string(),
        to: to.to_string(),
    })
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETHERNET: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

    fn described(ether_type: u16, rest: &[u8]) -> [String; 3] {
        let mut frame = [&ETHERNET[..], &ether_type.to_be_bytes(), rest].concat();
        frame.resize(42, 0);
        let Described { is_ethernet, protocol, from, to } = describe(&frame);
        assert!(is_ethernet);
        [protocol, from, to]
    }

    /// An IPv4 header without options, and what follows it.
    fn packet(first: u8, fragment: u16, protocol: u8, rest: &[u8]) -> Vec<u8> {
        let fragment = fragment.to_be_bytes();
        let head = [first, 0, 0, 28, 0, 0, fragment[0], fragment[1], 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 3];
        [&head[..], rest].concat()
    }

    #[test]
    fn a_frame_is_described_as_far_as_its_headers_go() {
        let ports = [0xca, 0x6c, 0, 53];
        for (ether_type, rest, expected) in [
            (0x0800, packet(0x45, 0, 17, &ports), ["udp", "10.0.0.2:51820", "10.0.0.3:53"]),
            (0x0800, packet(0x45, 0, 6, &ports), ["tcp", "10.0.0.2:51820", "10.0.0.3:53"]),
            (0x0800, packet(0x45, 0, 1, &ports), ["icmp", "10.0.0.2", "10.0.0.3"]),
            (0x0800, packet(0x45, 0, 47, &ports), ["protocol 47", "10.0.0.2", "10.0.0.3"]),
            // A later fragment has no ports, and options move them.
            (0x0800, packet(0x45, 5, 17, &ports), ["udp", "10.0.0.2", "10.0.0.3"]),
            (0x0800, packet(0x46, 0, 17, &[&[1; 4][..], &ports].concat()), ["udp", "10.0.0.2:51820", "10.0.0.3:53"]),
            (0x0800, packet(0x65, 0, 17, &ports), ["ipv4", "02:00:00:00:00:02", "02:00:00:00:00:01"]),
            (0x86dd, vec![0x60], ["ipv6", "02:00:00:00:00:02", "02:00:00:00:00:01"]),
            (0x8100, vec![], ["vlan", "02:00:00:00:00:02", "02:00:00:00:00:01"]),
            (0x88cc, vec![], ["ethertype 0x88cc", "02:00:00:00:00:02", "02:00:00:00:00:01"]),
        ] {
            assert_eq!(described(ether_type, &rest), expected, "{ether_type:#x} {rest:?}");
        }
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &[2; 6], &[10, 0, 0, 2], &[0; 6], &[10, 0, 0, 3]].concat();
        assert_eq!(described(0x0806, &arp), ["arp", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(described(0x0806, &[0, 6]), ["arp", "02:00:00:00:00:02", "02:00:00:00:00:01"]);
    }

    #[test]
    fn a_packet_of_an_interface_without_ethernet_is_described_by_its_addresses() {
        let mut frame = packet(0x45, 0, 6, &[0, 80, 0xca, 0x6c]);
        frame.resize(42, 0);
        let Described { is_ethernet, protocol, from, to } = describe(&frame);
        assert!(!is_ethernet);
        assert_eq!([protocol, from, to], ["tcp", "10.0.0.2:80", "10.0.0.3:51820"]);
    }

    #[test]
    fn any_bytes_are_described() {
        proptest::proptest!(|(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64))| { describe(&bytes); });
        assert_eq!(describe(&[0; 42]).protocol, "short");
    }
}
