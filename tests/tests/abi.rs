//! The embedded object against the table: every map, every program, and what an instance costs.

mod datapath;

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use aya::maps::MapInfo;
use datapath::*;
use privnet::datapath::Hook;
use privnet_ebpf::maps;
use privnet_tests::lab::Ground;

/// What an instance may cost before it has members, per-CPU parts aside: a host can have a hundred networks.
const MEMORY_BYTES: u64 = 384 * 1024;

#[test]
fn every_map_is_as_the_table_says_and_there_is_no_other() {
    let bed = Bed::new();
    let mut in_table: Vec<&str> = maps::ALL.iter().map(|map| map.name).collect();
    in_table.extend(Hook::ALL.map(Hook::program));
    in_table.sort_unstable();
    assert_eq!(pins(bed.network.pin_dir()), in_table);
    for map in &maps::ALL {
        let info = MapInfo::from_pin(bed.network.pin_dir().join(map.name)).expect("map");
        assert_eq!(info.name_as_str(), Some(map.name));
        assert_eq!((info.key_size(), info.value_size()), (map.key_bytes, map.value_bytes), "{}", map.name);
        assert_eq!((info.max_entries(), info.map_flags()), (map.max_entries(22), map.flags), "{}", map.name);
        assert_eq!(format!("{:?}", info.map_type().expect("type")), format!("{:?}", map.kind));
    }
    for hook in Hook::ALL {
        let program = aya::programs::ProgramInfo::from_pin(bed.network.program_pin(hook)).expect("program");
        assert_eq!(program.id(), bed.network.program_id(hook));
        assert_eq!(program.gpl_compatible(), Some(true));
        let names: Vec<String> = program
            .map_ids()
            .expect("maps")
            .expect("maps")
            .into_iter()
            .map(|id| MapInfo::from_id(id).expect("map").name_as_str().expect("name").to_owned())
            .collect();
        assert!(names.iter().all(|name| maps::ALL.iter().any(|map| map.name == name)), "{names:?}");
    }
}

#[test]
fn an_instance_without_members_stays_under_its_bound_of_memory() {
    let ground = Ground::join();
    let network = open(&ground, &spec());
    let mut total = 0;
    for map in &maps::ALL {
        let info = MapInfo::from_pin(network.pin_dir().join(map.name)).expect("map");
        let fd = info.fd().expect("fd");
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd())).expect("fdinfo");
        let bytes = about.lines().find_map(|line| line.strip_prefix("memlock:")).expect("memlock").trim();
        total += bytes.parse::<u64>().expect("number");
    }
    network.unpin().expect("unpin");
    assert!(total <= MEMORY_BYTES, "{total} bytes");
}

fn pins(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("pins");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("pin").file_name().into_string().expect("UTF-8")).collect();
    names.sort_unstable();
    names
}
