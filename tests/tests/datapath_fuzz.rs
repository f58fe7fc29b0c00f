//! The programs against the policy, over millions of frames: the kernel runs the program and the test calls the pure
//! function, and action, bytes, mark and counter have to agree. The locks and the accounts are also checked by hand.
//!
//! A run ends after 200 000 frames or five seconds; `cargo xtask soak frames` goes on for minutes. A failure prints its
//! seed.

mod datapath;
mod fuzz;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use aya::maps::{Map, MapData, PerCpuHashMap};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use datapath::*;
use fuzz::frames::{Dice, frame, lengthen};
use fuzz::{MARK, World, broken_lock, reasons_of, wrong_account};
use privnet::datapath::{DropReason, Hook, Outcome, Tally};
use privnet_ebpf::abi::CounterKey;
use privnet_ebpf::maps::MAP_COUNTERS;
use privnet_ebpf::net::MacAddr;
use privnet_tests::soak::Soak;

/// Frames per program in a short run, and how long they may take: an emulated machine does fewer.
const FRAMES: u64 = 200_000;
const PATIENCE: Duration = Duration::from_secs(5);
/// From here on a run must have met every reason.
const ENOUGH: u64 = 50_000;
/// After so many frames a thread compares all counters, not only the one that had to rise.
const ROUND: u64 = 4096;

fn person(last: u8, generation: u8, port: u16) -> Member {
    let address = [10, 240, last % 4, last];
    Member { address: address.into(), mac: MacAddr::of_member(address, generation), port }
}

/// The bed's members and a dozen more, local and remote; one local member has no veth to send from.
fn world() -> World {
    let mut world = World::new(7, VTEP_IF).local(ALICE, ALICE_IF).local(BOB, BOB_IF).remote(CAROL).remote(DAVE);
    world = world.local(person(20, 0, 51_820), 22).local(person(21, 255, 51_900), 32);
    for last in 40..50 {
        world = world.remote(person(last, last.wrapping_mul(37), 51_820 + u16::from(last % 3)));
    }
    let mute = person(22, 9, 51_820);
    world = world.local(mute, 999);
    world.ports.remove(&999);
    let outside = Member { address: [192, 0, 2, 1].into(), ..NOBODY };
    world.stranger(NOBODY).stranger(outside)
}

/// One thread's share of a run: its own network's instance, its own counters.
struct Runner {
    hook: Hook,
    seed: u64,
    world: World,
    program: SchedClassifier,
    counters: PerCpuHashMap<MapData, [u8; 8], [u8; 16]>,
    counted: BTreeMap<CounterKey, Tally>,
    done: u64,
}

impl Runner {
    fn open(hook: Hook, seed: u64, world: World, program: PathBuf, pins: &Path) -> Self {
        let counters = MapData::from_pin(pins.join(MAP_COUNTERS.name)).expect("pin");
        Self {
            hook,
            seed,
            world,
            program: SchedClassifier::from_pin(program).expect("pinned program"),
            counters: Map::PerCpuHashMap(counters).try_into().expect("the counters"),
            counted: BTreeMap::new(),
            done: 0,
        }
    }

    /// Runs frame `number`; the error says what differed.
    fn check(&mut self, number: u64) -> Result<(), String> {
        let mut dice = Dice::of_frame(self.seed, number);
        let ifindex = match self.hook {
            Hook::FromMember => dice.pick(&[ALICE_IF, ALICE_IF, BOB_IF, 22, 32, 42, STRANGER_IF]),
            Hook::FromVtep => VTEP_IF,
            Hook::GuardIngress | Hook::GuardEgress => STRANGER_IF,
        };
        let own = self.world.ports.get(&ifindex).map(|row| row.address());
        let own = self.world.people.iter().copied().find(|person| Some(person.address.octets()) == own);
        let mut frame = frame(&mut dice, &self.world, own);
        lengthen(&mut frame);

        let expected = self.world.expect(self.hook, ifindex, &frame, false);
        let (action, out, mark) = self.run(ifindex, &frame);
        let told = |what: String| {
            let (hook, seed) = (self.hook, self.seed);
            Err(format!("{hook:?}, seed {seed}, frame {number} on {ifindex}: {what}\n{frame:02x?}"))
        };
        if (action, mark) != (expected.action, expected.mark) || out != expected.frame {
            return told(format!("the kernel did {action}, mark {mark:#x}, {out:02x?}; the policy {expected:02x?}"));
        }
        if let Some(lock) = broken_lock(&self.world, self.hook, ifindex, &frame, &expected) {
            return told(format!("it went on, and this lock did not hold: {lock}"));
        }
        if let Some(key) = expected.counted {
            if let Some(charged) = wrong_account(&self.world, self.hook, ifindex, &frame, key) {
                return told(format!("charged to {:?} and not to {charged:?}", key.address()));
            }
            let tally = self.counted.entry(key).or_default();
            tally.packets += 1;
            tally.bytes += frame.len() as u64;
            let tally = *tally;
            let found = self.tally(key);
            if found != tally {
                return told(format!("counted {found:?} under {:?}, not {tally:?}", key.what()));
            }
        }
        self.done += 1;
        if self.done.is_multiple_of(ROUND) { self.check_counters() } else { Ok(()) }
    }

