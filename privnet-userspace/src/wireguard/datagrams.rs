//! Datagrams that wait to be sent, in their order. Neighbours for one destination and of one length stand one behind the other,
//! so that one call sends them (`UDP_SEGMENT`, include/uapi/linux/udp.h).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;

/// Most datagrams of one call (`UDP_MAX_SEGMENTS` of include/linux/udp.h before Linux 6.9).
pub(super) const MOST_SEGMENTS: usize = 64;
/// Most octets of one call: the payload of the largest datagram of IPv4.
pub(super) const MOST_OCTETS: usize = 65_507;

/// The least bound on the octets that wait: what is sent while the socket is full is lost beyond the bound.
const LEAST_BOUND: usize = 1 << 20;
/// Packets that the library keeps while a handshake is under way, and gives out together when that is answered.
const KEPT_PACKETS: usize = 256;
/// Octets that WireGuard puts around a packet (the WireGuard paper, section 5.4.6).
const AROUND_PACKET: usize = 32;

/// Datagrams that wait to be sent.
#[derive(Debug)]
pub(super) struct Datagrams {
    /// Begins with what was sent of [`Self::runs`] already.
    octets: Vec<u8>,
    /// Without gaps between them.
    runs: VecDeque<Run>,
    /// Most octets that wait.
    bound: usize,
    /// Those that found no room.
    lost: u64,
}

/// Neighbours that one call can send: all of one length, but the last, which may be shorter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where they go.
    pub(super) destination: SocketAddr,
    /// The length of each but the last, in octets.
    pub(super) segment: usize,
    place: Range<usize>,
    /// Whether each of them takes a call of its own.
    is_split: bool,
}

impl Run {
    fn takes(&self, destination: SocketAddr, length: usize) -> bool {
        let used = self.place.len();
        self.destination == destination
            && self.segment > 0
            && !self.is_split
            && (1..=self.segment).contains(&length)
            && used.is_multiple_of(self.segment)
            && used / self.segment < MOST_SEGMENTS
            && used + length <= MOST_OCTETS
    }

    /// Whether it is more than one that one call can send.
    pub(super) fn is_several(&self) -> bool {
        !self.is_split && self.place.len() > self.segment
    }
}

impl Datagrams {
    /// None; of a device with this MTU in bytes, there is room for all packets that one handshake releases beside what ends a
    /// turn.
    pub(super) fn new(mtu: u16) -> Self {
        let released = KEPT_PACKETS * (usize::from(mtu) + AROUND_PACKET);
        let bound = LEAST_BOUND.max(released + 2 * MOST_OCTETS);
        Self { octets: Vec::new(), runs: VecDeque::new(), bound, lost: 0 }
    }

    /// Puts one behind those that are there.
    pub(super) fn push(&mut self, destination: SocketAddr, datagram: &[u8]) {
        let waiting = self.octets();
        if waiting + datagram.len() > self.bound {
            self.lost += 1;
            return;
        }
        let sent = self.octets.len() - waiting;
        if sent > waiting {
            // Each octet is moved at most once for one that was sent.
            self.octets.drain(..sent);
            for run in &mut self.runs {
                run.place = run.place.start - sent..run.place.end - sent;
            }
        }
        let start = self.octets.len();
        let end = start + datagram.len();
        self.octets.extend_from_slice(datagram);
        match self.runs.back_mut() {
            Some(run) if run.takes(destination, datagram.len()) => run.place.end = end,
            _ => {
                self.runs.push_back(Run { destination, segment: datagram.len(), place: start..end, is_split: false });
            }
        }
    }

    /// Puts all of `others` behind those that are there.
    pub(super) fn append(&mut self, others: &mut Self) {
        while let Some((run, octets)) = others.first() {
            let length = octets.len().min(run.segment);
            self.push(run.destination, &octets[..length]);
            others.is_sent(length);
        }
        self.lost += std::mem::take(&mut others.lost);
    }

    /// Those that are to be sent next.
    pub(super) fn first(&self) -> Option<(&Run, &[u8])> {
        self.runs.front().map(|run| (run, &self.octets[run.place.clone()]))
    }

    /// Takes away the first octets of [`Self::first`]: whole datagrams.
    pub(super) fn is_sent(&mut self, octets: usize) {
        let Some(run) = self.runs.front_mut() else { return };
        run.place.start += octets;
        if run.place.is_empty() {
            self.runs.pop_front();
        }
        if self.runs.is_empty() {
            self.octets.clear();
        }
    }

