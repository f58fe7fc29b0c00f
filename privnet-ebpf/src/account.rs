//! Which counters a frame is charged to: those of a member of this host, or those of the network.

use crate::abi::{CounterKey, MemberRow};
use crate::verdict::{Direction, Outcome};

/// The member and the direction that a frame is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    address: [u8; 4],
    direction: Direction,
}

impl Account {
    /// The network's own counters.
    #[must_use]
    #[inline(always)]
    pub const fn of_network(direction: Direction) -> Self {
        Self { address: CounterKey::NETWORK, direction }
    }

    /// The counters of the member of this host at `address`, as on the wire.
    #[must_use]
    #[inline(always)]
    pub const fn of_member(address: [u8; 4], direction: Direction) -> Self {
        Self { address, direction }
    }

    /// The counters of the member at `address` when `row` says that it is on this host, else the network's.
    ///
    /// Only members of this host have counters of their own, so a sender of forged addresses cannot fill the map.
    #[must_use]
    #[inline(always)]
    pub fn of_local(address: [u8; 4], row: Option<&MemberRow>, direction: Direction) -> Self {
        match row.and_then(MemberRow::ifindex) {
            Some(_) => Self::of_member(address, direction),
            None => Self::of_network(direction),
        }
    }

    /// The key of the counter of `outcome`.
    #[must_use]
    #[inline(always)]
    pub const fn key(self, outcome: Outcome) -> CounterKey {
        CounterKey::new(self.address, self.direction, outcome)
    }
}
