//! The end of a userspace device that is the app's: the TUN link in the app netns. With offloads one read is a super-packet that
//! is split here, and packets of one flow are written as one. IPv4 only: whatever else the app sends is dropped here.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use gotatun::packet::{Packet, PacketBufPool};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tun_rs::{ExpandBuffer, GROTable, VIRTIO_NET_HDR_LEN, VirtioNetHdr, checksum, gso_split};

use super::offload::Offloads;
use crate::companion::watch;

/// The largest packet of IPv4.
const MOST_OCTETS: usize = 65_535;
/// Octets of a buffer for one packet: enough for an underlay of 1500, and grown for more.
const BUFFER_OCTETS: usize = 2048;
/// Buffers that are kept for the next packets.
const BUFFERS: usize = 128;
/// A buffer that has grown further is not kept: a super-packet's worth of each would be 8 MB.
const KEPT_OCTETS: usize = 16 << 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`, include/uapi/linux/virtio_net.h: the checksum is left to be completed.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_NONE`: no super-packet.
const ONE_PACKET: u8 = 0;
/// What stands in a header that the library has not written. No type of super-packet has this number.
const UNWRITTEN: [u8; VIRTIO_NET_HDR_LEN] = [0xff; VIRTIO_NET_HDR_LEN];

/// The protocol number of TCP, and the octet of its header whose upper half is the header's length in words.
const TCP: u8 = 6;
const TCP_LENGTH: usize = 12;
const UDP_HEADER_OCTETS: usize = 8;

/// Buffers for one packet each.
pub(super) type Pool = PacketBufPool<BUFFER_OCTETS>;

/// Most packets of one super-packet: with the smallest segments of TCP (`TCP_MIN_SND_MSS`, include/net/tcp.h) there are 1,820.
/// A container that writes its own may ask for one octet in each.
const MOST_SEGMENTS: usize = 2048;

/// What a read of the link comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// There was nothing to read.
    Nothing,
    /// Something that is dropped.
    Dropped,
    /// Packets to this address.
    To(Ipv4Addr),
}

/// The app's end.
pub(super) struct App {
    link: AsyncFd<OwnedFd>,
    offloads: Offloads,
    /// Like the buffers and the flows below: made when it is used, and given back at rest.
    pool: Option<Pool>,
    /// What was read last, with its header.
    read: Vec<u8>,
    segments: Vec<Segment>,
    sizes: Vec<usize>,
    /// The first `filled` wait to be written, each behind room for its header.
    waiting: Vec<Waiting>,
    filled: usize,
    flows: Option<GROTable>,
}

impl App {
    /// Wraps what `tun::create` made with these offloads; needs a runtime.
    pub(super) fn new(link: OwnedFd, offloads: Offloads) -> io::Result<Self> {
        Ok(Self {
            link: watch(link)?,
            offloads,
            pool: None,
            read: vec![0; VIRTIO_NET_HDR_LEN + MOST_OCTETS],
            segments: Vec::new(),
            sizes: Vec::new(),
            waiting: Vec::new(),
            filled: 0,
            flows: None,
        })
    }

    /// Gives back what takes memory and is not needed until the next packet.
    pub(super) fn rest(&mut self) {
        (self.pool, self.flows) = (None, None);
        (self.segments, self.sizes) = (Vec::new(), Vec::new());
        if self.filled == 0 {
            self.waiting = Vec::new();
        }
    }

    /// Returns when the link is gone.
    pub(super) async fn is_gone(&self) -> io::Result<()> {
        self.link.ready(Interest::ERROR).await.map(|mut ready| ready.retain_ready())
    }

    /// Returns when there may be something to read.
    pub(super) async fn is_readable(&self) -> io::Result<()> {
        self.link.readable().await.map(|mut ready| ready.retain_ready())
    }

    /// Reads once what the app sent; the packets come behind those that are in `packets`.
    ///
    /// # Errors
    /// EBADFD: the link is gone.
    pub(super) fn read(&mut self, packets: &mut Vec<Packet>) -> io::Result<Read> {
        let read = |link: &OwnedFd| Ok(rustix::io::read(link, &mut self.read[..])?);
        match self.link.try_io(Interest::READABLE, read) {
            Ok(octets) => Ok(self.split(octets, packets).map_or(Read::Dropped, Read::To)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Read::Nothing),
            // EINVAL: a super-packet of a kind that the kernel cannot describe. It is gone.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INTR | Errno::INVAL)) => Ok(Read::Dropped),
            Err(error) => Err(error),
        }
    }

