//! Decisions about a frame, and the outcomes that are counted. Every drop has a reason. A reason has a number and a
//! name and keeps them for ever: the number is in the key of the counters map, the name is a metric's label.
//!
//! The metrics, the views and the command line use these types and names; no other list of them exists.

use crate::net::MacAddr;

/// The direction of a frame, seen from the member that it is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From the member.
    Out = 0,
    /// To the member.
    In = 1,
}

impl Direction {
    /// Both directions, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Out, Self::In];

    /// The number in the keys of maps.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The direction with that number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Out),
            1 => Some(Self::In),
            _ => None,
        }
    }

    /// The name in metrics: `out` or `in`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

/// The decision about a frame: redirect or answer it, pass it with a reason, or drop it with a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Deliver it in the binding netns of a member of this host, behind the veth `ifindex` of the network netns.
    DeliverLocal {
        /// The veth's index in the network netns.
        ifindex: u32,
        /// The destination MAC to write, when the frame carries one of another generation.
        rewrite: Option<MacAddr>,
    },
    /// Send it to another host, through the VTEP.
    SendRemote {
        /// The VTEP's index in the network netns.
        ifindex: u32,
        /// The destination MAC to write, when the frame carries one of another generation.
        rewrite: Option<MacAddr>,
    },
    /// Turn the ARP request into its reply, and send it out of the interface that it came in by.
    AnswerArp {
        /// The MAC of the requested address.
        mac: MacAddr,
    },
    /// Leave it to the next filter or the network stack.
    Pass(PassReason),
    /// Drop it.
    Drop(DropReason),
}

