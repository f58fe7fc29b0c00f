//! Where frames come out: thousands of them, nearly right or not at all, through the programs on real interfaces. Each
//! comes out of the one interface that the policy names, changed as it says, or nowhere.
//!
//! ```text
//!  far (everything that frames go in by and come out of)          room (the programs)
//!   f11 ALICE, f21 BOB, f41 (none) ═══════════════ m11 m21 m41   from_member ─┐ BLUE's maps
//!   f31 the other hosts            ═══════════════ m31           from_vtep  ──┘
//!   f51, f61 members of RED with the same addresses ═ m51 m61    from_member ─┐ RED's maps
//!   f71 the other hosts of RED     ═══════════════ m71           from_vtep  ──┘
//! ```

mod datapath;
mod fuzz;

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::time::Duration;

use datapath::{ALICE, BOB, CAROL, DAVE, Member, NOBODY, open, spec, take_down};
use fuzz::World;
use fuzz::frames::{Dice, frame};
use privnet::datapath::{Hook, Network, NetworkSpec};
use privnet::netns::Netns;
use privnet_ebpf::net::{MacAddr, Vni};
use privnet_tests::lab::wait::holds_within;
use privnet_tests::lab::{FOR_NOTHING, Ground, Lab, SOON, Sender, Sniffer, Space, say};
use privnet_tests::soak::Soak;

const FRAMES: u64 = 4000;
const PATIENCE: Duration = Duration::from_secs(10);
/// How many frames are under way at once: less than the queue between two CPUs holds.
const AT_ONCE: u64 = 200;
const NO_IPV6: [&str; 2] = ["net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.default.disable_ipv6"];

/// A network on interfaces of the room.
struct Side {
    name: &'static str,
    world: World,
    network: Network,
    /// Where its frames go in.
    entrances: Vec<(Hook, u32)>,
}

fn as_red(member: Member) -> Member {
    let [.., last] = member.address.octets();
    Member { mac: MacAddr::of_member(member.address.octets(), 200 + last % 8), ..member }
}

fn sides(ground: &Ground, redirect_peer: bool) -> [Side; 2] {
    let blue = World::new(7, 31).local(ALICE, 11).local(BOB, 21).remote(CAROL).remote(DAVE).stranger(NOBODY);
    let red = World::new(8, 71).local(as_red(ALICE), 51).local(as_red(BOB), 61).remote(as_red(CAROL));
    // RED's members are unknown to BLUE, although they have the addresses of BLUE's.
    let blue = blue.stranger(as_red(ALICE)).stranger(as_red(CAROL));
    let red = red.stranger(as_red(DAVE)).stranger(ALICE).stranger(CAROL);
    let into = |hook, indexes: &[u32]| indexes.iter().map(|index| (hook, *index)).collect::<Vec<_>>();
    let of_blue = [into(Hook::FromMember, &[11, 21, 41]), into(Hook::FromVtep, &[31])].concat();
    let of_red = [into(Hook::FromMember, &[51, 61]), into(Hook::FromVtep, &[71])].concat();
    [("blue", 7, blue, of_blue), ("red", 8, red, of_red)].map(|(name, vni, world, entrances)| {
        let spec = NetworkSpec { vni: Vni::new(vni).expect("VNI"), redirect_peer, ..spec() };
        let network = open(ground, &spec);
        let mut side = Side { name, world, network, entrances };
        side.world.fill(&mut side.network);
        side
    })
}

#[tokio::test]
async fn a_frame_comes_out_where_the_policy_says_or_nowhere() {
    for redirect_peer in [true, false] {
        let lab = Lab::new("a_frame_comes_out_where_the_policy_says_or_nowhere");
        let (room, far) = (lab.space("room"), lab.space("far"));
        let sides = sides(lab.ground(), redirect_peer);
        let room_netns = Netns::open(&room.path()).expect("the room");
        join(&room, &far, &[11, 21, 31, 41, 51, 61, 71]);
        for side in &sides {
            for (hook, index) in &side.entrances {
                let name = format!("m{index}").parse().expect("a name");
                side.network.attach(&room_netns, &name, *hook).await.expect("attached");
            }
        }
        for side in &sides {
            let came_out = blast(side, &far);
            say(&format!("{}, redirect_peer {redirect_peer}: {came_out:?}", side.name));
            assert!(came_out.values().all(|frames| *frames > 20), "too few came out to show anything: {came_out:?}");
        }
        sides.iter().for_each(|side| take_down(lab.ground(), &side.network));
        drop((sides, room_netns));
        lab.finish();
    }
}

/// Veths between the two namespaces: `m<n>` with the index n in the room, `f<n>` far.
fn join(room: &Space, far: &Space, indexes: &[u32]) {
    for space in [room, far] {
        NO_IPV6.iter().for_each(|key| space.sysctl(key, "1"));
    }
    let far_netns = Netns::open(&far.path()).expect("the far namespace");
    let path = format!("/proc/{}/fd/{}", std::process::id(), far_netns.fd().as_raw_fd());
    for n in indexes {
        room.run(&format!("ip link add m{n} index {n} type veth peer name f{n} index {n} netns {path}"));
        room.run(&format!("ip link set m{n} up"));
        far.run(&format!("ip link set f{n} up"));
    }
}

/// Sends frames into every entrance of a network; how many came out of each interface.
fn blast(side: &Side, far: &Space) -> BTreeMap<u32, usize> {
    // An emulated machine takes its time.
    let soak = Soak::of_rounds(FRAMES / AT_ONCE).or_after(PATIENCE, FRAMES / AT_ONCE / 2);
    let seed = soak.seed();
    let (mut came_out, mut frames) = (BTreeMap::new(), 0);
    let senders: Vec<_> =
        side.entrances.iter().map(|(hook, n)| (*hook, *n, Sender::open(far, &format!("f{n}")))).collect();
    for first in soak.rounds().map(|round| round * AT_ONCE) {
        let sniffer = Sniffer::start(far);
        let mut expected = Vec::new();
        for number in first..first + AT_ONCE {
            let mut dice = Dice::of_frame(seed, number);
            let (hook, entrance, sender) = &senders[dice.below(senders.len())];
            let own = side.world.ports.get(entrance).map(|row| row.address());
            let own = side.world.people.iter().copied().find(|person| Some(person.address.octets()) == own);
            let frame = frame(&mut dice, &side.world, own);
            // What no interface takes is no frame.
            if sender.send(&frame).is_err() {
                continue;
            }
            let tagged = matches!(frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]));
            let out = side.world.expect(*hook, *entrance, &frame, tagged);
            expected.extend(out.target.map(|target| (target, out.frame)));
        }
        expected.sort();
        let all_out = || {
            let seen = sniffer.seen().into_iter().filter(|seen| !seen.outgoing);
            let mut seen: Vec<_> = seen.map(|seen| (u32::try_from(seen.ifindex).expect("small"), seen.bytes)).collect();
            seen.sort();
            seen
        };
        holds_within(SOON, || all_out().len() >= expected.len());
        std::thread::sleep(FOR_NOTHING / 10);
        let found = all_out();
        let missing: Vec<_> = expected.iter().filter(|out| !found.contains(out)).collect();
        let extra: Vec<_> = found.iter().filter(|out| !expected.contains(out)).collect();
        assert!(
            found == expected,
            "{}, seed {seed}, from frame {first}: {missing:02x?} missing, {extra:02x?} extra",
            side.name
        );
        for (target, _) in found {
            *came_out.entry(target).or_default() += 1;
        }
        frames += AT_ONCE;
    }
    soak.tell(frames, &format!("frames of {}", side.name));
    came_out
}
