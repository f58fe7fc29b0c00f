//! Headers as values: they are copied out of the frame, and no reference into a packet exists.

mod addresses;

pub use self::addresses::{Addresses, Protocol};
use crate::net::MacAddr;
use crate::verdict::DropReason;

/// Bytes of Ethernet, IPv4 and UDP headers without options. ARP for IPv4 over Ethernet needs exactly as many.
pub const HEADERS_BYTES: usize = 42;

const ETHERNET_BYTES: u32 = 14;
const IPV4_BYTES: u32 = 20;

/// IPv4 (IEEE 802 numbers).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

const IP_PROTOCOL_UDP: u8 = 17;
const IP_PROTOCOL_ICMPV6: u8 = 58;
const ICMPV6_ROUTER_ADVERTISEMENT: u8 = 134;
const ARP_ETHERNET: u16 = 1;
const ARP_LENGTHS: u16 = 0x0604;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;

/// A source of bytes: a packet of the kernel, or a slice in a test.
pub trait Frame {
    /// The frame's length in bytes, from the first of the Ethernet header.
    fn frame_bytes(&self) -> u32;

    /// Copies `N` bytes from `offset`; `None` unless the frame has all of them.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

impl Frame for &[u8] {
    fn frame_bytes(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX)
    }

    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = offset as usize;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }
}

/// Whether an EtherType announces an 802.1Q or 802.1ad tag.
#[must_use]
#[inline(always)]
pub const fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

/// The headers of a frame that is long enough to have them, and their kind.
///
/// **A workaround for the verifier, 29 November 2026.** The packet keeps the headers as bytes, and [`Kind`] lends views
/// of them. A packet that owned the fields of its kind would leave them undefined for the other kinds. The compiler
/// (rustc 1.95, LLVM 22) then copies an arbitrary register, and Linux 6.1, 6.12 and 6.18 refuse `from_member`: "R1
/// pointer arithmetic with >>= operator prohibited", because that register holds a packet pointer. A register that was
/// never written gives "R1 !read_ok". All kernels have both rules (`adjust_ptr_min_max_vals` and `__check_reg_arg` in
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/verifier.c>). The workaround may go when the compiler
/// copies no undefined value on BPF: own the fields, and see whether `datapath_verifier` loads the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    headers: [u8; HEADERS_BYTES],
    checked: Checked,
}

/// What the check of the headers found; [`Packet::kind`] adds the view that it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    Udp,
    Arp,
    Refused(DropReason),
}

/// The kind of a packet, with the fields that a packet of that kind has. UDP fields are read from [`Udp`] only, and ARP
/// fields from [`Arp`] only, and no other code makes one: a packet of another kind has neither.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// A UDP datagram in IPv4.
    Udp(Udp<'a>),
    /// ARP for IPv4 over Ethernet.
    Arp(Arp<'a>),
    /// A packet that the carrier does not carry for any sender.
    Refused(DropReason),
}

impl Packet {
    /// Reads and checks the headers of `frame`. `tagged`: the kernel took a VLAN tag off it.
    ///
    /// # Errors
    /// The reason to drop the frame when it is shorter than every packet that the carrier carries.
    #[inline(always)]
    pub fn read(frame: &impl Frame, tagged: bool) -> Result<Self, DropReason> {
        match frame.read::<HEADERS_BYTES>(0) {
            Some(headers) => Ok(Self { headers, checked: Checked::read(&headers, frame, tagged) }),
            None => Err(short_reason(frame, tagged)),
        }
    }

    /// Its kind, with the fields of that kind.
    #[must_use]
    #[inline(always)]
    pub const fn kind(&self) -> Kind<'_> {
        match self.checked {
            Checked::Udp => Kind::Udp(Udp(&self.headers)),
            Checked::Arp => Kind::Arp(Arp(&self.headers)),
            Checked::Refused(reason) => Kind::Refused(reason),
        }
    }

    /// The Ethernet destination.
    #[must_use]
    #[inline(always)]
    pub fn destination_mac(&self) -> MacAddr {
        mac_at(&self.headers, 0)
    }

    /// The Ethernet source.
    #[must_use]
    #[inline(always)]
    pub fn source_mac(&self) -> MacAddr {
        mac_at(&self.headers, 6)
    }
}

