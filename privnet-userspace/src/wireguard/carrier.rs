//! The end of a userspace device that is the carrier's: the UDP socket in the binding netns. It was bound before it came here
//! and is the only one there ever is. With offloads, one call sends or receives up to 64 datagrams.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::datagrams::{Datagrams, Run};
use super::offload::Offloads;

/// The largest datagram of IPv4, and of what is received as one.
const MOST_OCTETS: usize = 65_535;

/// The carrier's end.
pub(super) struct Carrier {
    socket: UdpSocket,
    /// Whether several datagrams are sent in one call, until a device on the way refuses it.
    sends_several: bool,
    received: Vec<u8>,
    control: Vec<u8>,
}

/// Datagrams of one source that were received in one call.
pub(super) struct Received<'a> {
    /// Where they came from.
    pub(super) source: SocketAddr,
    octets: &'a [u8],
    segment: usize,
}

impl<'a> Received<'a> {
    /// Each of them, in order.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.octets.chunks(self.segment.max(1))
    }
}

impl Carrier {
    /// Wraps a bound socket; needs a runtime.
    pub(super) fn new(socket: std::net::UdpSocket, offloads: Offloads) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        if offloads.udp {
            setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
        }
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            sends_several: offloads.udp,
            received: vec![0; MOST_OCTETS],
            control: nix::cmsg_space!(i32),
        })
    }

    /// Its port.
    pub(super) fn port(&self) -> io::Result<u16> {
        self.socket.local_addr().map(|address| address.port())
    }

    /// Returns when there may be something to receive.
    pub(super) async fn is_readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Receives datagrams of one source; nothing when there are none left.
    ///
    /// # Errors
    /// What a network error left on the socket concerns one datagram; the socket lives on.
    pub(super) fn receive(&mut self) -> io::Result<Option<Received<'_>>> {
        let socket = self.socket.as_raw_fd();
        let (received, control) = (&mut self.received, &mut self.control);
        let receive = || {
            let mut parts = [IoSliceMut::new(received)];
            let message = recvmsg::<SockaddrStorage>(socket, &mut parts, Some(control), MsgFlags::empty())?;
            let segment = message.cmsgs()?.find_map(|control| {
                let ControlMessageOwned::UdpGroSegments(octets) = control else { return None };
                usize::try_from(octets).ok()
            });
            let source = message.address.and_then(|address| address.as_sockaddr_in().copied());
            Ok((message.bytes, segment.unwrap_or(message.bytes), source))
        };
        match self.socket.try_io(Interest::READABLE, receive) {
            Ok((octets, segment, source)) => {
                let source = source.ok_or_else(|| io::Error::other("a datagram without a source"))?;
                let source = SocketAddr::V4(source.into());
                Ok(Some(Received { source, octets: &self.received[..octets], segment }))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns when there may be room for more.
    pub(super) async fn is_writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// Sends what waits, as far as there is room. One that cannot be sent is lost as on any link; those behind it are sent.
    pub(super) fn send(&mut self, datagrams: &mut Datagrams) {
        while let Some((run, octets)) = datagrams.first() {
            let is_several = self.sends_several && run.is_several();
            let (octets, result) = if is_several {
                (octets.len(), self.send_several(run, octets))
            } else {
                let one = &octets[..octets.len().min(run.segment)];
                (one.len(), self.socket.try_send_to(one, run.destination).map(drop))
            };
            let Err(error) = result else {
                datagrams.is_sent(octets);
                continue;
            };
            match Errno::from_io_error(&error) {
                _ if error.kind() == io::ErrorKind::WouldBlock => return,
                // No device on the way completes the checksums (`udp_send_skb` of net/ipv4/udp.c).
                Some(Errno::IO) if is_several => self.sends_several = false,
                // They are too large for the interface: EINVAL, and EMSGSIZE since "udp: gso: do not drop small packets when
                // PMTU reduces", which stable kernels have too.
                Some(Errno::INVAL | Errno::MSGSIZE) if is_several => datagrams.split_first(),
                _ => datagrams.is_sent(octets),
            }
        }
    }

    /// Finds the socket full.
    #[cfg(test)]
    pub(super) fn is_full(&self) {
        let full = || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into());
        self.socket.try_io(Interest::WRITABLE, full).expect_err("full");
    }

    fn send_several(&self, run: &Run, octets: &[u8]) -> io::Result<()> {
        let segment = u16::try_from(run.segment).map_err(io::Error::other)?;
        let destination = SockaddrStorage::from(run.destination);
        let send = || {
            let parts = [IoSlice::new(octets)];
            let control = [ControlMessage::UdpGsoSegments(&segment)];
            Ok(sendmsg(self.socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&destination))?)
        };
        self.socket.try_io(Interest::WRITABLE, send).map(drop)
    }
}
