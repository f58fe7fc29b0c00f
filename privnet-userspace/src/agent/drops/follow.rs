//! The thread that reads the rings of all networks while somebody watches.
//!
//! It looks at each ring some twenty times a second: a ring holds 200 drops, and what a program cannot put there is lost. The
//! programs count every drop, so what the rings lost is known, and told.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use super::frame::{Described, describe};
use super::{Drops, Sources};
use crate::agent::door::views::{DropLine, DroppedFrame};
use crate::datapath::{Counters, Direction, DropReason, Event, Events, Outcome, RingId};
use crate::model::{NetworkId, NetworkName};

/// How often the rings are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How many drops are read at one look: some more than a ring holds. A network that fills its ring faster than it is read hides
/// no other network's drops, and no end.
const AT_ONCE: usize = 256;
/// How often what was read is compared with what was counted: counters cost a system call per member and reason.
const COMPARE: Duration = Duration::from_secs(1);

/// How many packets were dropped, by the member that they are charged to, direction and reason.
type Dropped = BTreeMap<(Ipv4Addr, Direction, DropReason), u64>;

/// One network's ring.
struct Ring {
    events: Events,
    id: RingId,
    /// How many drops were read since the programs report each.
    read: u64,
    /// How many more were told to be lost.
    lost: u64,
    /// What the programs had counted at the last look; nothing before they report each drop.
    counted: Option<Dropped>,
    /// How many of these came since the programs report each drop: they are in the ring by now, or lost.
    due: u64,
    next_look: Instant,
}

/// Reads until nobody watches.
pub fn follow(drops: &Drops, sources: &Sources) {
    let _ended = Ended(drops);
    let mut rings: BTreeMap<NetworkId, Ring> = BTreeMap::new();
    let (started, mut begun) = (since_boot(), 0);
    loop {
        {
            let mut state = drops.lock();
            if state.watchers == 0 || state.lines.is_none() {
                state.is_followed = false;
                state.complete.clear();
                return;
            }
            // Between the last watcher and this one the programs may have been told to report nothing.
            if std::mem::replace(&mut begun, state.begun) != begun {
                rings.values_mut().for_each(|ring| ring.counted = None);
            }
        }
        let networks = sources.workers.all();
        rings.retain(|network, _| networks.contains_key(network));
        for network in networks.into_keys() {
            look(drops, sources, network, started, &mut rings);
        }
        let mut state = drops.lock();
        if state.begun == begun {
            let complete = rings.iter().filter(|(_, ring)| ring.counted.is_some());
            state.complete = complete.map(|(network, _)| *network).collect();
        }
        drop(state);
        thread::sleep(LOOK);
    }
}

/// Lets the watchers know where this thread ends by a fault of ours: their lines end, and the next watcher starts another one.
struct Ended<'a>(&'a Drops);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.start_anew();
        }
    }
}

/// Tells what one network has dropped.
fn look(
    drops: &Drops,
    sources: &Sources,
    network: NetworkId,
    started: Duration,
    rings: &mut BTreeMap<NetworkId, Ring>,
) {
    let pins = sources.host.config.pins_of(network);
    let pinned = Events::ring_in(&pins);
    if rings.get(&network).map(|ring| ring.id) != pinned {
        rings.remove(&network);
        match Events::open(&pins) {
            Ok(Some((events, id))) => {
                let next_look = Instant::now();
                rings.insert(network, Ring { events, id, read: 0, lost: 0, counted: None, due: 0, next_look });
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%network, %error, "cannot read the drops"),
        }
    }
    let name = sources.world.read(|world| world.networks().get(&network).map(|network| network.name.clone()));
    let (Some(ring), Some(name)) = (rings.get_mut(&network), name) else { return };
    let mut members = None;
    for _ in 0..AT_ONCE {
        let Some(event) = ring.events.next_event() else { break };
        // An agent that died while it was watched has left what it had not read.
        if event.since_boot < started {
            continue;
        }
        ring.read += 1;
        let members = members.get_or_insert_with(|| members_of(sources, network));
        drops.tell(DropLine::Drop(frame_of(&event, network, &name, members)));
    }
    if ring.counted.is_none() || ring.next_look <= Instant::now() {
        ring.next_look = Instant::now() + COMPARE;
        if let Some(packets) = ring.lost(&pins) {
            drops.tell(DropLine::NotShown { network, network_name: name, packets });
        }
    }
}

