//! What a packet costs in each program, by `BPF_PROG_TEST_RUN` with many repetitions. Not a test of right or wrong: it
//! prints, and runs only when asked for.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]

mod carrier;
mod datapath;
mod links;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use carrier::Carrier;
use datapath::*;
use privnet::datapath::{Hook, Method, NetworkSpec, features};
use privnet::link::Links;
use privnet::netns::Netns;
use privnet_tests::lab::{Ground, run_in, until};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::task::JoinHandle;

const REPEAT: u32 = 1_000_000;
const ROUNDS: usize = 5;
/// How many members come and end at once.
const AT_ONCE: usize = 50;
const LOOPBACK: u32 = 1;

/// `cargo test -p privnet-tests --test datapath_cost -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn the_programs_are_measured() {
    assert_eq!(features().jit, Some(true), "without the JIT no figure means anything");
    let bed = Bed::new();
    let outside = with(datagram_of(ALICE, BOB, 1400), at::SOURCE, &[192, 0, 2, 1, 198, 51, 100, 1]);
    let inside = with(outside.clone(), at::DESTINATION, &[10, 240, 0, 77]);
    let forged = with(datagram_of(ALICE, BOB, 1400), at::SOURCE, &[192, 0, 2, 1]);
    let programs = [
        ("from_member, same host", Hook::FromMember, ALICE_IF, datagram_of(ALICE, BOB, 1400)),
        ("from_member, other host", Hook::FromMember, ALICE_IF, datagram_of(ALICE, CAROL, 1400)),
        ("from_member, refused", Hook::FromMember, ALICE_IF, forged),
        ("from_vtep", Hook::FromVtep, VTEP_IF, datagram_of(CAROL, ALICE, 1400)),
        ("guard, IPv6 passed", Hook::GuardIngress, STRANGER_IF, icmpv6(ALICE, 128)),
        ("from_vtep, ARP refused", Hook::FromVtep, VTEP_IF, arp_request(CAROL, ALICE.address)),
        ("from_member, unknown", Hook::FromMember, STRANGER_IF, datagram_of(ALICE, BOB, 1400)),
        ("guard, passed", Hook::GuardIngress, STRANGER_IF, outside),
        ("guard, refused", Hook::GuardIngress, STRANGER_IF, inside),
    ];
    for (name, hook, ifindex, frame) in programs {
        let mut rounds: Vec<u128> = (0..ROUNDS).map(|_| bed.repeat(hook, ifindex, &frame, REPEAT)).collect();
        rounds.sort_unstable();
        println!("{name:<24} {:>4} ns ({} to {})", rounds[ROUNDS / 2], rounds[0], rounds[ROUNDS - 1]);
    }
}

/// One sender pinned to one core, 1300-byte datagrams; datagrams/s received, medians of alternating rounds. Then a
/// ping-pong of 64 bytes with both ends on one core, half its median round.
#[tokio::test]
#[ignore = "a measurement"]
async fn the_ways_to_attach_and_to_redirect_are_measured() {
    let bare = Bare::new().await;
    let mut ways: Vec<(String, [UdpSocket; 2], Option<Carrier>)> = vec![("bare veth".to_owned(), bare.sockets(), None)];
    for method in [Method::Clsact, Method::Tcx] {
        for redirect_peer in [true, false] {
            let carrier = Carrier::with(&NetworkSpec { redirect_peer, ..spec() }, Some(method)).await;
            let sockets = [carrier.socket("alice", ALICE), carrier.socket("bob", BOB)];
            let redirect = if redirect_peer { "redirect_peer" } else { "redirect" };
            ways.push((format!("same host, {method:?}, {redirect}"), sockets, Some(carrier)));
        }
    }
    let carrier = Carrier::new().await;
    let sockets = [carrier.socket("alice", ALICE), carrier.socket("carol", CAROL)];
    ways.push(("two hosts".to_owned(), sockets, Some(carrier)));
    let mut rates = vec![Vec::new(); ways.len()];
    let mut rounds = vec![Vec::new(); ways.len()];
    for (_, [one, two], _) in &ways {
        one.connect(two.local_addr().expect("address")).expect("connect");
        two.connect(one.local_addr().expect("address")).expect("connect");
        two.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
    }
    for _ in 0..3 * ROUNDS {
        for (number, (_, [one, two], _)) in ways.iter().enumerate() {
            rates[number].push(flood(one, two));
            rounds[number].push(ping_pong(one, two));
        }
    }
    println!("{:<36} {:>10} {:>8} {:>19} {:>8}", "", "flood, 1/s", "÷ bare", "ping-pong, one way", "- bare");
    for (number, (name, ..)) in ways.iter().enumerate() {
        // Against the floor of the same round: the machine changes its speed between rounds.
        let ratios = rates[number].iter().zip(&rates[0]).map(|(rate, bare)| rate * 1000 / bare);
        let above = rounds[number].iter().zip(&rounds[0]).map(|(one, bare)| one.cast_signed() - bare.cast_signed());
        let (ratio, above) = (median(ratios), median(above));
        let (rate, round) = (median(rates[number].iter().copied()), median(rounds[number].iter().copied()));
        println!("{name:<36} {rate:>10} {:>5}.{:03} {round:>16} ns {above:>5} ns", ratio / 1000, ratio % 1000);
    }
}

