//! The table of maps, which the loader, the programs and the tests read.

use crate::abi::{Config, CounterKey, DropEvent, MemberKey, MemberRow, PortKey, PortRow, Tally};

/// The type of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_ARRAY`.
    Array,
    /// `BPF_MAP_TYPE_HASH`.
    Hash,
    /// `BPF_MAP_TYPE_PERCPU_HASH`.
    PerCpuHash,
    /// `BPF_MAP_TYPE_RINGBUF`.
    RingBuf,
}

/// The number of entries that a map can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// The same for all networks; of a ring, bytes.
    Fixed(u32),
    /// In proportion to the addresses of the network's prefix.
    PerAddress {
        /// Entries for each address.
        each: u32,
        /// The limit for wide prefixes.
        at_most: u32,
    },
}

/// One map of a network's instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Its name in the object, in the kernel and in the pin directory; 15 bytes at most (`BPF_OBJ_NAME_LEN`).
    pub name: &'static str,
    /// Its type.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key_bytes: u32,
    /// Bytes of a value; of a per-CPU map, of the value of one CPU.
    pub value_bytes: u32,
    /// The number of entries that it can hold.
    pub capacity: Capacity,
    /// `BPF_F_*` of map creation (include/uapi/linux/bpf.h).
    pub flags: u32,
}

/// `BPF_F_NO_PREALLOC`: the kernel allocates memory per entry and not per map.
pub const NO_PREALLOC: u32 = 1;
/// `BPF_F_RDONLY_PROG`: the verifier refuses a program that writes it.
pub const READ_ONLY_TO_PROGRAMS: u32 = 1 << 7;

const fn bytes_of<T>() -> u32 {
    size_of::<T>() as u32
}

/// The one [`Config`] of the network.
pub const MAP_CONFIG: MapSpec = MapSpec {
    name: "pn_config",
    kind: MapKind::Array,
    key_bytes: 4,
    value_bytes: bytes_of::<Config>(),
    capacity: Capacity::Fixed(1),
    flags: READ_ONLY_TO_PROGRAMS,
};

/// The members of this host by the index of their veth end.
pub const MAP_PORTS: MapSpec = MapSpec {
    name: "pn_ports",
    kind: MapKind::Hash,
    key_bytes: bytes_of::<PortKey>(),
    value_bytes: bytes_of::<PortRow>(),
    capacity: Capacity::PerAddress { each: 1, at_most: 4096 },
    flags: NO_PREALLOC | READ_ONLY_TO_PROGRAMS,
};

/// All members of the network by their address.
pub const MAP_MEMBERS: MapSpec = MapSpec {
    name: "pn_members",
    kind: MapKind::Hash,
    key_bytes: bytes_of::<MemberKey>(),
    value_bytes: bytes_of::<MemberRow>(),
    capacity: Capacity::PerAddress { each: 1, at_most: 65_536 },
    flags: NO_PREALLOC | READ_ONLY_TO_PROGRAMS,
};

/// Tallies per member of this host, and of the network, by direction and outcome.
pub const MAP_COUNTERS: MapSpec = MapSpec {
    name: "pn_counters",
    kind: MapKind::PerCpuHash,
    key_bytes: bytes_of::<CounterKey>(),
    value_bytes: bytes_of::<Tally>(),
    capacity: Capacity::PerAddress { each: 8, at_most: 32_768 },
    flags: NO_PREALLOC,
};

/// Sampled [`DropEvent`]s.
pub const MAP_EVENTS: MapSpec = MapSpec {
    name: "pn_events",
    kind: MapKind::RingBuf,
    key_bytes: 0,
    value_bytes: 0,
    capacity: Capacity::Fixed(EVENTS_BYTES),
    flags: 0,
};

/// Bytes of the events ring: a power of two of pages, 200 events.
pub const EVENTS_BYTES: u32 = 16_384;
const _: () = assert!(EVENTS_BYTES as usize / (size_of::<DropEvent>() + 8) >= 200);

/// All maps of a network's instance.
pub const ALL: [MapSpec; 5] = [MAP_CONFIG, MAP_PORTS, MAP_MEMBERS, MAP_COUNTERS, MAP_EVENTS];

/// The smallest number of addresses that is counted for a capacity: the counters need room for every outcome of the
/// network.
const FEWEST_ADDRESSES: u32 = 64;

impl MapSpec {
    /// Entries of the map for a network whose prefix has `prefix_bits` bits.
    #[must_use]
    pub const fn max_entries(&self, prefix_bits: u8) -> u32 {
        match self.capacity {
            Capacity::Fixed(entries) => entries,
            Capacity::PerAddress { each, at_most } => {
                let addresses = match prefix_bits {
                    0..=8 => 1 << 24,
                    9..=26 => 1 << (32 - prefix_bits),
                    27.. => FEWEST_ADDRESSES,
                };
                let entries = addresses * each;
                if entries > at_most { at_most } else { entries }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Direction, Outcome};

    #[test]
    fn names_fit_the_kernel_and_are_distinct() {
        let names: std::collections::BTreeSet<&str> = ALL.iter().map(|spec| spec.name).collect();
        assert_eq!(names.len(), ALL.len());
        for name in names {
            assert!(name.len() <= 15 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        }
    }

    #[test]
    fn maps_grow_with_the_prefix_and_stop() {
        assert_eq!([8, 16, 22, 28, 32].map(|bits| MAP_MEMBERS.max_entries(bits)), [65_536, 65_536, 1024, 64, 64]);
        assert_eq!([8, 16, 22, 28, 32].map(|bits| MAP_COUNTERS.max_entries(bits)), [32_768, 32_768, 8192, 512, 512]);
        assert_eq!([8, 22].map(|bits| MAP_EVENTS.max_entries(bits)), [EVENTS_BYTES; 2]);
    }

    #[test]
    fn the_smallest_counters_map_holds_every_outcome_of_the_network_and_the_hot_rows_of_all_members() {
        let of_network = Outcome::all().count() * Direction::ALL.len();
        let hot = FEWEST_ADDRESSES as usize * (Outcome::FORWARDED.len() + 1);
        assert!(MAP_COUNTERS.max_entries(32) as usize >= of_network + hot);
    }
}
