//! The wire between the machines: a hub that hands every frame on, and looks into each.
//!
//! A machine's card is a pair of datagram sockets (QEMU's `-netdev dgram`), a datagram a frame: `card-<n>` is the machine's,
//! `port-<n>` the hub's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::watch::holds;
use super::{CANARY, IN_CLEAR};

/// How often a thread looks whether it shall end.
const TICK: Duration = Duration::from_millis(50);
/// IANA's port of VXLAN.
const VXLAN: u16 = 4789;
/// Ethernet, IPv4 without options, UDP, VXLAN: what is around the frame of a member.
const AROUND: usize = 14 + 20 + 8 + 8;

/// The hub. Its threads end when it is dropped.
pub struct Underlay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the underlay saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames of VXLAN.
    pub carrier: u64,
    /// How many frames of a machine hold a word, by the word and the machine's number.
    pub words: BTreeMap<(&'static str, usize), u64>,
    /// Frames of VXLAN with a refusal inside: an ICMP error that quotes a message of WireGuard, as far as 576 bytes reach.
    pub refusals: u64,
    /// Frames of VXLAN with something else inside than these, in hexadecimal.
    pub strange: Vec<String>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    wire: Mutex<Wire>,
}

#[derive(Default)]
struct Wire {
    seen: Seen,
    /// Pairs of machines without a link, the lower number first.
    cut: BTreeSet<(usize, usize)>,
    delay: Duration,
}

/// A frame on its way.
struct Frame {
    due: Instant,
    bytes: Vec<u8>,
}

impl Underlay {
    /// Joins machines 1 to `count`, whose sockets are in `folder`.
    pub(super) fn between(folder: &Path, count: usize) -> Self {
        let shared = Arc::<Shared>::default();
        let mut threads = Vec::new();
        let mut cards = BTreeMap::new();
        for number in 1..=count {
            let (sender, frames) = mpsc::channel();
            let (card, shared) = (folder.join(format!("card-{number}")), Arc::clone(&shared));
            threads.push(thread::spawn(move || deliver(&card, &frames, &shared)));
            cards.insert(number, sender);
        }
        for number in 1..=count {
            let path = folder.join(format!("port-{number}"));
            let _ = fs::remove_file(&path);
            let socket = UnixDatagram::bind(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            socket.set_read_timeout(Some(TICK)).expect("a timeout");
            let (shared, cards) = (Arc::clone(&shared), cards.clone());
            threads.push(thread::spawn(move || receive(&socket, number, &shared, &cards)));
        }
        Self { shared, threads }
    }

    /// All that was seen until now.
    ///
    /// # Panics
    /// When a thread of the hub has ended: it saw no more.
    #[must_use]
    pub fn seen(&self) -> Seen {
        assert!(!self.threads.iter().any(JoinHandle::is_finished), "the underlay is out of order");
        self.shared.lock().seen.clone()
    }

    /// Forgets the words, which were heard and told of.
    pub(super) fn forget(&self) {
        self.shared.lock().seen.words.clear();
    }

    /// Cuts the link between two machines.
    pub fn cut(&self, one: usize, other: usize) {
        self.shared.lock().cut.insert(pair(one, other));
    }

    /// Mends it.
    pub fn mend(&self, one: usize, other: usize) {
        self.shared.lock().cut.remove(&pair(one, other));
    }

    /// How long each frame is on its way from now on.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }
}

impl Drop for Underlay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

/// Takes the frames of one machine, looks into them, and sends them on their way to every other one.
fn receive(socket: &UnixDatagram, from: usize, shared: &Shared, cards: &BTreeMap<usize, Sender<Frame>>) {
    let mut buffer = vec![0; 1 << 16];
    while !shared.is_over() {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let bytes = &buffer[..length];
        let mut wire = shared.lock();
        look(bytes, from, &mut wire.seen);
        let due = Instant::now() + wire.delay;
        for (_, card) in cards.iter().filter(|(to, _)| **to != from && !wire.cut.contains(&pair(from, **to))) {
            let _ = card.send(Frame { due, bytes: bytes.to_vec() });
        }
    }
}

/// Hands one machine its frames in the order in which they came; a delay that is lowered takes effect when the last of the
/// old ones left. A machine that does not run for a while loses none: a busy machine would be taken for a fault of privnet's.
fn deliver(card: &Path, frames: &Receiver<Frame>, shared: &Shared) {
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.set_write_timeout(Some(TICK)).expect("a timeout");
    while !shared.is_over() {
        let Ok(frame) = frames.recv_timeout(TICK) else { continue };
        thread::sleep(frame.due.saturating_duration_since(Instant::now()));
        while let Err(error) = socket.send_to(&frame.bytes, card) {
            // A card that is being reset has no socket.
            let is_absent = [ErrorKind::ConnectionRefused, ErrorKind::NotFound].contains(&error.kind());
            assert!(is_absent || error.kind() == ErrorKind::WouldBlock, "{}: {error}", card.display());
            if is_absent || shared.is_over() {
                break;
            }
        }
    }
}

fn look(frame: &[u8], from: usize, seen: &mut Seen) {
    for word in [CANARY, IN_CLEAR].into_iter().filter(|word| holds(frame, word)) {
        *seen.words.entry((word, from)).or_default() += 1;
    }
    if is_vxlan(frame) {
        seen.carrier += 1;
        let inside = frame.get(AROUND..).unwrap_or_default();
        if is_refusal(inside) {
            seen.refusals += 1;
        } else if !is_wireguard(inside) {
            seen.strange.push(frame.iter().map(|byte| format!("{byte:02x}")).collect());
        }
    }
}

/// Ethernet, IPv4 without options, UDP to the port of VXLAN.
fn is_vxlan(frame: &[u8]) -> bool {
    let port = frame.get(36..38).map(|port| u16::from_be_bytes([port[0], port[1]]));
    frame.get(12..15) == Some(&[0x08, 0x00, 0x45]) && frame.get(23) == Some(&17) && port == Some(VXLAN)
}

/// Ethernet, IPv4 without options, UDP, and a message of WireGuard: its type, 1 to 4, and three zeros.
fn is_wireguard(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x00]) && frame.get(14..).is_some_and(is_wireguard_packet)
}

/// IPv4 without options, UDP, and that message.
fn is_wireguard_packet(packet: &[u8]) -> bool {
    let message = packet.get(28..32);
    packet.first() == Some(&0x45)
        && packet.get(9) == Some(&17)
        && message.is_some_and(|message| (1..=4).contains(&message[0]) && message[1..] == [0, 0, 0])
}

/// Ethernet, IPv4 without options, ICMP "destination unreachable", and the packet that it refuses.
fn is_refusal(frame: &[u8]) -> bool {
    frame.get(12..15) == Some(&[0x08, 0x00, 0x45])
        && frame.get(23) == Some(&1)
        && frame.get(34) == Some(&3)
        && frame.get(42..).is_some_and(is_wireguard_packet)
}