/// What `from_member` costs the host when a member comes and ends, by the way in which it is attached: how long that takes, and
/// how long a link waits that is set in another namespace meanwhile. Medians of alternating rounds, and the longest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn what_members_that_come_and_end_cost_others_is_measured() {
    let bed = Bed::new();
    let [room, elsewhere] = bed.ground.namespaces();
    let [on_room, on_elsewhere] = links::sockets([&room, &elsewhere]).await;
    let others = Others::start(on_elsewhere);
    let ways: Vec<Option<Method>> = std::iter::once(None).chain(methods().into_iter().map(Some)).collect();
    let mut figures = BTreeMap::<(usize, usize, &str), Vec<(u64, u64)>>::new();
    for round in 0..12 * ROUNDS {
        for (number, way) in ways.iter().enumerate() {
            let members = if round < 10 * ROUNDS { 1 } else { AT_ONCE };
            let bindings: Vec<Netns> = (0..members).flat_map(|_| bed.ground.namespaces::<1>()).collect();
            for (place, binding) in bindings.iter().enumerate() {
                let near = format!("veth-{place}");
                let ends = ((&room, near.as_str(), links::MAC_A), (binding, "eth0", links::MAC_B));
                links::veth(&on_room, ends.0, ends.1).await.expect("veth");
            }
            let attach = async {
                for place in 0..members {
                    let (Some(method), near) = (way, links::ifname(&format!("veth-{place}"))) else { return };
                    bed.network.attach_by(*method, &room, &near, Hook::FromMember).await.expect("attached");
                }
            };
            figures.entry((members, number, "attach")).or_default().push(others.beside(attach).await);
            let end = async {
                drop(bindings);
                let are_gone = async || links::names(&on_room).await.iter().all(|name| !name.starts_with("veth-"));
                until("all have ended", are_gone).await;
            };
            figures.entry((members, number, "end")).or_default().push(others.beside(end).await);
        }
    }
    for ((members, way, what), figures) in figures {
        let (own, other) =
            (median(figures.iter().map(|(own, _)| *own)), median(figures.iter().map(|(_, other)| *other)));
        let longest = figures.iter().map(|(_, other)| other).max().expect("rounds");
        println!("{members} {what} by {:?}: {own} us, a link elsewhere {other} us, at most {longest} us", ways[way]);
    }
}

/// Another namespace, where a link is set all the time.
struct Others {
    longest: Arc<AtomicU64>,
    setting: JoinHandle<()>,
}

impl Others {
    fn start(links: Links) -> Self {
        let longest = Arc::<AtomicU64>::default();
        let noted = Arc::clone(&longest);
        let setting = tokio::spawn(async move {
            for mtu in [1500, 1400].into_iter().cycle() {
                let started = Instant::now();
                links.set_mtu(LOOPBACK, mtu).await.expect("set");
                noted.fetch_max(micros(started), Ordering::Relaxed);
            }
        });
        Self { longest, setting }
    }

    /// How long something takes, and the longest that a link waited meanwhile, in microseconds.
    async fn beside(&self, what: impl Future<Output = ()>) -> (u64, u64) {
        // What came before is over.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.longest.store(0, Ordering::Relaxed);
        let started = Instant::now();
        what.await;
        let own = micros(started);
        tokio::time::sleep(Duration::from_millis(1)).await;
        (own, self.longest.load(Ordering::Relaxed))
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.setting.abort();
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).expect("short")
}

fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> T {
    let mut sorted: Vec<T> = values.collect();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// Two namespaces and a veth.
struct Bare {
    one: Netns,
    two: Netns,
    _ground: Ground,
}

impl Bare {
    async fn new() -> Self {
        let ground = Ground::join();
        let [one, two] = ground.namespaces();
        let [on_one, _] = links::sockets([&one, &two]).await;
        links::veth(&on_one, (&one, "eth0", links::MAC_A), (&two, "eth0", links::MAC_B)).await.expect("veth");
        run_in(&one, "ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up");
        run_in(&two, "ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up");
        Self { one, two, _ground: ground }
    }

    fn sockets(&self) -> [UdpSocket; 2] {
        [(&self.one, "192.0.2.1:9000"), (&self.two, "192.0.2.2:9000")].map(|(netns, address)| {
            netns.run_blocking(move || UdpSocket::bind(address)).expect("thread").expect("bind")
        })
    }
}

fn flood(one: &UdpSocket, two: &UdpSocket) -> u64 {
    let (sender, receiver) = (one.try_clone().expect("socket"), two.try_clone().expect("socket"));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let sending = std::thread::spawn(move || {
        pin_to(0);
        while !stopped.load(Ordering::Relaxed) {
            let _ = sender.send(&[7; 1300]);
        }
    });
    pin_to(1);
    let mut buffer = [0; 2000];
    let started = Instant::now();
    let mut received = 0;
    while started.elapsed() < Duration::from_millis(700) {
        received += u64::from(receiver.recv(&mut buffer).is_ok());
    }
    stop.store(true, Ordering::Relaxed);
    sending.join().expect("sender");
    while receiver.recv(&mut buffer).is_ok() {}
    received
}

fn ping_pong(one: &UdpSocket, two: &UdpSocket) -> u128 {
    let echo = two.try_clone().expect("socket");
    let echoing = std::thread::spawn(move || {
        pin_to(0);
        let mut buffer = [0; 100];
        while let Ok(bytes) = echo.recv(&mut buffer) {
            let _ = echo.send(&buffer[..bytes]);
        }
    });
    pin_to(0);
    let mut buffer = [0; 100];
    let mut rounds: Vec<u128> = (0..10_000)
        .map(|_| {
            let started = Instant::now();
            one.send(&[7; 64]).expect("send");
            one.recv(&mut buffer).expect("echo");
            started.elapsed().as_nanos()
        })
        .collect();
    echoing.join().expect("echo");
    rounds.sort_unstable();
    rounds[rounds.len() / 2] / 2
}

fn pin_to(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("affinity");
}