impl Ring {
    /// How many more packets are counted as dropped than were read, and were not told yet.
    fn lost(&mut self, pins: &Path) -> Option<u64> {
        if self.counted.is_none() && !Events::are_complete(pins) {
            return None;
        }
        let now = dropped(pins)?;
        let Some(before) = self.counted.replace(now) else {
            // What was read before is in these counters, too.
            (self.read, self.lost, self.due) = (0, 0, 0);
            return None;
        };
        let lost = self.due.saturating_sub(self.read + self.lost);
        self.lost += lost;
        self.due += self.counted.iter().map(|now| since(&before, now)).sum::<u64>();
        Some(lost).filter(|lost| *lost > 0)
    }
}

/// How many packets were dropped between two looks. The counters of a member go with it, and those of the next one of its address
/// begin at nothing.
fn since(before: &Dropped, now: &Dropped) -> u64 {
    let more = now.iter().map(|(key, packets)| {
        let counted = before.get(key).copied().unwrap_or(0);
        packets.checked_sub(counted).unwrap_or(*packets)
    });
    more.sum()
}

/// What the programs of a network have dropped.
fn dropped(pins: &Path) -> Option<Dropped> {
    let counters = Counters::read(pins).ok()??;
    let of_member = |(address, counters): (&Ipv4Addr, &Counters)| {
        let drops = counters.iter().filter_map(|(direction, outcome, tally)| match outcome {
            Outcome::Dropped(reason) => Some(((direction, reason), tally.packets)),
            Outcome::ForwardedLocal | Outcome::ForwardedRemote | Outcome::ArpAnswered => None,
        });
        drops.map(|((direction, reason), packets)| ((*address, direction, reason), packets)).collect::<Vec<_>>()
    };
    Some(counters.iter().flat_map(of_member).collect())
}

fn members_of(sources: &Sources, network: NetworkId) -> BTreeMap<Ipv4Addr, String> {
    let journal = sources.journal.lock();
    let of_network = journal.records().values().filter(|record| record.network == network);
    of_network.map(|record| (record.address, record.container.to_string())).collect()
}

fn frame_of(
    event: &Event,
    network: NetworkId,
    name: &NetworkName,
    members: &BTreeMap<Ipv4Addr, String>,
) -> DroppedFrame {
    let ago = since_boot().saturating_sub(event.since_boot);
    let time = (SystemTime::now() - ago).duration_since(UNIX_EPOCH).unwrap_or_default();
    let Described { is_ethernet, protocol, from, to } = describe(&event.headers);
    let mut headers = String::with_capacity(2 * event.headers.len());
    for byte in event.headers {
        let _ = write!(headers, "{byte:02x}");
    }
    DroppedFrame {
        unix_microseconds: u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
        network,
        network_name: name.clone(),
        member: members.get(&event.member).cloned().unwrap_or_else(|| "unknown".to_owned()),
        address: event.member,
        direction: event.direction,
        reason: event.reason,
        protocol,
        from,
        to,
        bytes: event.frame_bytes,
        is_ethernet,
        headers,
    }
}

/// The clock that the programs read (`bpf_ktime_get_boot_ns`).
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_between_two_looks_is_known_also_where_a_member_went_and_another_came() {
        let counted = |rows: &[(u8, u64)]| -> Dropped {
            let key = |last: u8| (Ipv4Addr::new(10, 0, 0, last), Direction::Out, DropReason::SpoofedMac);
            rows.iter().map(|(last, packets)| (key(*last), *packets)).collect()
        };
        for (before, now, expected) in [
            (&[][..], &[(1, 5)][..], 5),
            (&[(1, 5)], &[(1, 7), (2, 1)], 3),
            // A member went with its counter, another one's rose.
            (&[(1, 500), (2, 1)], &[(2, 4)], 3),
            // The next member of the same address.
            (&[(1, 500)], &[(1, 2)], 2),
            (&[(1, 5)], &[(1, 5)], 0),
        ] {
            assert_eq!(since(&counted(before), &counted(now)), expected, "{before:?} {now:?}");
        }
    }
}
