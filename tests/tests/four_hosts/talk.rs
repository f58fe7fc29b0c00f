//! Datagrams between containers: each says whom it is for, the reader says whether it was, and the sender when none was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use privnet::agent::config::wireguard_dir;
use privnet::dns::{DEFAULT_ADDRESS, PORT as DNS, stub};
use privnet::model::NetworkId;
use privnet::wireguard::Device;
use privnet_tests::lab::{Host, Space, runtime, say};

const PORT: u16 = 7000;
/// How long a sender waits for an answer, and then for the next datagram.
const PATIENCE: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(15);
const TICK: Duration = Duration::from_millis(50);

/// From when on a datagram that is not answered is worth a line.
const LONG: Duration = Duration::from_secs(2);

/// What the host of a sender knows of an address.
pub type Look = Box<dyn Fn(Ipv4Addr) -> String + Send>;

/// What the WireGuard of a member of `host` knows of an address, and what the host's status says.
pub fn look_of(host: &Host, network: NetworkId, own: Ipv4Addr) -> Look {
    let dir = wireguard_dir(&host.paths().state, network, own);
    let (device, agent) = (Device::userspace(&dir), host.cli());
    Box::new(move |to| {
        let seen = runtime().block_on(device.observe());
        let peers = seen.map(|seen| seen.map(|seen| seen.peers).unwrap_or_default()).unwrap_or_default();
        let at = peers.values().filter(|peer| peer.endpoint.is_some_and(|endpoint| endpoint.ip() == to));
        let status = agent.output(&["status"]);
        format!("{:?}; {}", at.collect::<Vec<_>>(), String::from_utf8_lossy(&status.stdout).replace('\n', " | "))
    })
}

/// A container that reads and writes datagrams: its number among all of them.
pub type Number = usize;

/// What is known of all datagrams.
#[derive(Clone, Default)]
pub struct Talk(Arc<Shared>);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    read: AtomicU64,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    /// Datagrams that came to another one than they were for.
    misdirected: Vec<String>,
    /// Until when nothing is expected of two containers, by sender and reader; one that is absent may not be expected at all.
    expected_since: BTreeMap<(Number, Number), Instant>,
    /// Since when the datagrams of a sender to a reader, whose name was answered, were not.
    unanswered_since: BTreeMap<(Number, Number), Instant>,
    /// The pairs of which it was said that they are not answered.
    said: BTreeSet<(Number, Number)>,
    /// The longest time that a datagram which had to be answered was not.
    longest: Duration,
    longest_of: String,
}

/// The threads of one container.
pub struct Threads(Vec<JoinHandle<()>>);

