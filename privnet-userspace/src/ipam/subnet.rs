//! Which subnets a network may have, and which one it gets when it does not say.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain};

/// What networks that do not ask for a subnet get theirs from.
pub const POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 240, 0, 0), 12);
/// The prefix length of a subnet from [`POOL`]: 1021 members.
pub const POOL_SUBNET_PREFIX_LENGTH: u8 = 22;
/// The shortest prefix length of a subnet: no private range is larger (RFC 1918 section 3).
pub const MIN_PREFIX_LENGTH: u8 = 8;
/// The longest prefix length of a subnet: 5 members.
pub const MAX_PREFIX_LENGTH: u8 = 29;

/// What is private: RFC 1918 section 3, and RFC 6598 section 7.
const PRIVATE: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
];

/// A subnet that a network cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubnet {
    /// It is not an IPv4 prefix.
    #[error("subnet {text:?} is not an IPv4 prefix")]
    Syntax {
        /// The offending text, shortened to 64 characters.
        text: String,
    },
    /// It has bits set after its prefix.
    #[error("subnet {subnet} has host bits set")]
    HostBits {
        /// The offending subnet.
        subnet: Ipv4Net,
    },
    /// It is not inside one private range.
    #[error("subnet {subnet} is not private")]
    NotPrivate {
        /// The offending subnet.
        subnet: Ipv4Net,
    },
    /// It is too large.
    #[error("subnet {subnet} is too large")]
    TooLarge {
        /// The offending subnet.
        subnet: Ipv4Net,
    },
    /// It has room for too few members.
    #[error("subnet {subnet} is too small")]
    TooSmall {
        /// The offending subnet.
        subnet: Ipv4Net,
    },
}

impl Explain for InvalidSubnet {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidSubnet
    }

    fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Syntax { .. } => "write it like 10.240.0.0/22".to_owned(),
            Self::HostBits { subnet } => format!("write {}", subnet.trunc()),
            Self::NotPrivate { .. } => {
                "choose one inside 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10".to_owned()
            }
            Self::TooLarge { .. } | Self::TooSmall { .. } => {
                format!("choose a prefix length of {MIN_PREFIX_LENGTH} to {MAX_PREFIX_LENGTH}")
            }
        })
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let subnet = |text: &str| text.parse::<Ipv4Net>().expect("a subnet");
        rows![
            Self::Syntax { .. } => Self::Syntax { text: "10".to_owned() }, InvalidSubnet,
                "subnet \"10\" is not an IPv4 prefix", "write it like 10.240.0.0/22";
            Self::HostBits { .. } => Self::HostBits { subnet: subnet("10.0.0.1/24") }, InvalidSubnet,
                "subnet 10.0.0.1/24 has host bits set", "write 10.0.0.0/24";
            Self::NotPrivate { .. } => Self::NotPrivate { subnet: subnet("8.8.8.0/24") }, InvalidSubnet,
                "subnet 8.8.8.0/24 is not private",
                "choose one inside 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10";
            Self::TooLarge { .. } => Self::TooLarge { subnet: subnet("10.0.0.0/7") }, InvalidSubnet,
                "subnet 10.0.0.0/7 is too large", "choose a prefix length of 8 to 29";
            Self::TooSmall { .. } => Self::TooSmall { subnet: subnet("10.0.0.0/30") }, InvalidSubnet,
                "subnet 10.0.0.0/30 is too small", "choose a prefix length of 8 to 29";
        ]
    }
}

/// Reads a subnet and checks that a network may have it.
///
/// # Errors
/// [`InvalidSubnet`] with the value, the limit and the remedy.
pub fn parse_subnet(text: &str) -> Result<Ipv4Net, InvalidSubnet> {
    let subnet = text.parse().map_err(|_| InvalidSubnet::Syntax { text: text.chars().take(64).collect() })?;
    check_subnet(subnet)?;
    Ok(subnet)
}

/// Checks that a network may have `subnet`.
///
/// # Errors
/// [`InvalidSubnet`] with the value, the limit and the remedy.
pub fn check_subnet(subnet: Ipv4Net) -> Result<(), InvalidSubnet> {
    if subnet.prefix_len() < MIN_PREFIX_LENGTH {
        return Err(InvalidSubnet::TooLarge { subnet });
    }
    if subnet.prefix_len() > MAX_PREFIX_LENGTH {
        return Err(InvalidSubnet::TooSmall { subnet });
    }
    if subnet.trunc() != subnet {
        return Err(InvalidSubnet::HostBits { subnet });
    }
    if !PRIVATE.iter().any(|range| range.contains(&subnet)) {
        return Err(InvalidSubnet::NotPrivate { subnet });
    }
    Ok(())
}

