//! What a network's programs count and sample, and reading it: without a handle on the network, whichever build pinned
//! it.

mod datapath;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use datapath::*;
use privnet::datapath::{Counters, Direction, DropReason, Error, Hook, MemberRow, Network, NetworkSpec, Outcome};
use privnet_ebpf::abi::Config;
use privnet_ebpf::maps::{MAP_COUNTERS, MAP_PORTS};

#[test]
fn reading_counters_loads_writes_and_pins_nothing_whichever_build_pinned_the_network() {
    let bed = Bed::new();
    bed.run(Hook::FromMember, ALICE_IF, &datagram(ALICE, BOB));
    let dir = bed.network.pin_dir();
    let expected = bed.network.counters().expect("counters");
    assert_eq!(expected[&ALICE.address].get(Direction::Out, Outcome::ForwardedLocal).packets, 1);
    // The programs pinned here are another build's now: the next opening loads, a read does not.
    erase_mark(dir);
    let before = pinned(dir);
    assert_eq!(Counters::read(dir).expect("readable"), Some(expected.clone()));
    assert_eq!(pinned(dir), before);
    assert!(!Network::open(dir, &spec()).expect("loaded").was_adopted(), "the read left another build's mark");
    assert_ne!(pinned(dir), before, "the twin: an opening loads");
    assert_eq!(Counters::read(dir).expect("readable"), Some(expected));
}

#[test]
fn counters_of_another_abi_or_layout_are_an_error_of_that_network_alone() {
    let (good, other_abi, other_layout) = (Bed::new(), Bed::new(), Bed::new());
    change_config(other_abi.network.pin_dir(), of_another_abi);
    let strange = other_layout.network.pin_dir().join(MAP_COUNTERS.name);
    fs::remove_file(&strange).expect("unpinned");
    let ports = aya::maps::MapData::from_pin(other_layout.network.pin_dir().join(MAP_PORTS.name)).expect("pin");
    ports.pin(&strange).expect("another map under the name of the counters");
    for (bed, words) in [(&other_abi, "ABI version"), (&other_layout, MAP_COUNTERS.name)] {
        let before = pinned(bed.network.pin_dir());
        let error = Counters::read(bed.network.pin_dir()).expect_err("refused");
        assert!(matches!(error, Error::Layout { .. }) && error.to_string().contains(words), "{error}");
        assert_eq!(pinned(bed.network.pin_dir()), before);
    }
    assert!(Counters::read(good.network.pin_dir()).expect("readable").is_some());
    assert_eq!(Counters::read(&good.ground.pin_dir()).expect("absent is nothing"), None);
    change_config(good.network.pin_dir(), |config| *config = bytemuck::Zeroable::zeroed());
    assert_eq!(Counters::read(good.network.pin_dir()).expect("being set up"), None);
}

#[test]
fn when_the_counters_are_full_drops_are_laid_to_the_network() {
    let small = NetworkSpec { prefix: "10.240.0.0/28".parse().expect("prefix"), ..spec() };
    let mut bed = Bed::with(&small);
    let forged = with(datagram(ALICE, BOB), at::SOURCE_MAC, &BOB.mac.bytes());
    bed.refuses(Hook::FromMember, ALICE_IF, &forged, ALICE.address, DropReason::SpoofedMac);
    fill_counters(bed.network.pin_dir());
    let another = Ipv4Addr::new(10, 240, 0, 14);
    let full = bed.network.set_member(another, MemberRow::local(CAROL.mac, 1, 99)).expect_err("no room");
    assert!(matches!(full, Error::Full { map, .. } if map == MAP_COUNTERS.name), "{full}");
    assert!(!bed.network.members().expect("members").contains_key(&another));
    bed.refuses(Hook::FromMember, ALICE_IF, &icmpv6(ALICE, 1), NETWORK, DropReason::Ipv6);
    bed.refuses(Hook::FromMember, ALICE_IF, &forged, ALICE.address, DropReason::SpoofedMac);
}

#[test]
fn a_member_that_goes_takes_its_counters_along() {
    let mut bed = Bed::new();
    bed.forwards(Hook::FromMember, ALICE_IF, &datagram(ALICE, BOB), ALICE.address, Outcome::ForwardedLocal);
    assert!(bed.network.counters().expect("counters").contains_key(&ALICE.address));
    bed.network.remove_member(ALICE.address).expect("removed");
    assert!(!bed.network.counters().expect("counters").contains_key(&ALICE.address));
    bed.network.set_member(ALICE.address, MemberRow::local(ALICE.mac, ALICE.port, ALICE_IF)).expect("member");
    let fresh = bed.network.counters().expect("counters");
    assert_eq!(fresh[&ALICE.address].iter().count(), 0);
}