    /// The counters are what was expected, also those that no frame of the last round should have raised.
    fn check_counters(&self) -> Result<(), String> {
        let found = self.all_counted();
        if found == self.counted {
            return Ok(());
        }
        let (hook, seed) = (self.hook, self.seed);
        Err(format!("{hook:?}, seed {seed}: the counters are {found:?}, not {:?}", self.counted))
    }

    fn run(&self, ifindex: u32, frame: &[u8]) -> (i32, Vec<u8>, u32) {
        // struct __sk_buff of include/uapi/linux/bpf.h: mark, ifindex.
        let (mut context, mut context_out) = ([0_u8; 192], [0_u8; 192]);
        context[8..12].copy_from_slice(&MARK.to_ne_bytes());
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        let mut out = vec![0; frame.len() + 64];
        let result = self.program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut context_out),
            repeat: 1,
            ..TestRunOptions::default()
        });
        let result = result.unwrap_or_else(|error| panic!("{}: {frame:02x?}", in_full(&error)));
        out.truncate(result.data_size_out as usize);
        let mark = u32::from_ne_bytes(context_out[8..12].try_into().expect("4 bytes"));
        (result.return_value.cast_signed(), out, mark)
    }

    fn tally(&self, key: CounterKey) -> Tally {
        match self.counters.get(&bytemuck::cast(key), 0) {
            Ok(values) => values.iter().map(|value| bytemuck::cast(*value)).fold(Tally::default(), sum),
            Err(_) => Tally::default(),
        }
    }

    /// Every counter that is not 0.
    fn all_counted(&self) -> BTreeMap<CounterKey, Tally> {
        let keys: Vec<[u8; 8]> = self.counters.keys().collect::<Result<_, _>>().expect("the counters' keys");
        let rows = keys.into_iter().map(|key| (bytemuck::cast(key), self.tally(bytemuck::cast(key))));
        rows.filter(|(_, tally)| tally.packets > 0).collect()
    }
}

fn sum(one: Tally, other: Tally) -> Tally {
    Tally { packets: one.packets + other.packets, bytes: one.bytes + other.bytes }
}

/// Runs frames through the program of `hook` on every core, and asserts that program and policy agree on all of them.
fn fuzz(hook: Hook) {
    let soak = Soak::of_rounds(FRAMES).or_after(PATIENCE, 0);
    let seed = soak.seed();
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let stop = Arc::new(AtomicBool::new(false));
    let (frames, wrong) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let share = |first: u64| {
        let (frames, stop, wrong) = (Arc::clone(&frames), Arc::clone(&stop), Arc::clone(&wrong));
        move || {
            let mut bed = Bed::new();
            let world = world();
            world.fill(&mut bed.network);
            let (program, pins) = (bed.network.program_pin(hook), bed.network.pin_dir().to_owned());
            let run = move || {
                let mut runner = Runner::open(hook, seed, world, program, &pins);
                for number in (first..).step_by(threads as usize) {
                    if stop.load(Ordering::Relaxed) || !soak.goes_on(number) {
                        break;
                    }
                    frames.fetch_add(1, Ordering::Relaxed);
                    if let Err(text) = runner.check(number) {
                        stop.store(true, Ordering::Relaxed);
                        wrong.lock().expect("no thread panicked").push(text);
                    }
                }
                wrong.lock().expect("no thread panicked").extend(runner.check_counters().err());
                runner.counted.keys().filter_map(CounterKey::what).map(|(_, outcome)| outcome).collect()
            };
            bed.netns.run_blocking(run).expect("run in the bed")
        }
    };
    let threads: Vec<_> = (0..threads).map(|first| thread::spawn(share(first))).collect();
    let met: Vec<BTreeSet<Outcome>> = threads.into_iter().map(|one| one.join().expect("a thread of the run")).collect();
    let frames = frames.load(Ordering::Relaxed);
    soak.tell(frames, &format!("frames through {hook:?}"));
    let wrong = wrong.lock().expect("no thread panicked");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let met: BTreeSet<Outcome> = met.into_iter().flatten().collect();
    let unmet: Vec<DropReason> =
        reasons_of(hook).into_iter().filter(|reason| !met.contains(&Outcome::Dropped(*reason))).collect();
    assert!(frames < ENOUGH || unmet.is_empty(), "no frame of {frames} met {unmet:?}");
    let forwarded: &[Outcome] = match hook {
        Hook::FromMember => &Outcome::FORWARDED,
        Hook::FromVtep => &[Outcome::ForwardedLocal],
        Hook::GuardIngress | Hook::GuardEgress => &[],
    };
    assert!(forwarded.iter().all(|outcome| met.contains(outcome)), "no frame of {frames} passed: {met:?}");
}

#[test]
fn what_a_member_may_send_is_what_the_policy_says() {
    fuzz(Hook::FromMember);
}

#[test]
fn what_comes_from_another_host_is_what_the_policy_says() {
    fuzz(Hook::FromVtep);
}

#[test]
fn what_the_guard_lets_in_is_what_the_policy_says() {
    fuzz(Hook::GuardIngress);
}

#[test]
fn what_the_guard_lets_out_is_what_the_policy_says() {
    fuzz(Hook::GuardEgress);
}
