//! The two ends of a userspace device: the TUN link in the app netns and the UDP socket in the binding netns.
//!
//! Both arrive as open files that were made in their namespaces, so nothing here enters one. IPv4 only: whatever else
//! the app sends is dropped here.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use gotatun::udp::{UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;

use super::predecessor::Predecessor;
use crate::companion::watch;

/// Most packets taken from the kernel in one go: enough to save wake-ups, few enough to let the other tasks run.
const BATCH: usize = 64;
/// What WireGuard adds to a packet, rounded up: header 16, authentication tag 16, padding to 16 (white paper 5.4.6).
const OVERHEAD_BYTES: usize = 48;
/// How long to wait after a receive error that was not "nothing there", so that a lasting one does not spin.
const RECEIVE_ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Wraps what `tun::create` made into the device's way out and way in; needs a runtime.
pub(super) fn tun(file: OwnedFd, mtu: u16) -> io::Result<(ToApp, FromApp)> {
    let file = Arc::new(watch(file)?);
    Ok((ToApp { file: Arc::clone(&file) }, FromApp { file, mtu, received: Vec::new() }))
}

/// Packets to the app.
pub(super) struct ToApp {
    file: Arc<AsyncFd<OwnedFd>>,
}

impl IpSend for ToApp {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        // Writing to a TUN link hands the packet to the stack at once: it never has to wait.
        match rustix::io::write(self.file.get_ref(), &packet.into_bytes()) {
            Err(Errno::BADFD) => Err(Errno::BADFD.into()),
            // EIO: the link is down. EINVAL: not IP. Both concern this packet alone, which is lost as on any link.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Packets from the app.
pub(super) struct FromApp {
    file: Arc<AsyncFd<OwnedFd>>,
    mtu: u16,
    received: Vec<Packet<Ip>>,
}

impl FromApp {
    /// Reads until a batch is full or nothing is left; true when something may be left.
    fn drain(&mut self, pool: &PacketBufPool) -> io::Result<bool> {
        while self.received.len() < BATCH {
            let mut packet = sized(pool, usize::from(self.mtu));
            match rustix::io::read(self.file.get_ref(), &mut packet[..]) {
                Ok(length) => {
                    packet.truncate(length);
                    if packet.first().is_some_and(|first| first >> 4 == 4)
                        && let Ok(packet) = packet.try_into_ip()
                    {
                        self.received.push(packet);
                    }
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }
}

impl IpRecv for FromApp {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        while self.received.is_empty() {
            let file = Arc::clone(&self.file);
            let mut ready = file.readable().await?;
            if !self.drain(pool)? {
                ready.clear_ready();
            }
        }
        Ok(self.received.drain(..))
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(self.mtu)
    }
}

/// The UDP socket on the carrier. It was bound before it came here and is the only one there ever is.
#[derive(Clone)]
pub(super) struct Carrier {
    socket: Arc<UdpSocket>,
    datagram_bytes: usize,
    predecessor: Arc<Predecessor>,
}

impl Carrier {
    /// Wraps a bound socket; needs a runtime. `mtu` is the TUN link's, in bytes.
    pub(super) fn new(socket: std::net::UdpSocket, mtu: u16, predecessor: Arc<Predecessor>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        Ok(Self { socket, datagram_bytes: usize::from(mtu) + OVERHEAD_BYTES, predecessor })
    }

    fn try_receive(&self, pool: &PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        let mut datagram = sized(pool, self.datagram_bytes);
        let (length, source) = self.socket.try_recv_from(&mut datagram[..])?;
        datagram.truncate(length);
        self.predecessor.look_at(&datagram, source);
        Ok((datagram, source))
    }
}

impl UdpTransportFactory for Carrier {
    type Send = Self;
    type Recv = Self;

    async fn bind(&mut self, _: &UdpTransportFactoryParams) -> io::Result<(Self, Self)> {
        Ok((self.clone(), self.clone()))
    }
}

impl UdpRecv for Carrier {
    type RecvManyBuf = ();

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        loop {
            self.socket.readable().await?;
            match self.try_receive(pool) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // What a network error left on the socket concerns one datagram; the device lives on.
                Err(_) => tokio::time::sleep(RECEIVE_ERROR_PAUSE).await,
                Ok(received) => return Ok(received),
            }
        }
    }

    async fn recv_many_from(
        &mut self,
        (): &mut (),
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        packets.push(self.recv_from(pool).await?);
        while packets.len() < BATCH
            && let Ok(received) = self.try_receive(pool)
        {
            packets.push(received);
        }
        Ok(())
    }
}

impl UdpSend for Carrier {
    type SendManyBuf = ();

    async fn send_to(&self, packet: Packet, destination: SocketAddr) -> io::Result<()> {
        self.socket.send_to(&packet, destination).await.map(drop)
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        BATCH
    }

    async fn send_many_to(&self, (): &mut (), packets: &mut Vec<(Packet, SocketAddr)>) -> io::Result<()> {
        for (packet, destination) in packets.drain(..) {
            // One that cannot be sent is lost as on any link; those behind it are sent.
            let _lost = self.send_to(packet, destination).await;
        }
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.socket.local_addr().map(Some)
    }
}

/// A buffer of at least `bytes`: the pool's are 4096, and jumbo frames are larger.
fn sized(pool: &PacketBufPool, bytes: usize) -> Packet {
    let mut packet = pool.get();
    if packet.len() < bytes {
        packet.buf_mut().resize(bytes, 0);
    }
    packet
}