    /// Makes the packets of the first `octets` that were read; nothing when it is not IPv4, or not what the kernel gives out.
    fn split(&mut self, octets: usize, packets: &mut Vec<Packet>) -> Option<Ipv4Addr> {
        let header_octets = if self.offloads.tcp { VIRTIO_NET_HDR_LEN } else { 0 };
        let (header, packet) = self.read.get_mut(..octets)?.split_at_mut_checked(header_octets)?;
        let ip = packet.first_chunk::<20>()?;
        let (version, protocol) = (ip[0] >> 4, ip[9]);
        let destination = Ipv4Addr::new(ip[16], ip[17], ip[18], ip[19]);
        if version != 4 {
            return None;
        }
        let mut header = if header.is_empty() { VirtioNetHdr::default() } else { VirtioNetHdr::decode(header).ok()? };
        let pool = self.pool.get_or_insert_with(|| Pool::new(BUFFERS));
        if header.gso_type == ONE_PACKET {
            if header.flags & NEEDS_CHECKSUM != 0 {
                complete_checksum(packet, header.csum_start.into(), header.csum_offset.into())?;
            }
            packets.push(copy_of(packet, pool));
            return Some(destination);
        }
        // The header's own `hdr_len` may be that of the first packet whole.
        let transport = usize::from(header.csum_start);
        let headers = match protocol {
            TCP => transport + usize::from(packet.get(transport + TCP_LENGTH)? >> 4) * 4,
            _ => transport + UDP_HEADER_OCTETS,
        };
        header.hdr_len = u16::try_from(headers).ok()?;
        let count = packet.len().checked_sub(headers)?.div_ceil(usize::from(header.gso_size).max(1));
        if count > MOST_SEGMENTS {
            return None;
        }
        let most = (headers + usize::from(header.gso_size)).min(packet.len());
        self.segments.extend((0..count).map(|_| Segment(sized(pool, most))));
        self.sizes.resize(count, 0);
        let split = gso_split(packet, header, &mut self.segments, &mut self.sizes, 0, false).ok();
        let split = self.segments.drain(..).zip(&self.sizes).take(split.unwrap_or(0));
        packets.extend(split.map(|(Segment(mut packet), size)| {
            packet.truncate(*size);
            packet
        }));
        Some(destination)
    }

    /// Takes a packet for the app; [`Self::flush`] writes it.
    pub(super) fn push(&mut self, packet: &[u8]) {
        if self.filled == self.waiting.len() {
            self.waiting.push(Waiting(Vec::with_capacity(VIRTIO_NET_HDR_LEN + packet.len())));
        }
        let Waiting(buffer) = &mut self.waiting[self.filled];
        buffer.clear();
        buffer.extend_from_slice(&UNWRITTEN);
        buffer.extend_from_slice(packet);
        self.filled += 1;
    }

    /// How many packets wait to be written.
    pub(super) const fn waiting(&self) -> usize {
        self.filled
    }

    /// Writes what waits: packets that follow each other in one flow as one, as the kernel's GRO would merge them, but for two
    /// things: a datagram without payload may be overtaken by the next of its flow, and a segment that changes nothing but the
    /// window is merged. A packet that the kernel does not take is lost as on
    /// any link: EIO when the link is down, EINVAL when it is not IP.
    ///
    /// # Errors
    /// EBADFD: the link is gone.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let waiting = &mut self.waiting[..self.filled];
        self.filled = 0;
        if let [Waiting(buffer)] = waiting {
            // The header of what is merged with nothing.
            buffer[..VIRTIO_NET_HDR_LEN].fill(0);
        } else if self.offloads.tcp && !waiting.is_empty() {
            let flows = self.flows.get_or_insert_with(GROTable::new);
            // It fails for a buffer without a packet, and for more than 65,535: there are none.
            let _ = flows.apply_gro(waiting, VIRTIO_NET_HDR_LEN, self.offloads.udp);
        }
        for Waiting(buffer) in waiting {
            let written = if self.offloads.tcp {
                // One whose payload stands behind another's keeps the header that it was given here.
                (!buffer.starts_with(&UNWRITTEN)).then_some(&buffer[..])
            } else {
                buffer.get(VIRTIO_NET_HDR_LEN..)
            };
            // A TUN link hands a packet to the stack at once: a write never has to wait.
            if let Some(octets) = written
                && rustix::io::write(self.link.get_ref(), octets) == Err(Errno::BADFD)
            {
                return Err(Errno::BADFD.into());
            }
            if buffer.capacity() > KEPT_OCTETS {
                *buffer = Vec::new();
            }
        }
        self.waiting.truncate(BUFFERS);
        Ok(())
    }

    /// A packet with these octets.
    pub(super) fn packet(&mut self, octets: &[u8]) -> Packet {
        copy_of(octets, self.pool.get_or_insert_with(|| Pool::new(BUFFERS)))
    }
}

fn copy_of(octets: &[u8], pool: &Pool) -> Packet {
    let mut packet = sized(pool, octets.len());
    packet.truncate(octets.len());
    packet.copy_from_slice(octets);
    packet
}

/// A buffer of at least `octets`.
fn sized(pool: &Pool, octets: usize) -> Packet {
    let mut packet = pool.get();
    if packet.len() < octets {
        packet.buf_mut().resize(octets, 0);
    }
    packet
}

/// Completes the checksum of what begins at `start`: at `offset` from there stands the sum of the pseudo header. As
/// `skb_checksum_help` of net/core/dev.c does it. Nothing when the packet is shorter.
fn complete_checksum(packet: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let part = packet.get_mut(start..)?;
    let place = offset..offset + 2;
    let pseudo = u16::from_be_bytes(part.get(place.clone())?.try_into().ok()?);
    part[place.clone()].fill(0);
    let sum = match !checksum(part, pseudo.into()) {
        // UDP says by zero that there is none.
        0 => u16::MAX,
        sum => sum,
    };
    part[place].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// A buffer that a super-packet is split into.
struct Segment(Packet);

impl AsRef<[u8]> for Segment {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Segment {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// A packet that waits to be written, behind room for its header. It grows as packets are appended to it.
struct Waiting(Vec<u8>);

impl AsRef<[u8]> for Waiting {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Waiting {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl ExpandBuffer for Waiting {
    /// The library appends up to this length, less twice the header's; no packet of IPv4 is longer.
    fn buf_capacity(&self) -> usize {
        2 * VIRTIO_NET_HDR_LEN + MOST_OCTETS
    }

    fn buf_resize(&mut self, new_len: usize, value: u8) {
        self.0.resize(new_len, value);
    }

    fn buf_extend_from_slice(&mut self, src: &[u8]) {
        self.0.extend_from_slice(src);
    }
}

#[cfg(test)]
mod tests;
