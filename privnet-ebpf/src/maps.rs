//! The table of maps. The loader, the tests and the documentation read it; `programs/maps.rs` is the only other mention.

use crate::abi::{Config, CounterKey, DropEvent, MemberKey, MemberRow, PortKey, PortRow, Tally};

/// What a map is to the kernel.
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

/// How many entries a map can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// So many; bytes for a ring.
    Fixed(u32),
    /// So many for every address of the network's prefix, and at most so many.
    PerAddress {
        /// Entries for each address.
        each: u32,
        /// No more than this, however wide the prefix.
        at_most: u32,
    },
}

/// One map of a network's instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Its name in the object, in the kernel and in the pin directory; 15 bytes at most (`BPF_OBJ_NAME_LEN`).
    pub name: &'static str,
    /// What it is to the kernel.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key_bytes: u32,
    /// Bytes of a value, of one CPU when it has one per CPU.
    pub value_bytes: u32,
    /// How many entries it can hold.
    pub capacity: Capacity,
    /// `BPF_F_*` of map creation (include/uapi/linux/bpf.h).
    pub flags: u32,
}

/// `BPF_F_NO_PREALLOC`: memory is taken per entry, so that a network costs what it has.
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

/// The members of this host by the veth that they sit behind.
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

/// What became of the frames of each local member, and of the network's.
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

/// Fewer addresses than this save no memory worth having, and the counters need room for every outcome of the network.
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
