//! Veth pairs of ours without a record: on their way out with the namespace that held them, until they are overdue.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::topology::ownership::MemberLink;

/// How long the kernel may take to remove the links of a namespace that ended; 110 ms were seen.
const DEPARTURE: Duration = Duration::from_secs(2);

/// The veth pairs without a record, and since when they were seen.
#[derive(Debug, Default)]
pub struct OrphanVeths(BTreeMap<MemberLink, Instant>);

impl OrphanVeths {
    /// Of those that are there `now`, the ones that should have gone.
    ///
    /// Removing a link that goes anyhow would make the next attach wait for it, tens of milliseconds.
    pub fn overdue(&mut self, there: BTreeSet<MemberLink>, now: Instant) -> Vec<MemberLink> {
        self.0.retain(|link, _| there.contains(link));
        for link in there {
            self.0.entry(link).or_insert(now);
        }
        let is_overdue = |since: &Instant| now.saturating_duration_since(*since) > DEPARTURE;
        self.0.iter().filter(|(_, since)| is_overdue(since)).map(|(link, _)| *link).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_overdue_once_it_was_there_for_long_and_not_when_it_came_back() {
        let (one, other) = (MemberLink::Slot(1), MemberLink::Address(std::net::Ipv4Addr::new(10, 90, 0, 3)));
        let mut orphans = OrphanVeths::default();
        let start = Instant::now();
        let later = start + DEPARTURE + Duration::from_millis(1);
        assert!(orphans.overdue(BTreeSet::from([one, other]), start).is_empty());
        assert_eq!(orphans.overdue(BTreeSet::from([one]), later), [one]);
        // The other went in between: it has its time anew.
        assert_eq!(orphans.overdue(BTreeSet::from([one, other]), later), [one]);
        assert_eq!(orphans.overdue(BTreeSet::from([other]), later + DEPARTURE + Duration::from_millis(1)), [other]);
    }
}
