//! Handshakes by the ten thousand, at a member that others need.
//!
//! ```text
//!  flooder ── binding ═▶ 148 bytes of type 1 ─┐
//!  client ─── wg0 ── a session ───────────────┼─▶ binding: WireGuard of victim ── app
//!  late ───── wg0 ── a handshake of its own ──┘
//! ```
//!
//! Without the first MAC, which needs the victim's public key, and every member of its network knows that key,
//! WireGuard drops an initiation for the price of a hash. With it, the next step is a Diffie-Hellman, unless WireGuard is
//! under load and asks for the proof of an address first: a cookie (the WireGuard paper, sections 5.3 and 5.4.4).

mod attacker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use attacker::{datagram, forge};
use blake2::digest::consts::U16;
use blake2::digest::{Digest, Mac};
use blake2::{Blake2s256, Blake2sMac};
use privnet::model::PublicKey;
use privnet::wireguard::{Support, kernel_support};
use privnet_tests::lab::probe::{PATIENCE, Server, Stream, ask_udp};
use privnet_tests::lab::wait::holds_within;
use privnet_tests::lab::{FOR_NOTHING, Host, Joined, Lab, Options, SOON, Sender, Sniffer, say, wait_until};

const SUBNET: &str = "10.90.0.0/24";
const PORT: u16 = 7000;
/// A handshake initiation has this many bytes and begins with a 1; its first MAC is of all that is before it.
const INITIATION_BYTES: usize = 148;
const BEFORE_MAC1: usize = 116;
const BEFORE_MAC2: usize = BEFORE_MAC1 + 16;
/// Ethernet, IPv4 and UDP.
const HEADERS_BYTES: usize = 42;

#[test]
fn a_flood_of_handshakes_starves_nobody() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("a_flood_of_handshakes_starves_nobody");
        withstand(&lab, &options, false);
        lab.finish();
    }
}

#[test]
fn a_flood_of_handshakes_that_know_the_victims_key_starves_nobody() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("a_flood_of_handshakes_that_know_the_victims_key_starves_nobody");
        withstand(&lab, &options, true);
        lab.finish();
    }
}

/// Floods a member, with its key or without, while other members talk and a new one is attached.
fn withstand(lab: &Lab, options: &Options, knows_the_key: bool) {
    let host = lab.host(options);
    let network = host.network("shop", SUBNET);
    let [flooder, victim] = ["flooder-1", "victim-1"].map(|name| lab.member(&host, &network, name));
    let at_victim = Sniffer::start(&victim.binding);
    let client = lab.member(&host, &network, "client-1");
    let _server = Server::echo(&victim.app, PORT);
    let answered = || ask_udp(&client.app, (victim.address(), PORT), b"are you there", PATIENCE).is_ok();
    wait_until("client reaches victim", answered);
    let key = key_of(&host, &victim);
    let genuine = initiation_to(&at_victim, &victim).expect("the client's handshake, or the victim's answer to it");
    let (before, mac1) = (&genuine[..BEFORE_MAC1], &genuine[BEFORE_MAC1..BEFORE_MAC2]);
    assert_eq!(mac1_of(key, before), mac1, "the flood's MAC is made as an honest member makes it");

    let talk = Stream::start(&client.app, (victim.address(), PORT), Duration::from_millis(10));
    let flood = Flood::start(&flooder, &victim, knows_the_key.then_some(key));
    wait_until("the flood is on", || flood.sent() > 500);
    for round in 0..20 {
        let (sent, heard) = (flood.sent(), talk.answered());
        assert!(holds_within(SOON, answered), "round {round}: nobody answered");
        wait_until("the session goes on", || talk.answered() > heard);
        wait_until("the flood goes on", || flood.sent() > sent);
    }
    // The kernel asks for it when its queue is long, which depends on the machine; the userspace one when more than some
    // hundred initiations came from one address within a second.
    if let Support::Missing { .. } = kernel_support() {
        let asked_for_proof = || cookies_to(&at_victim, &flooder) > 0;
        assert_eq!(holds_within(if knows_the_key { SOON } else { FOR_NOTHING }, asked_for_proof), knows_the_key);
    }
    // A new member needs a handshake of its own, in the middle of all the others.
    let late = lab.member(&host, &network, "late-1");
    assert!(holds_within(SOON, || late.pings(victim.address())), "a new member finds no way in");
    assert!(flood.goes_on(), "all this was while it went on");
    say(&format!("{} forged handshakes, {} cookies", flood.sent(), cookies_to(&at_victim, &flooder)));
    drop(flood);
    let (asked, lost) = talk.finish();
    say(&format!("{} of {asked} datagrams of an established session were lost meanwhile", lost.len()));
    let next = lab.member(&host, &network, "next-1");
    assert!(holds_within(SOON, || next.pings(victim.address())), "after it, too, a new member is let in");
    assert!(holds_within(SOON, || flooder.pings(victim.address())), "the flooder itself is not shut out for ever");
}

