//! The thread that reads the rings of all networks while somebody watches.
//!
//! It looks at each ring some twenty times a second: a ring holds 200 drops, and what a program cannot put there is lost. The
//! programs count every drop, so what the rings lost is known, and told.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use super::frame::describe;
use super::{Drops, Sources};
use crate::agent::door::views::{DropLine, DroppedFrame};
use crate::datapath::{Counters, Event, Events, Outcome, RingId};
use crate::model::{NetworkId, NetworkName};

/// How often the rings are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How often what was read is compared with what was counted: counters cost a system call per member and reason.
const COMPARE: Duration = Duration::from_secs(1);

/// One network's ring.
struct Ring {
    events: Events,
    id: RingId,
    /// What was dropped before is none of this watch's.
    since: Duration,
    /// How many drops were read.
    read: u64,
    /// How many more were told to be lost.
    lost: u64,
    counted: Option<Counted>,
    next_look: Instant,
}

/// What the programs counted.
#[derive(Clone, Copy)]
struct Counted {
    /// Before the first drop that was to be reported.
    base: u64,
    /// At the last look: what was counted then is in the ring by now, or lost.
    last: u64,
}

/// Reads until nobody watches.
pub fn follow(drops: &Drops, sources: &Sources) {
    let mut rings: BTreeMap<NetworkId, Ring> = BTreeMap::new();
    let started = since_boot();
    loop {
        {
            let mut state = drops.lock();
            if state.watchers == 0 || state.lines.is_none() {
                state.is_followed = false;
                state.complete.clear();
                return;
            }
        }
        let networks = sources.workers.all();
        rings.retain(|network, _| networks.contains_key(network));
        for network in networks.into_keys() {
            look(drops, sources, network, started, &mut rings);
        }
        drops.lock().complete =
            rings.iter().filter(|(_, ring)| ring.counted.is_some()).map(|(network, _)| *network).collect();
        thread::sleep(LOOK);
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
                let (since, next_look) = (started, Instant::now());
                rings.insert(network, Ring { events, id, since, read: 0, lost: 0, counted: None, next_look });
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%network, %error, "cannot read the drops"),
        }
    }
    let name = sources.world.read(|world| world.networks().get(&network).map(|network| network.name.clone()));
    let (Some(ring), Some(name)) = (rings.get_mut(&network), name) else { return };
    let mut members = None;
    while let Some(event) = ring.events.next_event() {
        if event.since_boot < ring.since {
            continue;
        }
        ring.read += 1;
        let members = members.get_or_insert_with(|| members_of(sources, network));
        drops.tell(DropLine::Drop(frame_of(&event, network, &name, members)));
    }
    if ring.next_look <= Instant::now() {
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
        let Counted { base, last } = self.counted.unwrap_or(Counted { base: now, last: now });
        // The counters of a member go with it.
        let base = if now < last { base.saturating_sub(last - now) } else { base };
        self.counted = Some(Counted { base, last: now });
        let lost = last.min(now).saturating_sub(base + self.read + self.lost);
        self.lost += lost;
        Some(lost).filter(|lost| *lost > 0)
    }
}

/// How many packets the programs of a network have dropped.
fn dropped(pins: &Path) -> Option<u64> {
    let counters = Counters::read(pins).ok()??;
    let tallies = counters.values().flat_map(Counters::iter);
    Some(
        tallies.filter(|(_, outcome, _)| matches!(outcome, Outcome::Dropped(_))).map(|(.., tally)| tally.packets).sum(),
    )
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
    let described = describe(&event.headers);
    DroppedFrame {
        unix_microseconds: u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
        network,
        network_name: name.clone(),
        member: members.get(&event.member).cloned().unwrap_or_else(|| "unknown".to_owned()),
        address: event.member,
        direction: event.direction,
        reason: event.reason,
        protocol: described.protocol,
        from: described.from,
        to: described.to,
        bytes: event.frame_bytes,
        headers: event.headers.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// The clock that the programs read (`bpf_ktime_get_boot_ns`).
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
