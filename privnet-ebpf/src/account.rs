//! Which counters a frame is charged to: those of a member of this host, or those of the network.

use crate::abi::{CounterKey, MemberRow, Tally};
use crate::packet::HEADERS_BYTES;
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

/// Whether a drop is reported: the first that is counted, and after it one in `one_in`, which 0 switches off. A frame that stands
/// for several packets is reported when one of them is due.
#[must_use]
#[inline(always)]
pub const fn is_reported(before: u64, packets: u64, one_in: u64) -> bool {
    let (Some(last), Some(now)) =
        (before.wrapping_sub(1).checked_div(one_in), (before + packets - 1).checked_div(one_in))
    else {
        return false;
    };
    before == 0 || last != now
}

impl Tally {
    /// What a frame is counted as. One that stands for several packets, which are made later, is counted as these, each with
    /// headers of its own; their number is not always filled in, and then follows from the size that each is given.
    #[must_use]
    #[inline(always)]
    pub const fn of_frame(frame_bytes: u32, gso_segs: u32, gso_size: u32) -> Self {
        let headers = HEADERS_BYTES as u32;
        let packets = match (gso_segs, gso_size) {
            (0 | 1, 0) => 1,
            (0, size) if frame_bytes > headers => (frame_bytes - headers).div_ceil(size),
            (0, _) => 1,
            (segments, _) => segments,
        };
        let more = (packets as u64 - 1) * headers as u64;
        Self { packets: packets as u64, bytes: frame_bytes as u64 + more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of these frames are reported, one after the other.
    fn reported(one_in: u64, frames: &[u64]) -> Vec<bool> {
        let mut before = 0;
        let is_next = |packets: &u64| {
            let is_reported = is_reported(before, *packets, one_in);
            before += packets;
            is_reported
        };
        frames.iter().map(is_next).collect()
    }

    #[test]
    fn one_packet_in_so_many_is_reported_whatever_stands_for_several() {
        assert_eq!(reported(3, &[1; 7]), [true, false, false, true, false, false, true]);
        assert_eq!(reported(16, &[1, 40, 40, 40]), [true; 4]);
        assert_eq!(reported(16, &[1, 14, 1, 1, 15, 1]), [true, false, false, true, false, true]);
        assert_eq!(reported(1, &[1, 2, 1]), [true; 3]);
        assert_eq!(reported(0, &[1, 40]), [false; 2]);
    }
}
