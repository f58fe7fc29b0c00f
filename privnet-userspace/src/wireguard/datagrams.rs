//! Datagrams that wait to be sent, in their order. Neighbours for one destination and of one length stand one behind the other,
//! so that one call sends them (`UDP_SEGMENT`, include/uapi/linux/udp.h).

use std::net::SocketAddr;
use std::ops::Range;

/// Most datagrams of one call (`UDP_MAX_SEGMENTS` of include/linux/udp.h before Linux 6.9).
const MOST_SEGMENTS: usize = 64;
/// Most octets of one call: the payload of the largest datagram of IPv4.
const MOST_OCTETS: usize = 65_507;

/// Datagrams that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    octets: Vec<u8>,
    runs: Vec<Run>,
}

/// Neighbours that one call can send: all of one length, but the last, which may be shorter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where they go.
    pub(super) destination: SocketAddr,
    /// The length of each but the last, in octets.
    pub(super) segment: usize,
    place: Range<usize>,
}

impl Run {
    fn takes(&self, destination: SocketAddr, length: usize) -> bool {
        let used = self.place.len();
        self.destination == destination
            && self.segment > 0
            && (1..=self.segment).contains(&length)
            && used.is_multiple_of(self.segment)
            && used / self.segment < MOST_SEGMENTS
            && used + length <= MOST_OCTETS
    }

    /// Whether it is more than one.
    pub(super) fn is_several(&self) -> bool {
        self.place.len() > self.segment
    }
}

impl Datagrams {
    /// Puts one behind those that are there.
    pub(super) fn push(&mut self, destination: SocketAddr, datagram: &[u8]) {
        let start = self.octets.len();
        self.octets.extend_from_slice(datagram);
        let end = self.octets.len();
        match self.runs.last_mut() {
            Some(run) if run.takes(destination, datagram.len()) => run.place.end = end,
            _ => self.runs.push(Run { destination, segment: datagram.len(), place: start..end }),
        }
    }

    /// What waits, in order.
    pub(super) fn runs(&self) -> impl Iterator<Item = (&Run, &[u8])> {
        self.runs.iter().map(|run| (run, &self.octets[run.place.clone()]))
    }

    /// How many octets wait.
    pub(super) const fn octets(&self) -> usize {
        self.octets.len()
    }

    #[cfg(test)]
    const fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Forgets them all.
    pub(super) fn clear(&mut self) {
        self.octets.clear();
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn destination(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 240, 0, number], 51820))
    }

    proptest! {
        #[test]
        fn each_run_splits_into_the_datagrams_that_were_pushed(
            pushed in proptest::collection::vec((0..3_u8, 0..2000_usize, any::<u8>()), 0..200),
        ) {
            let mut datagrams = Datagrams::default();
            for (to, length, fill) in &pushed {
                datagrams.push(destination(*to), &vec![*fill; *length]);
            }
            let mut seen = Vec::new();
            for (run, octets) in datagrams.runs() {
                prop_assert!(octets.len() <= MOST_OCTETS);
                let segments: Vec<&[u8]> = match run.segment {
                    0 => vec![octets],
                    segment => octets.chunks(segment).collect(),
                };
                prop_assert!(segments.len() <= MOST_SEGMENTS);
                seen.extend(segments.into_iter().map(|segment| (run.destination, segment.to_vec())));
            }
            let expected: Vec<_> =
                pushed.iter().map(|(to, length, fill)| (destination(*to), vec![*fill; *length])).collect();
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_shorter_one_ends_a_run_and_another_destination_begins_one() {
        let mut datagrams = Datagrams::default();
        for (to, length) in [(1, 100), (1, 100), (1, 40), (1, 40), (2, 40)] {
            datagrams.push(destination(to), &vec![0; length]);
        }
        let runs: Vec<_> = datagrams.runs().map(|(run, octets)| (run.segment, octets.len())).collect();
        assert_eq!(runs, [(100, 240), (40, 40), (40, 40)]);
        datagrams.clear();
        assert!(datagrams.is_empty() && datagrams.octets() == 0);
    }
}