/// Why the guard passes a packet. The other programs pass nothing. Passed packets are not counted: they are traffic of
/// the container outside its private networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassReason {
    /// Neither IPv4 nor ARP.
    OtherProtocol,
    /// Neither address is in the network's prefix.
    OutsidePrefix,
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])+ $number:literal $variant:ident $name:literal,)+) => {
        /// Why a frame is dropped. Numbers and names are permanent; the number of a retired reason is not used again.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])+ $variant = $number,)+
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in metrics, snake case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// The reason with that number.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

drop_reasons! {
    /// The config map is empty or of another ABI version.
    16 AbiMismatch "abi_mismatch",
    /// Shorter than the headers that it claims.
    17 Truncated "truncated",
    /// IPv4 version, header length, total length or UDP length contradict each other or the frame.
    18 Malformed "malformed",
    /// An 802.1Q or 802.1ad tag, in the frame or taken off it by the kernel.
    19 VlanTag "vlan_tag",
    /// IPv6 other than a router advertisement.
    20 Ipv6 "ipv6",
    /// An ICMPv6 router advertisement (RFC 4861 section 4.2).
    21 RouterAdvertisement "router_advertisement",
    /// An EtherType that the carrier does not carry.
    22 UnknownEtherType "unknown_ethertype",
    /// IPv4 to a multicast or broadcast address, or in a multicast or broadcast frame.
    23 MulticastOrBroadcast "multicast_or_broadcast",
    /// IPv4 options.
    24 IpOptions "ip_options",
    /// A fragment of an IPv4 packet.
    25 Fragment "fragment",
    /// IPv4, but not UDP.
    26 NotUdp "not_udp",
    /// DHCP: UDP to or from port 67 or 68.
    27 Dhcp "dhcp",
    /// From an interface that is not the veth end of a member of this host.
    28 UnknownPort "unknown_port",
    /// The source MAC is not the sender's own.
    29 SpoofedMac "spoofed_mac",
    /// The source address is not the sender's own.
    30 SpoofedAddress "spoofed_address",
    /// Not from the sender's WireGuard port.
    31 WrongSourcePort "wrong_source_port",
    /// Not to the destination's WireGuard port.
    32 WrongDestinationPort "wrong_destination_port",
    /// To an address without a member in this network.
    33 UnknownDestination "unknown_destination",
    /// To a MAC that is neither the destination's own nor one of its earlier generations.
    34 WrongDestinationMac "wrong_destination_mac",
    /// To the sender itself.
    35 ToItself "to_itself",
    /// To a member of another host while the network has no VTEP.
    36 NoVtep "no_vtep",
    /// ARP for other than Ethernet and IPv4.
    37 ArpMalformed "arp_malformed",
    /// ARP, but not a request.
    38 ArpNotRequest "arp_not_request",
    /// An ARP request whose sender fields are not the sender's own.
    39 ArpSpoofed "arp_spoofed",
    /// An ARP request for an address without a member in this network.
    40 ArpUnknownTarget "arp_unknown_target",
    /// ARP from another host: each host answers the ARP requests of its own members.
    41 ArpFromVtep "arp_from_vtep",
    /// From the VTEP, with a source address without a member in this network.
    42 UnknownSource "unknown_source",
    /// From the VTEP, with the source address of a member of this host.
    43 SourceIsLocal "source_is_local",
    /// From the VTEP, to a member of another host.
    44 DestinationNotLocal "destination_not_local",
    /// On a foreign interface of the app netns, with a source address in the network's prefix.
    45 GuardSource "guard_source",
    /// On a foreign interface of the app netns, with a destination address in the network's prefix.
    46 GuardDestination "guard_destination",
    /// On a foreign interface of the app netns, ARP from or for an address in the network's prefix.
    47 GuardArp "guard_arp",
    /// The kernel refused to write the frame's headers.
    48 NotWritable "not_writable",
}

impl DropReason {
    /// The number in the keys of maps.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// The outcome that a frame is counted under. Numbers below 16 are frames that went on, the others are those of
/// [`DropReason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Delivered to a member of this host.
    ForwardedLocal,
    /// Sent to another host.
    ForwardedRemote,
    /// An ARP request that was answered in place.
    ArpAnswered,
    /// Dropped.
    Dropped(DropReason),
}

impl Outcome {
    /// The outcomes of frames that went on, in the order of their numbers.
    pub const FORWARDED: [Self; 3] = [Self::ForwardedLocal, Self::ForwardedRemote, Self::ArpAnswered];

    /// The number in the keys of maps.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u8 {
        match self {
            Self::ForwardedLocal => 0,
            Self::ForwardedRemote => 1,
            Self::ArpAnswered => 2,
            Self::Dropped(reason) => reason.number(),
        }
    }

    /// The outcome with that number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::ForwardedLocal),
            1 => Some(Self::ForwardedRemote),
            2 => Some(Self::ArpAnswered),
            _ => match DropReason::from_number(number) {
                Some(reason) => Some(Self::Dropped(reason)),
                None => None,
            },
        }
    }

    /// The name in metrics, snake case; a drop's is its reason's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ForwardedLocal => "forwarded_local",
            Self::ForwardedRemote => "forwarded_remote",
            Self::ArpAnswered => "arp_answered",
            Self::Dropped(reason) => reason.name(),
        }
    }

    /// Every outcome, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::FORWARDED.into_iter().chain(DropReason::ALL.iter().map(|reason| Self::Dropped(*reason)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn outcomes_have_numbers_and_names_of_their_own() {
        let numbers: BTreeSet<u8> = Outcome::all().map(Outcome::number).collect();
        let names: BTreeSet<&str> = Outcome::all().map(Outcome::name).collect();
        assert_eq!(numbers.len(), Outcome::all().count());
        assert_eq!(names.len(), Outcome::all().count());
        for name in names {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        }
    }

    #[test]
    fn a_number_names_its_outcome_and_no_other_number_names_any() {
        for number in 0..=u8::MAX {
            match Outcome::from_number(number) {
                Some(outcome) => assert_eq!(outcome.number(), number),
                None => assert!(Outcome::all().all(|outcome| outcome.number() != number)),
            }
            match Direction::from_number(number) {
                Some(direction) => assert_eq!(direction.number(), number),
                None => assert!(Direction::ALL.iter().all(|direction| direction.number() != number)),
            }
        }
    }

    /// Maps that an older build pinned hold the numbers, and stored metrics hold the names.
    #[test]
    fn numbers_and_names_are_the_ones_that_were_published() {
        let published: Vec<(u8, &str)> = Outcome::all().map(|outcome| (outcome.number(), outcome.name())).collect();
        assert_eq!(published[..3], [(0, "forwarded_local"), (1, "forwarded_remote"), (2, "arp_answered")]);
        assert_eq!(published[3], (16, "abi_mismatch"));
        assert_eq!(published[16], (29, "spoofed_mac"));
        assert_eq!(published[32], (45, "guard_source"));
        assert_eq!(published.last(), Some(&(48, "not_writable")));
        assert_eq!(published.len(), 36);
    }
}