impl Checked {
    #[inline(always)]
    fn read(headers: &[u8; HEADERS_BYTES], frame: &impl Frame, tagged: bool) -> Self {
        if tagged {
            return Self::Refused(DropReason::VlanTag);
        }
        match u16_at(headers, 12) {
            ETHERTYPE_IPV4 => match Udp(headers).refusal(frame.frame_bytes()) {
                Some(reason) => Self::Refused(reason),
                None => Self::Udp,
            },
            ETHERTYPE_ARP if Arp(headers).is_of_ipv4_over_ethernet() => Self::Arp,
            ETHERTYPE_ARP => Self::Refused(DropReason::ArpMalformed),
            ETHERTYPE_IPV6 => Self::Refused(ipv6_reason(headers, frame)),
            other if is_vlan(other) => Self::Refused(DropReason::VlanTag),
            _ => Self::Refused(DropReason::UnknownEtherType),
        }
    }
}

/// The IPv4 and UDP headers of a frame, without options.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a>(&'a [u8; HEADERS_BYTES]);

impl Udp<'_> {
    /// The IPv4 source, as on the wire.
    #[must_use]
    #[inline(always)]
    pub fn source(&self) -> [u8; 4] {
        bytes_at(self.0, 26)
    }

    /// The IPv4 destination, as on the wire.
    #[must_use]
    #[inline(always)]
    pub fn destination(&self) -> [u8; 4] {
        bytes_at(self.0, 30)
    }

    /// The UDP source port.
    #[must_use]
    #[inline(always)]
    pub fn source_port(&self) -> u16 {
        u16_at(self.0, 34)
    }

    /// The UDP destination port.
    #[must_use]
    #[inline(always)]
    pub fn destination_port(&self) -> u16 {
        u16_at(self.0, 36)
    }

    /// Why a frame of `frame_bytes` whose EtherType is IPv4 is no UDP datagram that the carrier carries.
    #[inline(always)]
    fn refusal(&self, frame_bytes: u32) -> Option<DropReason> {
        let version_and_length = self.0[14];
        let is_udp = self.0[23] == IP_PROTOCOL_UDP;
        let total_bytes = u32::from(u16_at(self.0, 16));
        if version_and_length != 0x45 {
            let options = version_and_length >> 4 == 4 && version_and_length & 0xf > 5;
            return Some(if options { DropReason::IpOptions } else { DropReason::Malformed });
        }
        if total_bytes + ETHERNET_BYTES != frame_bytes {
            return Some(DropReason::Malformed);
        }
        // "More fragments", or an offset. "Don't fragment" is allowed.
        if u16_at(self.0, 20) & 0x3fff != 0 {
            return Some(DropReason::Fragment);
        }
        if is_udp && (is_dhcp(self.source_port()) || is_dhcp(self.destination_port())) {
            return Some(DropReason::Dhcp);
        }
        // The group bit of the Ethernet destination; IPv4 classes D and E, which end with 255.255.255.255.
        if self.0[0] & 1 == 1 || self.0[30] >= 224 {
            return Some(DropReason::MulticastOrBroadcast);
        }
        if !is_udp {
            return Some(DropReason::NotUdp);
        }
        (u32::from(u16_at(self.0, 38)) + IPV4_BYTES != total_bytes).then_some(DropReason::Malformed)
    }
}

/// The ARP fields (RFC 826) of a frame, of IPv4 over Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct Arp<'a>(&'a [u8; HEADERS_BYTES]);