fn key_of(host: &Host, member: &Joined) -> PublicKey {
    let views = host.members().expect("members");
    views.into_iter().find(|view| view.member.address == member.address()).expect("it is one").public_key
}

/// `MAC(HASH("mac1----" || responder's public key), what is before it)`: BLAKE2s, keyed for the MAC.
fn mac1_of(responder: PublicKey, before: &[u8]) -> Vec<u8> {
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(responder.bytes()).finalize();
    let mac = <Blake2sMac<U16> as Mac>::new_from_slice(&key).expect("32 bytes are a key");
    mac.chain_update(before).finalize().into_bytes().to_vec()
}

/// A genuine handshake initiation that a member's binding netns received.
fn initiation_to(sniffer: &Sniffer, member: &Joined) -> Option<Vec<u8>> {
    let to = member.address().octets();
    let frames = sniffer.seen().into_iter().filter(|seen| !seen.outgoing && seen.bytes.get(30..34) == Some(&to));
    let mut messages = frames.filter_map(|seen| seen.bytes.get(HEADERS_BYTES..).map(<[u8]>::to_vec));
    messages.find(|message| message.len() == INITIATION_BYTES && message[0] == 1)
}

/// How many cookies were sent to a member: messages of type 3, of 64 bytes.
fn cookies_to(sniffer: &Sniffer, member: &Joined) -> usize {
    let to = member.address().octets();
    let is_cookie =
        |bytes: &[u8]| bytes.get(30..34) == Some(&to) && bytes.len() == HEADERS_BYTES + 64 && bytes[HEADERS_BYTES] == 3;
    sniffer.seen().iter().filter(|seen| seen.outgoing && is_cookie(&seen.bytes)).count()
}

/// Handshake initiations of no key, from one member's carrier to another's WireGuard port, until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Flood {
    /// With the receiver's key, each has a first MAC that the receiver must take for right.
    fn start(from: &Joined, to: &Joined, key: Option<PublicKey>) -> Self {
        let honest = datagram(from, to);
        let sender = Sender::open(&from.binding, &from.carrier());
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let frame = forge(&honest, |f| f.payload = initiation(key));
                if sender.send(&frame).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                // Ten thousand a second are enough to show it, and leave a machine of two cores to the others.
                thread::sleep(Duration::from_micros(50));
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn goes_on(&self) -> bool {
        let sent = self.sent();
        holds_within(SOON, || self.sent() > sent)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Noise in the form of an initiation.
fn initiation(key: Option<PublicKey>) -> Vec<u8> {
    let mut message = rand::random::<[[u8; 4]; INITIATION_BYTES / 4]>().concat();
    message[..4].copy_from_slice(&[1, 0, 0, 0]);
    if let Some(key) = key {
        let mac1 = mac1_of(key, &message[..BEFORE_MAC1]);
        message[BEFORE_MAC1..BEFORE_MAC2].copy_from_slice(&mac1);
        message[BEFORE_MAC2..].fill(0);
    }
    message
}