/// Whether an address can be in both.
#[must_use]
pub fn overlaps(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// Picks the subnet of a new network: the lowest one of [`POOL`] that overlaps none of the `used`.
///
/// Once there is none, subnets repeat: the lowest one of those that overlap the fewest.
#[must_use]
pub fn next_subnet(used: impl IntoIterator<Item = Ipv4Net>) -> Ipv4Net {
    let pool = u32::from(POOL.network());
    let size = 1u32 << (32 - POOL_SUBNET_PREFIX_LENGTH);
    let count = 1u32 << (POOL_SUBNET_PREFIX_LENGTH - POOL.prefix_len());
    let mut uses = vec![0u32; count as usize];
    for subnet in used.into_iter().filter(|subnet| overlaps(*subnet, POOL)) {
        let first = u32::from(subnet.network()).max(pool) - pool;
        let last = u32::from(subnet.broadcast()).min(u32::from(POOL.broadcast())) - pool;
        for slot in &mut uses[(first / size) as usize..=(last / size) as usize] {
            *slot += 1;
        }
    }
    let (best, _) = (0..count).zip(uses).min_by_key(|(index, uses)| (*uses, *index)).unwrap_or_default();
    Ipv4Net::new_assert(Ipv4Addr::from(pool + best * size), POOL_SUBNET_PREFIX_LENGTH)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    #[test]
    fn a_private_canonical_subnet_is_accepted() {
        for good in [
            "10.0.0.0/8",
            "10.240.0.0/22",
            "172.16.0.0/12",
            "172.31.255.248/29",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "100.127.255.248/29",
        ] {
            assert_eq!(parse_subnet(good), Ok(net(good)));
        }
    }

    #[test]
    fn a_subnet_is_refused_for_what_is_wrong_with_it() {
        let subnet = net;
        for (text, expected) in [
            ("10.240.0.0", InvalidSubnet::Syntax { text: "10.240.0.0".to_owned() }),
            ("fd00::/64", InvalidSubnet::Syntax { text: "fd00::/64".to_owned() }),
            ("10.240.0.1/22", InvalidSubnet::HostBits { subnet: subnet("10.240.0.1/22") }),
            ("8.8.8.0/24", InvalidSubnet::NotPrivate { subnet: subnet("8.8.8.0/24") }),
            ("172.32.0.0/16", InvalidSubnet::NotPrivate { subnet: subnet("172.32.0.0/16") }),
            ("172.0.0.0/8", InvalidSubnet::NotPrivate { subnet: subnet("172.0.0.0/8") }),
            ("100.128.0.0/24", InvalidSubnet::NotPrivate { subnet: subnet("100.128.0.0/24") }),
            ("169.254.0.0/24", InvalidSubnet::NotPrivate { subnet: subnet("169.254.0.0/24") }),
            ("10.0.0.0/7", InvalidSubnet::TooLarge { subnet: subnet("10.0.0.0/7") }),
            ("10.0.0.0/30", InvalidSubnet::TooSmall { subnet: subnet("10.0.0.0/30") }),
            ("10.0.0.1/32", InvalidSubnet::TooSmall { subnet: subnet("10.0.0.1/32") }),
        ] {
            assert_eq!(parse_subnet(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn networks_get_subnets_from_the_bottom_and_holes_are_filled() {
        assert_eq!(next_subnet([]), net("10.240.0.0/22"));
        assert_eq!(next_subnet([net("10.240.0.0/22")]), net("10.240.4.0/22"));
        assert_eq!(next_subnet([net("10.240.4.0/22")]), net("10.240.0.0/22"));
        // One address of it is enough to spoil a subnet, and ranges elsewhere spoil nothing.
        assert_eq!(next_subnet([net("10.240.3.248/29"), net("192.168.0.0/16")]), net("10.240.4.0/22"));
        assert_eq!(next_subnet([net("10.240.0.0/13")]), net("10.248.0.0/22"));
    }

    #[test]
    fn subnets_repeat_evenly_once_the_pool_is_used_up() {
        let mut used = Vec::new();
        for round in 0..3 {
            for index in 0..1024u32 {
                let subnet = next_subnet(used.iter().copied());
                let expected = Ipv4Addr::from(u32::from(POOL.network()) + index * 1024);
                assert_eq!(subnet, Ipv4Net::new_assert(expected, 22), "round {round}");
                used.push(subnet);
            }
        }
        assert_eq!(next_subnet([net("10.0.0.0/8")]), net("10.240.0.0/22"));
    }

    fn any_subnet() -> impl Strategy<Value = Ipv4Net> {
        (0u32..1 << 24, 8u8..=29)
            .prop_map(|(host, length)| Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 | host), length).trunc())
    }

    proptest! {
        #[test]
        fn a_new_subnet_is_valid_and_overlaps_nothing_unless_it_must(
            used in prop::collection::vec(any_subnet().prop_filter("not all of the pool", |net| net.prefix_len() > 13), 0..40)
        ) {
            let subnet = next_subnet(used.iter().copied());
            prop_assert_eq!(check_subnet(subnet), Ok(()));
            prop_assert!(POOL.contains(&subnet));
            let spoiled = (0..1024u32)
                .map(|index| Ipv4Net::new_assert(Ipv4Addr::from(u32::from(POOL.network()) + index * 1024), 22))
                .filter(|candidate| used.iter().any(|net| overlaps(*net, *candidate)))
                .count();
            prop_assert_eq!(used.iter().any(|net| overlaps(*net, subnet)), spoiled == 1024);
        }

        #[test]
        fn overlap_means_that_the_ranges_meet(one in any_subnet(), other in any_subnet()) {
            let meet = one.network() <= other.broadcast() && other.network() <= one.broadcast();
            prop_assert_eq!(overlaps(one, other), meet);
            prop_assert_eq!(overlaps(other, one), meet);
        }
    }
}