impl Arp<'_> {
    /// Whether the operation is "request".
    #[must_use]
    #[inline(always)]
    pub fn is_request(&self) -> bool {
        u16_at(self.0, 20) == ARP_REQUEST
    }

    /// The sender's hardware address.
    #[must_use]
    #[inline(always)]
    pub fn sender_mac(&self) -> MacAddr {
        mac_at(self.0, 22)
    }

    /// The sender's protocol address, as on the wire.
    #[must_use]
    #[inline(always)]
    pub fn sender(&self) -> [u8; 4] {
        bytes_at(self.0, 28)
    }

    /// The target's protocol address, as on the wire.
    #[must_use]
    #[inline(always)]
    pub fn target(&self) -> [u8; 4] {
        bytes_at(self.0, 38)
    }

    /// The frame that answers this request with `mac` as the target's hardware address. Ethernet and ARP, without
    /// padding.
    #[must_use]
    #[inline(always)]
    pub fn reply(&self, mac: MacAddr) -> [u8; HEADERS_BYTES] {
        let mut frame = [0; HEADERS_BYTES];
        frame[0..6].copy_from_slice(&self.sender_mac().bytes());
        frame[6..12].copy_from_slice(&mac.bytes());
        frame[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
        frame[14..16].copy_from_slice(&ARP_ETHERNET.to_be_bytes());
        frame[16..18].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        frame[18..20].copy_from_slice(&ARP_LENGTHS.to_be_bytes());
        frame[20..22].copy_from_slice(&ARP_REPLY.to_be_bytes());
        frame[22..28].copy_from_slice(&mac.bytes());
        frame[28..32].copy_from_slice(&self.target());
        frame[32..38].copy_from_slice(&self.sender_mac().bytes());
        frame[38..42].copy_from_slice(&self.sender());
        frame
    }

    #[inline(always)]
    fn is_of_ipv4_over_ethernet(&self) -> bool {
        u16_at(self.0, 14) == ARP_ETHERNET && u16_at(self.0, 16) == ETHERTYPE_IPV4 && u16_at(self.0, 18) == ARP_LENGTHS
    }
}

/// Why a frame without full headers is dropped: its EtherType when that is refused at any length, else its length.
#[inline(always)]
fn short_reason(frame: &impl Frame, tagged: bool) -> DropReason {
    // 0 is no EtherType of a frame. A value for every case, for the reason given at [`Packet`].
    let ethertype = u16::from_be_bytes(frame.read::<2>(12).unwrap_or([0; 2]));
    match ethertype {
        _ if tagged => DropReason::VlanTag,
        0 | ETHERTYPE_IPV4 | ETHERTYPE_ARP => DropReason::Truncated,
        ETHERTYPE_IPV6 => DropReason::Ipv6,
        other if is_vlan(other) => DropReason::VlanTag,
        _ => DropReason::UnknownEtherType,
    }
}

#[inline(always)]
const fn is_dhcp(port: u16) -> bool {
    matches!(port, 67 | 68)
}

#[inline(always)]
fn ipv6_reason(headers: &[u8; HEADERS_BYTES], frame: &impl Frame) -> DropReason {
    // 0 is no router advertisement. A value for every case, for the reason given at [`Packet`].
    let [icmp_type] = frame.read::<1>(54).unwrap_or([0]);
    if headers[20] == IP_PROTOCOL_ICMPV6 && icmp_type == ICMPV6_ROUTER_ADVERTISEMENT {
        DropReason::RouterAdvertisement
    } else {
        DropReason::Ipv6
    }
}

#[inline(always)]
fn u16_at<const N: usize>(bytes: &[u8; N], offset: usize) -> u16 {
    u16::from_be_bytes(bytes_at(bytes, offset))
}

#[inline(always)]
fn mac_at<const N: usize>(bytes: &[u8; N], offset: usize) -> MacAddr {
    MacAddr::new(bytes_at(bytes, offset))
}

/// Copies `M` bytes from `offset`. Offsets are constants of this module and within `N`, so the compiler removes the
/// check.
#[inline(always)]
fn bytes_at<const N: usize, const M: usize>(bytes: &[u8; N], offset: usize) -> [u8; M] {
    let mut out = [0; M];
    out.copy_from_slice(&bytes[offset..offset + M]);
    out
}

#[cfg(test)]
mod tests;