    /// From now on, each of [`Self::first`] takes a call of its own.
    pub(super) fn split_first(&mut self) {
        if let Some(run) = self.runs.front_mut() {
            run.is_split = true;
        }
    }

    /// What waits, in order.
    #[cfg(test)]
    pub(super) fn runs(&self) -> impl Iterator<Item = (&Run, &[u8])> {
        self.runs.iter().map(|run| (run, &self.octets[run.place.clone()]))
    }

    /// How many found no room since this was asked last.
    pub(super) const fn take_lost(&mut self) -> u64 {
        std::mem::replace(&mut self.lost, 0)
    }

    /// How many octets wait.
    pub(super) fn octets(&self) -> usize {
        self.octets.len() - self.runs.front().map_or(self.octets.len(), |run| run.place.start)
    }

    /// Gives back what takes memory, when none waits.
    pub(super) fn rest(&mut self) {
        if self.is_empty() {
            (self.octets, self.runs) = (Vec::new(), VecDeque::new());
        }
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
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
            let mut datagrams = Datagrams::new(1420);
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
        let mut datagrams = Datagrams::new(1420);
        for (to, length) in [(1, 100), (1, 100), (1, 40), (1, 40), (2, 40)] {
            datagrams.push(destination(to), &vec![0; length]);
        }
        let runs: Vec<_> = datagrams.runs().map(|(run, octets)| (run.segment, octets.len())).collect();
        assert_eq!(runs, [(100, 240), (40, 40), (40, 40)]);
        let mut others = Datagrams::new(1420);
        others.push(destination(2), &[0; 40]);
        datagrams.append(&mut others);
        assert!(others.is_empty());
        let runs: Vec<_> = datagrams.runs().map(|(run, octets)| (run.segment, octets.len())).collect();
        assert_eq!(runs, [(100, 240), (40, 40), (40, 80)]);
    }

    #[test]
    fn what_is_sent_goes_and_what_is_pushed_meanwhile_comes_behind() {
        let mut datagrams = Datagrams::new(1420);
        for fill in 1..=3 {
            datagrams.push(destination(1), &[fill; 100]);
        }
        datagrams.split_first();
        assert!(!datagrams.first().expect("a run").0.is_several());
        datagrams.is_sent(100);
        datagrams.push(destination(1), &[4; 100]);
        let left: Vec<_> = datagrams.runs().map(|(run, octets)| (run.is_several(), octets.len(), octets[0])).collect();
        assert_eq!(left, [(false, 200, 2), (false, 100, 4)]);
        for octets in [100, 100, 100] {
            datagrams.is_sent(octets);
        }
        assert!(datagrams.is_empty() && datagrams.octets() == 0);
        datagrams.push(destination(1), &[]);
        datagrams.is_sent(0);
        assert!(datagrams.is_empty());
    }

    #[test]
    fn beyond_the_bound_datagrams_are_lost_and_counted_and_what_was_sent_makes_room() {
        let mut datagrams = Datagrams::new(1420);
        for _ in 0..LEAST_BOUND / 1024 {
            datagrams.push(destination(1), &[0; 1024]);
        }
        assert_eq!((datagrams.octets(), datagrams.take_lost()), (LEAST_BOUND, 0));
        datagrams.push(destination(1), &[0; 1024]);
        assert_eq!((datagrams.octets(), datagrams.take_lost(), datagrams.take_lost()), (LEAST_BOUND, 1, 0));
        for fill in 0..3000_u32 {
            datagrams.is_sent(1024);
            datagrams.push(destination(1), &[fill.to_be_bytes()[3]; 1024]);
        }
        assert_eq!((datagrams.octets(), datagrams.take_lost()), (LEAST_BOUND, 0));
        assert!(datagrams.octets.len() <= 2 * LEAST_BOUND + 1024, "what was sent takes no room");
        let first = datagrams.first().map(|(_, octets)| octets[0]);
        assert_eq!(first, Some((3000 - LEAST_BOUND / 1024).to_be_bytes()[7]), "the order stays");
        while let Some(octets) = datagrams.first().map(|(_, octets)| octets.len()) {
            datagrams.is_sent(octets);
        }
        datagrams.push(destination(1), &[0; 1024]);
        assert_eq!((datagrams.octets(), datagrams.take_lost()), (1024, 0));
    }
}
