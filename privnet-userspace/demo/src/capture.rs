//! Packet sockets: seeing and sending frames inside a namespace, with nothing installed.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, recvfrom, send,
    socket,
};
use privnet::netns::Netns;

use crate::frame::contains;

/// Room for what is captured between two looks; a frame is charged about 1 KB.
const BUFFER_BYTES: usize = 8 << 20;
/// The largest frame: what the kernel has not segmented yet.
const FRAME_BYTES: usize = 1 << 16;
/// `PACKET_OUTGOING` (include/uapi/linux/if_packet.h).
const OUTGOING: u8 = 4;
/// How long nothing is seen before traffic has settled.
const QUIET: Duration = Duration::from_millis(20);
/// How often to look whether something is seen.
const GLANCE: Duration = Duration::from_millis(2);

/// A frame that was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whether the interface sent it; it received it otherwise.
    pub outgoing: bool,
    /// The frame, from the link's header on; from the IP header on where the link has none.
    pub bytes: Vec<u8>,
}

/// Sees every frame that one interface sends and receives, from when it was opened.
pub struct Tap {
    socket: OwnedFd,
    index: usize,
    buffer: Vec<u8>,
    seen: Vec<Seen>,
}

impl Tap {
    /// Opens a tap on an interface.
    ///
    /// The socket is not bound, because links without a hardware address have no address to bind to: it sees the whole
    /// namespace, and what is of other interfaces is left out.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel gives no packet socket.
    pub async fn open(netns: &Netns, interface: &str) -> Result<Self> {
        let name = interface.to_owned();
        let opened = netns.run(move || {
            let index = if_nametoindex(name.as_str())?;
            open().map(|socket| (socket, index as usize))
        });
        let (socket, index) = opened.await?.with_context(|| format!("capturing on {interface} in {}", netns.id()))?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)
            .context("enlarging the buffer of a packet socket")?;
        Ok(Self { socket, index, buffer: vec![0; FRAME_BYTES], seen: Vec::new() })
    }

    /// How many frames were seen until now: what comes later is behind this mark.
    ///
    /// # Errors
    /// When the socket cannot be read.
    pub fn mark(&mut self) -> Result<usize> {
        self.drain()?;
        Ok(self.seen.len())
    }

    /// What was seen behind the mark, up to now.
    ///
    /// # Errors
    /// When the socket cannot be read.
    pub fn since(&mut self, mark: usize) -> Result<&[Seen]> {
        self.drain()?;
        Ok(&self.seen[mark..])
    }

    /// How many frames behind the mark contain `needle`.
    ///
    /// # Errors
    /// When the socket cannot be read.
    pub fn count(&mut self, mark: usize, needle: &[u8]) -> Result<usize> {
        Ok(self.since(mark)?.iter().filter(|seen| contains(&seen.bytes, needle)).count())
    }

    fn drain(&mut self) -> Result<()> {
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut self.buffer) {
                Ok((length, Some(from))) if from.ifindex() == self.index => {
                    let bytes = self.buffer[..length].to_vec();
                    self.seen.push(Seen { outgoing: from.pkttype() == OUTGOING, bytes });
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno).context("reading a packet socket"),
            }
        }
    }
}

/// Returns when none of the taps has seen anything for a moment; at the latest after `bound`.
///
/// # Errors
/// When a socket cannot be read.
pub async fn settle(taps: &mut [&mut Tap], bound: Duration) -> Result<()> {
    let start = tokio::time::Instant::now();
    let mut last = (start, Vec::new());
    while last.0.elapsed() < QUIET && start.elapsed() < bound {
        let marks = taps.iter_mut().map(|tap| tap.mark()).collect::<Result<Vec<_>>>()?;
        if marks != last.1 {
            last = (tokio::time::Instant::now(), marks);
        }
        tokio::time::sleep(GLANCE).await;
    }
    Ok(())
}

/// Sends a frame, as it is, out of an Ethernet interface.
///
/// # Errors
/// When there is no such interface, or the kernel refuses the frame.
pub async fn inject(netns: &Netns, interface: &str, frame: Vec<u8>) -> Result<()> {
    let name = interface.to_owned();
    let sent = netns.run(move || {
        let named = getifaddrs()?.filter(|address| address.interface_name == name);
        // Asked from the kernel and not made up, the address of the link is one that can be bound to.
        let mut links = named.filter_map(|address| address.address.and_then(|found| found.as_link_addr().copied()));
        let Some(link) = links.find(|link| link.family() == Some(AddressFamily::Packet)) else {
            bail!("it has no hardware address");
        };
        let socket = open()?;
        bind(socket.as_raw_fd(), &link)?;
        let length = send(socket.as_raw_fd(), &frame, MsgFlags::empty())?;
        if length < frame.len() {
            bail!("only {length} of {} bytes were sent", frame.len())
        }
        Ok(())
    });
    sent.await?.with_context(|| format!("sending a frame out of {interface} in {}", netns.id()))
}

fn open() -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).context("opening a packet socket")
}
