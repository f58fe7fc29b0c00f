//! Typed reads of the counters, summed over the CPUs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use aya::maps::{MapData, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use privnet_ebpf::abi::{CounterKey, Tally};
use privnet_ebpf::maps::MAP_COUNTERS;
use privnet_ebpf::verdict::{Direction, Outcome};

use super::plain::Plain;
use super::tables::removed;
use super::{Error, Network};

type Map = PerCpuHashMap<MapData, Plain<CounterKey>, Plain<Tally>>;

/// What became of the frames of one member, or of the network's. What never happened is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<(Direction, Outcome), Tally>);

impl Counters {
    /// The tally of `outcome`; zero when it never happened.
    #[must_use]
    pub fn get(&self, direction: Direction, outcome: Outcome) -> Tally {
        self.0.get(&(direction, outcome)).copied().unwrap_or_default()
    }

    /// What happened, in the order of direction and outcome.
    pub fn iter(&self) -> impl Iterator<Item = (Direction, Outcome, Tally)> {
        self.0.iter().map(|((direction, outcome), tally)| (*direction, *outcome, *tally))
    }
}

impl Network {
    /// The counters of every member of this host that any exist of, and under 0.0.0.0 those of the network itself: what
    /// cannot be laid to a member.
    ///
    /// # Errors
    /// [`Error::Map`] when the map cannot be read to its end.
    pub fn counters(&self) -> Result<BTreeMap<Ipv4Addr, Counters>, Error> {
        let mut counters: BTreeMap<Ipv4Addr, Counters> = BTreeMap::new();
        for entry in self.counters.iter() {
            let (key, per_cpu) = entry.map_err(|error| Error::map("read", MAP_COUNTERS.name, "", error))?;
            let tally = sum(&per_cpu);
            if let Some(what) = key.0.what() {
                let of_member = counters.entry(Ipv4Addr::from(key.0.address())).or_default();
                if tally.packets > 0 {
                    of_member.0.insert(what, tally);
                }
            }
        }
        Ok(counters)
    }
}

/// Creates the rows that the fast path adds to, so that it never allocates; of the network, every row.
pub(super) fn prepare(map: &mut Map, address: [u8; 4]) -> Result<(), Error> {
    let hot = [
        (Direction::Out, Outcome::ForwardedLocal),
        (Direction::Out, Outcome::ForwardedRemote),
        (Direction::Out, Outcome::ArpAnswered),
        (Direction::In, Outcome::ForwardedLocal),
    ];
    if address == CounterKey::NETWORK {
        create(map, address, every_row())
    } else {
        create(map, address, hot.into_iter())
    }
}

/// Removes all rows of a member.
pub(super) fn forget(map: &mut Map, address: [u8; 4]) -> Result<(), Error> {
    for (direction, outcome) in every_row() {
        removed(map.remove(&Plain(CounterKey::new(address, direction, outcome))))
            .map_err(|error| Error::map("remove", MAP_COUNTERS.name, Ipv4Addr::from(address), error))?;
    }
    Ok(())
}

fn create(map: &mut Map, address: [u8; 4], rows: impl Iterator<Item = (Direction, Outcome)>) -> Result<(), Error> {
    const CREATE: u64 = 1;
    const EEXIST: i32 = 17;
    let failed = |error| Error::map("create", MAP_COUNTERS.name, Ipv4Addr::from(address), error);
    for (direction, outcome) in rows {
        let cpus = nr_cpus().map_err(|(_, error)| failed(aya::maps::MapError::IoError(error)))?;
        let zero = PerCpuValues::try_from(vec![Plain(Tally::default()); cpus])
            .map_err(|error| failed(aya::maps::MapError::IoError(error)))?;
        match map.insert(Plain(CounterKey::new(address, direction, outcome)), zero, CREATE) {
            Ok(()) => {}
            Err(error) if super::error::errno_of_map(&error) == Some(EEXIST) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

fn every_row() -> impl Iterator<Item = (Direction, Outcome)> {
    Direction::ALL.into_iter().flat_map(|direction| Outcome::all().map(move |outcome| (direction, outcome)))
}

fn sum(per_cpu: &PerCpuValues<Plain<Tally>>) -> Tally {
    per_cpu.iter().fold(Tally::default(), |sum, tally| Tally {
        packets: sum.packets.wrapping_add(tally.0.packets),
        bytes: sum.bytes.wrapping_add(tally.0.bytes),
    })
}
