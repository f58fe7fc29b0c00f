//! Typed reads of the counters, summed over the CPUs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use aya::maps::{MapData, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use privnet_ebpf::abi::{ABI_VERSION, CounterKey, Tally};
use privnet_ebpf::maps::{MAP_CONFIG, MAP_COUNTERS};
use privnet_ebpf::verdict::{Direction, Outcome};

use super::Error;
use super::error::removed;
use super::pinned::{is_pinned_as, open_config, typed};
use super::plain::Plain;

type Map = PerCpuHashMap<MapData, Plain<CounterKey>, Plain<Tally>>;

/// The tallies of one member, or of the network, by direction and outcome. Without those that are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<(Direction, Outcome), Tally>);

impl Counters {
    /// The tally of `outcome`.
    #[must_use]
    pub fn get(&self, direction: Direction, outcome: Outcome) -> Tally {
        self.0.get(&(direction, outcome)).copied().unwrap_or_default()
    }

    /// The tallies that are not zero, in the order of direction and outcome.
    pub fn iter(&self) -> impl Iterator<Item = (Direction, Outcome, Tally)> {
        self.0.iter().map(|((direction, outcome), tally)| (*direction, *outcome, *tally))
    }

    /// Reads the counters of the network that is pinned in `pin_dir`, by the address of the member of this host that
    /// they are charged to; those under 0.0.0.0 are charged to the network itself. `None` when no network is pinned
    /// there, or one that is still being set up.
    ///
    /// Opens the pinned maps and reads them. It loads no program, writes no map and pins nothing, whichever build
    /// pinned the network. It takes no lock, so a read that hangs or fails affects this network alone.
    ///
    /// # Errors
    /// [`Error::Layout`] when a map was pinned by another ABI or has another shape than this build expects. [`Error::Map`]
    /// when the kernel refuses to open a map, or to read it to its end.
    pub fn read(pin_dir: &Path) -> Result<Option<BTreeMap<Ipv4Addr, Self>>, Error> {
        if !is_pinned_as(&MAP_CONFIG, pin_dir, 0)? {
            return Ok(None);
        }
        let config =
            open_config(pin_dir)?.0.get(&0, 0).map_err(|error| Error::map("read", MAP_CONFIG.name, "", error))?.0;
        if config.vni().is_err() {
            return Ok(None);
        }
        if !config.is_current() {
            let (expected, found) =
                (format!("a config of ABI version {ABI_VERSION}"), "that of another version".to_owned());
            return Err(Error::Layout { path: pin_dir.join(MAP_CONFIG.name), expected, found });
        }
        if !is_pinned_as(&MAP_COUNTERS, pin_dir, config.prefix().1)? {
            return Ok(None);
        }
        by_address(&typed::<Map>(&MAP_COUNTERS, pin_dir)?).map(Some)
    }
}

/// Reads the whole map, summed over the CPUs. An address whose rows are all zero is in the result, with no tally.
pub(super) fn by_address(map: &Map) -> Result<BTreeMap<Ipv4Addr, Counters>, Error> {
    let mut counters: BTreeMap<Ipv4Addr, Counters> = BTreeMap::new();
    for entry in map.iter() {
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

/// Creates the rows of forwarded frames, so that the programs allocate none for them; of the network, all rows.
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
