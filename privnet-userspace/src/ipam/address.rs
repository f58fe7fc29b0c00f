//! Which addresses of a subnet members may have, and which one the next member gets.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain};

/// The addresses of a subnet that no member gets: the network's, the first host's (kept for a resolver), the broadcast.
const RESERVED_ADDRESSES: u32 = 3;
/// How long a connection to an address fails at once after its member has left, in seconds, unless a new member has the
/// address
/// before: as long as the longest TTL that a network may have.
pub const DEPARTED_SECONDS: u64 = crate::model::naming::MAX_TTL_SECONDS as u64;
/// How long other hosts may take to hear of a change, in seconds.
const PROPAGATION_SECONDS: u64 = 1;

/// An address that no member of a network can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// It is not in the subnet.
    #[error("address {address} is outside the network's subnet {subnet}")]
    OutsideSubnet {
        /// The offending address.
        address: Ipv4Addr,
        /// The network's subnet.
        subnet: Ipv4Net,
    },
    /// It is in the subnet, and not for members.
    #[error("address {address} is reserved: it is {role} of {subnet}")]
    Reserved {
        /// The offending address.
        address: Ipv4Addr,
        /// The network's subnet.
        subnet: Ipv4Net,
        /// What it is instead, for example `the broadcast address`.
        role: &'static str,
    },
}

impl Explain for InvalidAddress {
    fn code(&self) -> ErrorCode {
        ErrorCode::AddressInvalid
    }

    fn remedy(&self) -> Option<String> {
        let (Self::OutsideSubnet { subnet, .. } | Self::Reserved { subnet, .. }) = self;
        Some(format!("choose {}", usable(*subnet)))
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let subnet = Ipv4Net::new_assert(Ipv4Addr::new(10, 240, 0, 0), 22);
        let address = Ipv4Addr::new(10, 240, 3, 255);
        rows![
            Self::OutsideSubnet { .. } => Self::OutsideSubnet { address: Ipv4Addr::new(10, 0, 0, 1), subnet }, AddressInvalid,
                "address 10.0.0.1 is outside the network's subnet 10.240.0.0/22", "choose 10.240.0.2 to 10.240.3.254";
            Self::Reserved { .. } => Self::Reserved { address, subnet, role: "the broadcast address" }, AddressInvalid,
                "address 10.240.3.255 is reserved: it is the broadcast address of 10.240.0.0/22",
                "choose 10.240.0.2 to 10.240.3.254";
        ]
    }
}

/// How many members a subnet has addresses for.
#[must_use]
pub const fn capacity(subnet: Ipv4Net) -> u32 {
    // At most 2^24, see `check_subnet`; a wider prefix saturates.
    let Some(addresses) = 1u32.checked_shl(32 - subnet.prefix_len() as u32) else {
        return u32::MAX - RESERVED_ADDRESSES;
    };
    addresses.saturating_sub(RESERVED_ADDRESSES)
}

/// Checks that a member of a network with this subnet may have `address`.
///
/// # Errors
/// [`InvalidAddress`] with the value and what to choose instead.
pub fn check_address(subnet: Ipv4Net, address: Ipv4Addr) -> Result<(), InvalidAddress> {
    if !subnet.contains(&address) {
        return Err(InvalidAddress::OutsideSubnet { address, subnet });
    }
    let reserved = |role| Err(InvalidAddress::Reserved { address, subnet, role });
    if address == subnet.network() {
        return reserved("the network address");
    }
    if address == subnet.broadcast() {
        return reserved("the broadcast address");
    }
    if address < first_usable(subnet) {
        return reserved("the first host address");
    }
    Ok(())
}

/// Picks the lowest address that is not among the `known`, that is, that no member ever had; nothing when there is none.
/// They are given in ascending order.
#[must_use]
pub fn never_used(subnet: Ipv4Net, known: impl IntoIterator<Item = Ipv4Addr>) -> Option<Ipv4Addr> {
    let mut candidate = first_usable(subnet);
    for address in known.into_iter().skip_while(|address| *address < first_usable(subnet)) {
        if address != candidate {
            break;
        }
        candidate = Ipv4Addr::from(u32::from(candidate).checked_add(1)?);
    }
    check_address(subnet, candidate).is_ok().then_some(candidate)
}

/// Picks the address that has been free for longest, of those free now and the unix seconds since when; nothing when
/// there is none.
///
/// The longer an address rests, the fewer caches and connections still know its last holder.
#[must_use]
pub fn longest_released(subnet: Ipv4Net, released: impl IntoIterator<Item = (Ipv4Addr, u64)>) -> Option<Ipv4Addr> {
    let usable = released.into_iter().filter(|(address, _)| check_address(subnet, *address).is_ok());
    usable.min_by_key(|(address, since)| (*since, *address)).map(|(address, _)| address)
}

/// How long an address rests at least when its member has left, in seconds: until no resolver can have it by its name
/// any more.
///
/// Mostly it rests for far longer, since the one that has rested longest is given out first.
#[must_use]
pub const fn rest_seconds(ttl_seconds: u32) -> u64 {
    ttl_seconds as u64 + PROPAGATION_SECONDS
}

/// Whether an address that was released then has rested for so many seconds now; times in seconds since 1970-01-01 UTC.
#[must_use]
pub const fn has_rested(released: u64, now: u64, seconds: u64) -> bool {
    now.saturating_sub(released) >= seconds
}

