//! The maps of a network's instance, declared from the table in `privnet_ebpf::maps`, and all reads and writes of them.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuHashMap, RingBuf};
use privnet_ebpf::abi::{Config, CounterKey, DropEvent, MemberKey, MemberRow, PortKey, PortRow, Tally};
use privnet_ebpf::maps::{EVENTS_BYTES, MAP_CONFIG, MAP_COUNTERS, MAP_MEMBERS, MAP_PORTS};

/// A prefix length for the declarations: the loader sets each capacity by the network's own (`MapSpec::max_entries`).
const ANY_PREFIX: u8 = 22;

#[map(name = "pn_config")]
static CONFIG: Array<Config> = Array::with_max_entries(1, MAP_CONFIG.flags);

#[map(name = "pn_ports")]
static PORTS: HashMap<PortKey, PortRow> = HashMap::with_max_entries(MAP_PORTS.max_entries(ANY_PREFIX), MAP_PORTS.flags);

#[map(name = "pn_members")]
static MEMBERS: HashMap<MemberKey, MemberRow> =
    HashMap::with_max_entries(MAP_MEMBERS.max_entries(ANY_PREFIX), MAP_MEMBERS.flags);

#[map(name = "pn_counters")]
static COUNTERS: PerCpuHashMap<CounterKey, Tally> =
    PerCpuHashMap::with_max_entries(MAP_COUNTERS.max_entries(ANY_PREFIX), MAP_COUNTERS.flags);

#[map(name = "pn_events")]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// `-EEXIST`, as a helper returns it.
const EEXIST: i32 = -17;
/// `BPF_NOEXIST` of include/uapi/linux/bpf.h: create, or fail.
const CREATE: u64 = 1;

/// The network's config.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// The member behind the interface `ifindex`.
#[inline(always)]
pub fn port(ifindex: u32) -> Option<&'static PortRow> {
    // SAFETY: the kernel frees a removed entry after the program has returned. An entry that is replaced meanwhile may
    // be read half old, half new: any bytes are a valid row, and both halves are of this network.
    unsafe { PORTS.get(&ifindex) }
}

/// The member at `address`.
#[inline(always)]
pub fn member(address: [u8; 4]) -> Option<&'static MemberRow> {
    // SAFETY: as for `port`, three lines above.
    unsafe { MEMBERS.get(&address) }
}

/// Adds to the tally of `key` on this CPU, and returns the packets that it held before.
///
/// A missing row is created; when the map is full, the network's row is used. The rows of forwarded frames are created
/// with their member, so only a drop can allocate here.
#[inline(always)]
pub fn add(key: CounterKey, frame: &Tally) -> u64 {
    if let Some(before) = add_to_row(&key, frame) {
        return before;
    }
    let row = match COUNTERS.insert(&key, frame, CREATE) {
        Ok(()) => return 0,
        // Another CPU created the row since the lookup.
        Err(EEXIST) => key,
        Err(_) => key.of_network(),
    };
    add_to_row(&row, frame).unwrap_or(0)
}

#[inline(always)]
fn add_to_row(key: &CounterKey, frame: &Tally) -> Option<u64> {
    let tally = COUNTERS.get_ptr_mut(key)?;
    // SAFETY: the lookup gave a pointer to this CPU's tally, non-null and aligned to 8. No other code uses the tally
    // until the program returns, because TC programs run with bottom halves off.
    let tally = unsafe { &mut *tally };
    let before = tally.packets;
    tally.packets = before.wrapping_add(frame.packets);
    tally.bytes = tally.bytes.wrapping_add(frame.bytes);
    Some(before)
}

/// Writes `event` to the ring; it is lost when the ring is full.
#[inline(always)]
pub fn report(event: &DropEvent) {
    let _full = EVENTS.output::<DropEvent>(event, 0);
}
