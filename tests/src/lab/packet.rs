//! Packet sockets: a sniffer that sees a whole namespace, and a sender that sends any frame.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recv, recvmsg, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use super::space::Space;

/// A frame that was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The index of the interface, in the sniffer's namespace.
    pub ifindex: u64,
    /// Whether the namespace sent it; received otherwise.
    pub outgoing: bool,
    /// Its bytes, from the Ethernet header on (from the IP header on where an interface has none).
    pub bytes: Vec<u8>,
}

/// Sees every frame on every interface of a namespace, both ways, from its start to its end.
pub struct Sniffer {
    label: String,
    socket: Arc<OwnedFd>,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Starts: whatever passes after this returned is seen.
    ///
    /// # Panics
    /// Without `CAP_NET_RAW`.
    #[must_use]
    pub fn start(space: &Space) -> Self {
        let socket = Arc::new(space.inside(open).expect("a packet socket"));
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (from, into, until) = (Arc::clone(&socket), Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || collect(&from, &into, &until));
        Self { label: space.pin().to_owned(), socket, seen, stop, thread: Some(thread) }
    }

    /// All that was seen until now.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    /// How many frames hold `needle`.
    #[must_use]
    pub fn count(&self, needle: &[u8]) -> usize {
        self.lock().iter().filter(|frame| holds(&frame.bytes, needle)).count()
    }

    /// How many frames that one interface received or sent hold `needle`.
    #[must_use]
    pub fn count_on(&self, ifindex: u64, needle: &[u8]) -> usize {
        self.lock().iter().filter(|frame| frame.ifindex == ifindex && holds(&frame.bytes, needle)).count()
    }

    /// How many frames were seen.
    #[must_use]
    pub fn total(&self) -> usize {
        self.lock().len()
    }

    /// The namespace that it listens in.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// All that has passed, also what was not collected yet: the kernel queues a frame while it passes.
    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        drain(&self.socket, &mut seen);
        seen
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends frames as they are out of one interface of a namespace, which it keeps alive.
pub struct Sender {
    socket: OwnedFd,
    address: LinkAddr,
}

impl Sender {
    /// Opens a socket that receives nothing.
    ///
    /// # Panics
    /// When there is no such interface.
    #[must_use]
    #[track_caller]
    pub fn open(space: &Space, interface: &str) -> Self {
        let name = interface.to_owned();
        let opened = space.inside(move || {
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            nix::Result::Ok(Self { socket, address: link_address(&name)? })
        });
        opened.unwrap_or_else(|error| panic!("{interface} of {}: {error}", space.pin()))
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The kernel's: the interface is gone or down, the frame longer than its MTU or shorter than a header.
    pub fn send(&self, frame: &[u8]) -> nix::Result<usize> {
        sendto(self.socket.as_raw_fd(), frame, &self.address, MsgFlags::empty())
    }
}

/// Sends a frame as it is out of an interface of a namespace.
///
/// # Panics
/// When there is no such interface, or it is down.
#[track_caller]
pub fn send_frame(space: &Space, interface: &str, frame: &[u8]) {
    let sent = Sender::open(space, interface).send(frame);
    assert_eq!(sent, Ok(frame.len()), "sending on {interface} of {}", space.pin());
}

/// A socket that hears every frame of the calling thread's namespace; reading times out after 20 ms.
///
/// # Errors
/// The kernel's: without `CAP_NET_RAW`.
pub fn open() -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 20_000))?;
    Ok(socket)
}

fn link_address(interface: &str) -> nix::Result<LinkAddr> {
    let mut links = getifaddrs()?.filter(|entry| entry.interface_name == interface);
    links.find_map(|entry| entry.address?.as_link_addr().copied()).ok_or(Errno::ENODEV)
}

fn collect(socket: &OwnedFd, into: &Mutex<Vec<Seen>>, until: &AtomicBool) {
    while !until.load(Ordering::Relaxed) {
        // Until there is something, or the socket's patience ends; the holder of the list takes it from the socket.
        let _ = recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK);
        drain(socket, &mut into.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Takes what the kernel has queued.
fn drain(socket: &OwnedFd, into: &mut Vec<Seen>) {
    const OUTGOING: u8 = 4; // PACKET_OUTGOING, include/uapi/linux/if_packet.h
    let mut buffer = vec![0; 1 << 16];
    loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT) {
            Ok(message) => {
                let Some(address) = message.address else { continue };
                let length = message.bytes;
                let (ifindex, outgoing) = (address.ifindex() as u64, address.pkttype() == OUTGOING);
                into.push(Seen { ifindex, outgoing, bytes: buffer[..length].to_vec() });
            }
            // An interface that goes down is told to the socket once, as an error.
            Err(Errno::ENETDOWN | Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}
