//! Veth pairs of ours without a record: on their way out with the namespace that held them, until they are overdue.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// How long the kernel may take to remove the links of a namespace that ended; 110 ms were seen.
const DEPARTURE: Duration = Duration::from_secs(2);

/// The veth pairs without a record, by their member's address, and since when they were seen.
#[derive(Debug, Default)]
pub struct OrphanVeths(BTreeMap<Ipv4Addr, Instant>);

impl OrphanVeths {
    /// Of those that are there `now`, the ones that should have gone.
    ///
    /// Removing a link that goes anyhow would make the next attach wait for it, tens of milliseconds.
    pub fn overdue(&mut self, there: BTreeSet<Ipv4Addr>, now: Instant) -> Vec<Ipv4Addr> {
        self.0.retain(|address, _| there.contains(address));
        for address in there {
            self.0.entry(address).or_insert(now);
        }
        let is_overdue = |since: &Instant| now.saturating_duration_since(*since) > DEPARTURE;
        self.0.iter().filter(|(_, since)| is_overdue(since)).map(|(address, _)| *address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_overdue_once_it_was_there_for_long_and_not_when_it_came_back() {
        let (one, other) = (Ipv4Addr::new(10, 90, 0, 2), Ipv4Addr::new(10, 90, 0, 3));
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
