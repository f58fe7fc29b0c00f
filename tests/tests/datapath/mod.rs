//! What the tests of the programs share: a bed with a network's instance in a namespace of its own, frames, and runs of
//! the programs by `BPF_PROG_TEST_RUN`.
//!
//! ```text
//!   the bed's namespace: interfaces that only lend their indexes
//!   ALICE 11 ── 10.240.0.2, generation 1        REMOTE, behind the VTEP 31:
//!   BOB   21 ── 10.240.0.3, generation 4          CAROL 10.240.0.9, generation 2
//!   41       ── no member                          DAVE 10.240.0.10, generation 255
//! ```

#![allow(dead_code, missing_docs, reason = "each test binary uses some of it; the names say it")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use privnet::datapath::{
    Direction, DropReason, Hook, MemberRow, Method, Network, NetworkSpec, Outcome, PortRow, Tally, features,
};
use privnet::netns::Netns;
use privnet_ebpf::abi::{ABI_VERSION, Config};
use privnet_ebpf::maps::MAP_CONFIG;
use privnet_ebpf::net::{MacAddr, Vni};
use privnet_tests::lab::leak::pinned;
use privnet_tests::lab::{Ground, run_in, skip_part};

/// A member: what it owns.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub address: Ipv4Addr,
    pub mac: MacAddr,
    pub port: u16,
}

const fn member(last: u8, generation: u8, port: u16) -> Member {
    let address = [10, 240, 0, last];
    Member { address: Ipv4Addr::new(10, 240, 0, last), mac: MacAddr::of_member(address, generation), port }
}

pub const ALICE: Member = member(2, 1, 51_820);
pub const BOB: Member = member(3, 4, 51_821);
pub const CAROL: Member = member(9, 2, 51_822);
pub const DAVE: Member = member(10, 255, 51_823);
/// In the prefix, but no member.
pub const NOBODY: Member = member(77, 0, 51_820);

pub const ALICE_IF: u32 = 11;
pub const BOB_IF: u32 = 21;
pub const VTEP_IF: u32 = 31;
pub const STRANGER_IF: u32 = 41;

/// What is counted for the network itself.
pub const NETWORK: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

pub const DROP: i32 = 2;
pub const REDIRECT: i32 = 7;
/// `TC_ACT_UNSPEC`: the next filter decides.
pub const NEXT: i32 = -1;

pub const PREFIX: &str = "10.240.0.0/22";

/// The ways of attaching that this kernel has.
pub fn methods() -> Vec<Method> {
    let mut methods = vec![Method::Clsact];
    if features().tcx {
        methods.push(Method::Tcx);
    } else {
        skip_part("TCX", "TCX");
    }
    methods
}

pub fn spec() -> NetworkSpec {
    NetworkSpec::new(Vni::new(7).expect("VNI"), PREFIX.parse().expect("prefix"))
}

/// A network's instance, and a namespace whose interfaces have the indexes that its tables name.
pub struct Bed {
    pub network: Network,
    pub netns: Netns,
    /// Behind everything that must be gone when it is checked.
    pub ground: Ground,
}

/// What the kernel says of a frame that stands for several packets: their number, and the payload of each; 0 is not said.
#[derive(Clone, Copy, Default)]
pub struct Segments {
    pub count: u32,
    pub size: u32,
}

/// What a program made of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub action: i32,
    pub frame: Vec<u8>,
    pub mark: u32,
    /// What was counted, and nothing else was.
    pub counted: Vec<(Ipv4Addr, Direction, Outcome, Tally)>,
}

impl Bed {
    pub fn new() -> Self {
        Self::with(&spec())
    }

    pub fn with(spec: &NetworkSpec) -> Self {
        let ground = Ground::join();
        let (network, [netns]) = (open(&ground, spec), ground.namespaces());
        let mut bed = Self { network, netns, ground };
        let links = [ALICE_IF, BOB_IF, VTEP_IF, STRANGER_IF].map(|index| {
            let peer = index + 1;
            format!("link add if{index} index {index} type veth peer name if{peer} index {peer}")
        });
        run_in(&bed.netns, &format!("printf '{}' | ip -batch -", links.join(r"\n")));
        bed.fill();
        bed
    }

    fn fill(&mut self) {
        let network = &mut self.network;
        network.set_vtep(Some(VTEP_IF)).expect("vtep");
        for (member, ifindex) in [(ALICE, ALICE_IF), (BOB, BOB_IF)] {
            network.set_member(member.address, MemberRow::local(member.mac, member.port, ifindex)).expect("member");
            network.set_port(ifindex, PortRow::new(member.address.octets(), member.mac, member.port)).expect("port");
        }
        for member in [CAROL, DAVE] {
            network.set_member(member.address, MemberRow::remote(member.mac, member.port)).expect("member");
        }
    }

    /// Runs the program of `hook` once, on a frame that comes in by `ifindex`.
    pub fn run(&self, hook: Hook, ifindex: u32, frame: &[u8]) -> Run {
        self.run_segmented(hook, ifindex, frame, Segments::default())
    }