#[test]
fn a_frame_of_several_segments_counts_as_several_packets() {
    let bed = Bed::new();
    let frame = datagram_of(ALICE, BOB, 3000);
    for (count, size, packets) in [(0, 0, 1), (3, 0, 3), (3, 1400, 3), (0, 1400, 3), (0, 1500, 2), (0, 3000, 1)] {
        let run = bed.run_segmented(Hook::FromMember, ALICE_IF, &frame, Segments { count, size });
        let tally = run.counted.first().expect("counted").3;
        let bytes = 3000 + 42 * packets;
        assert_eq!((run.action, tally.packets, tally.bytes), (REDIRECT, packets, bytes), "{count} of {size}");
    }
    let forged = with(frame, at::SOURCE_MAC, &BOB.mac.bytes());
    let run = bed.run_segmented(Hook::FromMember, ALICE_IF, &forged, Segments { count: 0, size: 1400 });
    let (.., outcome, tally) = *run.counted.first().expect("counted");
    let expected = (DROP, Outcome::Dropped(DropReason::SpoofedMac), 3);
    assert_eq!((run.action, outcome, tally.packets), expected, "it is refused whole");
}

#[test]
fn drops_are_sampled_one_in_so_many_and_carry_their_headers() {
    let bed = Bed::with(&NetworkSpec { event_sample: 3, ..spec() });
    let mut events = bed.network.events().expect("events");
    let forged = with(datagram(ALICE, BOB), at::SOURCE_MAC, &BOB.mac.bytes());
    bed.run(Hook::FromMember, ALICE_IF, &datagram(ALICE, BOB));
    assert_eq!(events.next_event(), None, "nothing was dropped");
    bed.repeat(Hook::FromMember, ALICE_IF, &forged, 7);
    let seen: Vec<_> = std::iter::from_fn(|| events.next_event()).collect();
    assert_eq!(seen.len(), 3, "the first, the fourth and the seventh");
    let event = seen[0];
    assert_eq!((event.member, event.direction), (ALICE.address, Direction::Out));
    assert_eq!((event.reason, event.ifindex), (DropReason::SpoofedMac, ALICE_IF));
    assert_eq!((event.frame_bytes as usize, &event.headers[..]), (forged.len(), &forged[..42]));
    assert!(event.since_boot > Duration::ZERO);
    // Seven were counted; each of these frames has a third one in it.
    for _ in 0..4 {
        bed.run_segmented(Hook::FromMember, ALICE_IF, &forged, Segments { count: 6, size: 0 });
    }
    assert_eq!(std::iter::from_fn(|| events.next_event()).count(), 4);
}

#[test]
fn no_sample_rate_means_no_events() {
    let bed = Bed::new();
    let mut events = bed.network.events().expect("events");
    bed.repeat(Hook::FromMember, ALICE_IF, &icmpv6(ALICE, 1), 5);
    assert_eq!(events.next_event(), None);
}

/// Each pin with the kernel's id of its map or program, and the config.
fn pinned(pin_dir: &Path) -> (BTreeMap<String, u32>, Option<Config>) {
    let id = |path: &Path| match aya::maps::MapInfo::from_pin(path) {
        Ok(map) => map.id(),
        Err(_) => aya::programs::ProgramInfo::from_pin(path).expect("a program").id(),
    };
    let entries = fs::read_dir(pin_dir).expect("pins").flatten();
    let ids = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), id(&entry.path()))).collect();
    let mut config = None;
    change_config(pin_dir, |present| config = Some(*present));
    (ids, config)
}

/// Adds rows until the map has no room for another.
fn fill_counters(pin_dir: &Path) {
    use aya::maps::{Map, MapData, PerCpuHashMap, PerCpuValues};
    let data = MapData::from_pin(pin_dir.join(MAP_COUNTERS.name)).expect("pin");
    let mut counters: PerCpuHashMap<_, u64, u128> = Map::PerCpuHashMap(data).try_into().expect("counters");
    let cpus = aya::util::nr_cpus().expect("CPUs");
    let zero = || PerCpuValues::try_from(vec![0_u128; cpus]).expect("one per CPU");
    let added = (1_u64 << 32..).take_while(|key| counters.insert(key, zero(), 0).is_ok()).count();
    assert!(added > 100, "{added} rows");
}