/// How often an address will have been given out before its next holder, given the same of its last one; 0 when there was
/// none. The low byte is the generation in the holder's MAC address.
#[must_use]
pub const fn next_count(last: Option<u64>) -> u64 {
    match last {
        Some(count) => count.wrapping_add(1),
        None => 0,
    }
}

fn first_usable(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(2))
}

fn usable(subnet: Ipv4Net) -> String {
    let last = Ipv4Addr::from(u32::from(subnet.broadcast()).saturating_sub(1));
    format!("{} to {last}", first_usable(subnet))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    #[test]
    fn the_ends_of_a_subnet_and_its_first_host_are_reserved() {
        let subnet = net("10.240.4.0/22");
        for (address, role) in [
            ([10, 240, 4, 0], "the network address"),
            ([10, 240, 4, 1], "the first host address"),
            ([10, 240, 7, 255], "the broadcast address"),
        ] {
            let address = Ipv4Addr::from(address);
            assert_eq!(check_address(subnet, address), Err(InvalidAddress::Reserved { address, subnet, role }));
        }
        for address in [[10, 240, 4, 2], [10, 240, 5, 0], [10, 240, 6, 255], [10, 240, 7, 254]] {
            assert_eq!(check_address(subnet, Ipv4Addr::from(address)), Ok(()));
        }
        for address in [[10, 240, 3, 255], [10, 240, 8, 0], [192, 168, 0, 2]] {
            let address = Ipv4Addr::from(address);
            assert_eq!(check_address(subnet, address), Err(InvalidAddress::OutsideSubnet { address, subnet }));
        }
    }

    #[test]
    fn a_subnet_holds_all_its_addresses_but_three() {
        for (subnet, members) in [("10.0.0.0/29", 5), ("10.240.0.0/22", 1021), ("10.0.0.0/8", 16_777_213)] {
            assert_eq!(capacity(net(subnet)), members);
        }
    }

    #[test]
    fn an_address_that_rested_longest_comes_back_first() {
        let subnet = net("10.0.0.0/29");
        let at = |last, since| (Ipv4Addr::new(10, 0, 0, last), since);
        assert_eq!(longest_released(subnet, [at(2, 30), at(3, 10), at(4, 20)]), Some(Ipv4Addr::new(10, 0, 0, 3)));
        assert_eq!(longest_released(subnet, [at(5, 10), at(4, 10)]), Some(Ipv4Addr::new(10, 0, 0, 4)));
        assert_eq!(longest_released(subnet, [at(0, 1), at(1, 1), at(7, 1)]), None);
    }

    #[test]
    fn an_address_rests_for_as_long_as_a_name_may_be_kept() {
        let rest = rest_seconds(5);
        assert_eq!(rest, 6);
        assert!(!has_rested(100, 100, rest) && !has_rested(100, 105, rest));
        assert!(has_rested(100, 106, rest));
        assert!(!has_rested(100, 50, rest), "a clock that went back");
    }

    #[test]
    fn counts_rise_from_zero_without_a_gap() {
        let mut last = None;
        for expected in 0..1000 {
            last = Some(next_count(last));
            assert_eq!(last, Some(expected));
        }
    }

    proptest! {
        #[test]
        fn a_subnet_gives_each_address_once_and_is_exhausted_exactly(
            block in 0u32..1 << 16, length in 24u8..=29, taken in prop::collection::btree_set(0u32..256, 0..64)
        ) {
            let subnet = Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 | block << 8), length);
            let start = u32::from(subnet.network());
            let mut known: BTreeSet<Ipv4Addr> = taken.iter().map(|offset| Ipv4Addr::from(start + offset)).collect();
            let usable = known.iter().filter(|address| check_address(subnet, **address).is_ok()).count();
            let mut given = 0;
            while let Some(address) = never_used(subnet, known.iter().copied()) {
                prop_assert_eq!(check_address(subnet, address), Ok(()));
                prop_assert!(known.insert(address), "{} was given twice", address);
                given += 1;
            }
            prop_assert_eq!(given + usable, capacity(subnet) as usize);
        }

        #[test]
        fn a_history_of_claims_and_releases_never_gives_a_held_address(
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..200)
        ) {
            let subnet = net("10.0.0.0/28");
            let mut held = BTreeSet::new();
            let mut free = BTreeMap::new();
            for (now, (claims, which)) in (0u64..).zip(steps) {
                if claims {
                    let known: BTreeSet<Ipv4Addr> = held.iter().chain(free.keys()).copied().collect();
                    let next = never_used(subnet, known.iter().copied())
                        .or_else(|| longest_released(subnet, free.iter().map(|(address, since)| (*address, *since))));
                    prop_assert_eq!(next.is_none(), held.len() == capacity(subnet) as usize);
                    if let Some(address) = next {
                        prop_assert_eq!(check_address(subnet, address), Ok(()));
                        free.remove(&address);
                        prop_assert!(held.insert(address), "{} was given twice", address);
                    }
                } else if !held.is_empty() {
                    let address = *which.get(&held.iter().copied().collect::<Vec<_>>());
                    held.remove(&address);
                    free.insert(address, now);
                }
            }
        }
    }
}