    /// Runs the program of `hook` once, on a frame that stands for several packets.
    pub fn run_segmented(&self, hook: Hook, ifindex: u32, frame: &[u8], segments: Segments) -> Run {
        let before = self.counters();
        let (action, out, mark, _) = self.execute(hook, ifindex, frame, segments, 1);
        let mut counted = Vec::new();
        for (key, tally) in self.counters() {
            let old = before.get(&key).copied().unwrap_or_default();
            if tally != old {
                let new = Tally { packets: tally.packets - old.packets, bytes: tally.bytes - old.bytes };
                counted.push((key.0, key.1, key.2, new));
            }
        }
        Run { action, frame: out, mark, counted }
    }

    /// What the program of `hook` does with a frame, without a look at what it counts.
    pub fn action(&self, hook: Hook, ifindex: u32, frame: &[u8]) -> i32 {
        self.execute(hook, ifindex, frame, Segments::default(), 1).0
    }

    /// Runs the program of `hook` so many times on one CPU; nanoseconds of one run.
    pub fn repeat(&self, hook: Hook, ifindex: u32, frame: &[u8], times: u32) -> u128 {
        self.execute(hook, ifindex, frame, Segments::default(), times).3.as_nanos()
    }

    fn execute(
        &self,
        hook: Hook,
        ifindex: u32,
        frame: &[u8],
        segments: Segments,
        repeat: u32,
    ) -> (i32, Vec<u8>, u32, Duration) {
        let (program, frame) = (self.network.program_pin(hook), frame.to_vec());
        let run = move || {
            let program = SchedClassifier::from_pin(program).expect("pinned program");
            let mut context = [0_u8; 192];
            // struct __sk_buff of include/uapi/linux/bpf.h: mark, ifindex, gso_segs, gso_size.
            context[8..12].copy_from_slice(&0xbeef_u32.to_ne_bytes());
            context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
            context[164..168].copy_from_slice(&segments.count.to_ne_bytes());
            context[176..180].copy_from_slice(&segments.size.to_ne_bytes());
            let mut out = vec![0; frame.len() + 256];
            let mut context_out = [0_u8; 192];
            let result = program.test_run(TestRunOptions {
                data_in: Some(&frame),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ctx_out: Some(&mut context_out),
                repeat,
                ..TestRunOptions::default()
            });
            let result =
                result.unwrap_or_else(|error| panic!("test run of {} bytes: {}", frame.len(), in_full(&error)));
            out.truncate(result.data_size_out as usize);
            let mark = u32::from_ne_bytes(context_out[8..12].try_into().expect("4 bytes"));
            (result.return_value.cast_signed(), out, mark, result.duration)
        };
        self.netns.run_blocking(run).expect("run in the bed")
    }

    fn counters(&self) -> BTreeMap<(Ipv4Addr, Direction, Outcome), Tally> {
        let counters = self.network.counters().expect("counters");
        counters
            .iter()
            .flat_map(|(member, counters)| {
                counters.iter().map(|(way, outcome, tally)| ((*member, way, outcome), tally))
            })
            .collect()
    }

    /// The frame is dropped for exactly this reason: nothing goes anywhere, and that counter alone rises by one.
    #[track_caller]
    pub fn refuses(&self, hook: Hook, ifindex: u32, frame: &[u8], member: Ipv4Addr, reason: DropReason) {
        let run = self.run(hook, ifindex, frame);
        let tally = Tally { packets: 1, bytes: frame.len() as u64 };
        let counted = vec![(member, direction(hook), Outcome::Dropped(reason), tally)];
        assert_eq!((run.action, run.counted), (DROP, counted), "{hook:?} on {ifindex}: {frame:02x?}");
        assert_eq!(run.frame, frame, "a dropped frame was changed");
    }

    /// The frame is forwarded, and counted once for `member`.
    #[track_caller]
    pub fn forwards(&self, hook: Hook, ifindex: u32, frame: &[u8], member: Ipv4Addr, outcome: Outcome) -> Run {
        let run = self.run(hook, ifindex, frame);
        let tally = Tally { packets: 1, bytes: frame.len() as u64 };
        let counted = vec![(member, direction(hook), outcome, tally)];
        assert_eq!((run.action, &run.counted), (REDIRECT, &counted), "{hook:?} on {ifindex}: {frame:02x?}");
        run
    }

    /// The frame is left to others, untouched and uncounted.
    #[track_caller]
    pub fn passes(&self, hook: Hook, ifindex: u32, frame: &[u8]) {
        let run = self.run(hook, ifindex, frame);
        assert_eq!((run.action, &run.counted), (NEXT, &vec![]), "{hook:?} on {ifindex}: {frame:02x?}");
        assert_eq!(run.frame, frame, "a passed frame was changed");
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        take_down(&self.ground, &self.network);
    }
}

/// A network's instance whose pins are on this ground.
pub fn open(ground: &Ground, spec: &NetworkSpec) -> Network {
    Network::open(&ground.pin_dir(), spec).unwrap_or_else(|error| panic!("{}", in_full(&error)))
}