impl Talk {
    /// Reads what comes to a container, until the talk ends.
    pub fn read(&self, space: &Space, name: &str) -> Threads {
        let socket = space.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).expect("a port");
        socket.set_read_timeout(Some(TICK)).expect("a timeout");
        let (talk, name) = (self.clone(), name.to_owned());
        Threads(vec![thread::spawn(move || talk.read_all(&socket, &name))])
    }

    /// Writes from a container to all others in turn, by their names, until the talk ends.
    ///
    /// Of one that is not answered for long, `look` says what its host knows of the address.
    pub fn write(&self, space: &Space, sender: Number, names: Vec<(Number, String)>, look: Look) -> Threads {
        let (talk, space) = (self.clone(), space.clone());
        Threads(vec![thread::spawn(move || space.inside(move || talk.write_all(sender, &names, &look)))])
    }

    /// What is expected from now on: since when datagrams of which senders to which readers are to be answered.
    pub fn expect(&self, expected_since: impl Fn(Number, Number) -> Option<Instant>, all: std::ops::Range<Number>) {
        let mut book = self.book();
        for sender in all.clone() {
            for reader in all.clone() {
                if let Some(since) = expected_since(sender, reader) {
                    book.expected_since.entry((sender, reader)).or_insert(since);
                } else {
                    book.expected_since.remove(&(sender, reader));
                }
            }
        }
    }

    /// Nothing is expected of a container until it is said again.
    pub fn expect_nothing_of(&self, reader: Number) {
        self.book().expected_since.retain(|(_, of), _| *of != reader);
    }

    /// Whether every datagram that has to be answered is.
    pub fn all_are_answered(&self) -> bool {
        let book = self.book();
        book.expected_since.keys().all(|pair| !book.unanswered_since.contains_key(pair))
    }

    /// How many were read, which ones by another than they were for, and the longest time that one was not answered.
    pub fn close(&self, threads: Vec<Threads>) -> (u64, Vec<String>, Duration, String) {
        self.0.stop.store(true, Ordering::Relaxed);
        for thread in threads.into_iter().flat_map(|held| held.0) {
            thread.join().expect("a thread of the talk");
        }
        let mut book = self.book();
        let (misdirected, longest_of) = (std::mem::take(&mut book.misdirected), std::mem::take(&mut book.longest_of));
        (self.0.read.load(Ordering::Relaxed), misdirected, book.longest, longest_of)
    }

    fn read_all(&self, socket: &UdpSocket, name: &str) {
        let mut datagram = [0; 512];
        while !self.is_closed() {
            let Ok((length, from)) = socket.recv_from(&mut datagram) else { continue };
            let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
            self.0.read.fetch_add(1, Ordering::Relaxed);
            if text.split('|').next() != Some(name) {
                self.book().misdirected.push(format!("{text} came to {name} from {from}"));
            }
            let _ = socket.send_to(&datagram[..length], from);
        }
    }

    fn write_all(&self, sender: Number, names: &[(Number, String)], look: &Look) {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut number = 0_u64;
        for (reader, name) in names.iter().cycle() {
            if self.is_closed() {
                return;
            }
            let asked = Instant::now();
            let answer = stub::ask(SocketAddrV4::new(DEFAULT_ADDRESS, DNS), name, PATIENCE);
            let address = answer.ok().and_then(|heard| heard.addresses.first().map(|(address, _)| *address));
            if let Some(address) = address {
                number += 1;
                let datagram = format!("{name}|{sender}|{number}");
                let is_answered = ask(&socket, (address, PORT), datagram.as_bytes());
                if let Some(lasted) = self.note((sender, *reader), name, asked, is_answered) {
                    let seen = look(address);
                    say(&format!("container {sender} has not reached {name} at {address} for {lasted:?}: {seen}"));
                }
            } else {
                self.book().unanswered_since.remove(&(sender, *reader));
            }
            thread::sleep(PAUSE);
        }
    }

    /// For how long a datagram that has to be answered was not, where that is long and was not said yet.
    fn note(&self, pair: (Number, Number), name: &str, asked: Instant, is_answered: bool) -> Option<Duration> {
        let mut book = self.book();
        let since = *book.unanswered_since.entry(pair).or_insert(asked);
        if is_answered {
            book.unanswered_since.remove(&pair);
        }
        // One that is answered at once was never waited for.
        let expected = book.expected_since.get(&pair).filter(|_| !is_answered || since < asked)?;
        let lasted = since.max(*expected).elapsed();
        if lasted > book.longest {
            book.longest = lasted;
            book.longest_of = format!("from container {} to {name}", pair.0);
        }
        if is_answered {
            book.said.remove(&pair);
        }
        (lasted > LONG && !is_answered && book.said.insert(pair)).then_some(lasted)
    }

    fn is_closed(&self) -> bool {
        self.0.stop.load(Ordering::Relaxed)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a datagram comes back in time.
fn ask(socket: &UdpSocket, to: (Ipv4Addr, u16), datagram: &[u8]) -> bool {
    if socket.send_to(datagram, to).is_err() {
        thread::sleep(PATIENCE / 10);
        return false;
    }
    let (begun, mut answer) = (Instant::now(), [0; 512]);
    while begun.elapsed() < PATIENCE {
        match socket.recv(&mut answer) {
            Ok(length) if answer[..length] == *datagram => return true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(_) => thread::sleep(PAUSE),
        }
    }
    false
}