/// Removes the pins of an instance, of which nothing may then be loaded.
pub fn take_down(ground: &Ground, network: &Network) {
    ground.must_be_unloaded(pinned(network.pin_dir()));
    if let Err(error) = Network::remove_pins(network.pin_dir()) {
        ground.blame(vec![format!("pins: {error}")]);
    }
}

const fn direction(hook: Hook) -> Direction {
    match hook {
        Hook::FromMember | Hook::GuardEgress => Direction::Out,
        Hook::FromVtep | Hook::GuardIngress => Direction::In,
    }
}

pub fn in_full(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", in_full(source)),
        None => error.to_string(),
    }
}

/// A WireGuard datagram's frame: 32 bytes in it, the length of a keepalive.
pub fn datagram(from: Member, to: Member) -> Vec<u8> {
    datagram_of(from, to, 32)
}

pub fn datagram_of(from: Member, to: Member, payload_bytes: usize) -> Vec<u8> {
    let udp_bytes = u16::try_from(8 + payload_bytes).expect("fits");
    let mut frame = ethernet(to.mac, from.mac, 0x0800);
    frame.extend_from_slice(&[0x45, 0]);
    frame.extend_from_slice(&(20 + udp_bytes).to_be_bytes());
    // Identification; don't fragment; 64 hops; UDP; a checksum, which is the receiver's business.
    frame.extend_from_slice(&[0x12, 0x34, 0x40, 0, 64, 17, 0xab, 0xcd]);
    frame.extend_from_slice(&from.address.octets());
    frame.extend_from_slice(&to.address.octets());
    frame.extend_from_slice(&from.port.to_be_bytes());
    frame.extend_from_slice(&to.port.to_be_bytes());
    frame.extend_from_slice(&udp_bytes.to_be_bytes());
    frame.extend_from_slice(&[0; 2]);
    frame.extend((0..payload_bytes).map(|byte| byte as u8));
    frame
}

/// An ARP request of `from` for the address `target`.
pub fn arp_request(from: Member, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(MacAddr::BROADCAST, from.mac, 0x0806);
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&from.mac.bytes());
    frame.extend_from_slice(&from.address.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target.octets());
    frame
}

/// An IPv6 frame of `from`, whose upper layer is ICMPv6 of a type.
pub fn icmpv6(from: Member, kind: u8) -> Vec<u8> {
    let mut frame = ethernet(MacAddr::new([0x33, 0x33, 0, 0, 0, 1]), from.mac, 0x86dd);
    frame.extend_from_slice(&[0x60, 0, 0, 0, 0, 16, 58, 255]);
    frame.extend_from_slice(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend_from_slice(&[0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend_from_slice(&[kind, 0, 0, 0]);
    frame.resize(70, 0);
    frame
}

pub fn ethernet(to: MacAddr, from: MacAddr, ethertype: u16) -> Vec<u8> {
    [&to.bytes()[..], &from.bytes(), &ethertype.to_be_bytes()].concat()
}

/// `frame` behind an 802.1Q tag of `ethertype`.
pub fn tagged(frame: &[u8], ethertype: u16) -> Vec<u8> {
    [&frame[..12], &ethertype.to_be_bytes(), &[0, 5], &frame[12..]].concat()
}

/// `frame` with some bytes from `offset` changed.
pub fn with(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

/// Offsets of a datagram's fields, for [`with`].
pub mod at {
    pub const DESTINATION_MAC: usize = 0;
    pub const SOURCE_MAC: usize = 6;
    pub const ETHERTYPE: usize = 12;
    pub const VERSION: usize = 14;
    pub const TOTAL_BYTES: usize = 16;
    pub const FRAGMENT: usize = 20;
    pub const PROTOCOL: usize = 23;
    pub const SOURCE: usize = 26;
    pub const DESTINATION: usize = 30;
    pub const SOURCE_PORT: usize = 34;
    pub const DESTINATION_PORT: usize = 36;
    pub const UDP_BYTES: usize = 38;
    pub const ARP_HARDWARE: usize = 14;
    pub const ARP_OPERATION: usize = 20;
    pub const ARP_SENDER_MAC: usize = 22;
    pub const ARP_SENDER: usize = 28;
    pub const ARP_TARGET: usize = 38;
}

/// Makes the pinned programs look like those of another build.
pub fn erase_mark(pin_dir: &Path) {
    change_config(pin_dir, |config| *config = config.with_build(1));
}

/// Gives the config the version of another ABI: its first four bytes.
pub fn of_another_abi(config: &mut Config) {
    bytemuck::bytes_of_mut(config)[..4].copy_from_slice(&(ABI_VERSION + 1).to_ne_bytes());
}

/// Changes the config map.
pub fn change_config(pin_dir: &Path, change: impl FnOnce(&mut Config)) {
    let data = aya::maps::MapData::from_pin(pin_dir.join(MAP_CONFIG.name)).expect("pin");
    let mut map: aya::maps::Array<_, [u8; size_of::<Config>()]> =
        aya::maps::Map::Array(data).try_into().expect("config");
    let mut config: Config = bytemuck::cast(map.get(&0, 0).expect("config"));
    change(&mut config);
    map.set(0, bytemuck::cast::<_, [u8; size_of::<Config>()]>(config), 0).expect("config");
}
