//! Sampled drops, for whoever watches.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use privnet_ebpf::abi::DropEvent;
use privnet_ebpf::maps::MAP_EVENTS;
use privnet_ebpf::packet::HEADERS_BYTES;
use privnet_ebpf::verdict::{Direction, DropReason, Outcome};

use super::pinned::typed;
use super::{Error, Network};

/// A drop that was sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Since the host booted, suspension included.
    pub since_boot: Duration,
    /// The member that it was counted for; 0.0.0.0 for the network.
    pub member: Ipv4Addr,
    /// Which way the frame went, seen from the member.
    pub direction: Direction,
    /// Why it was dropped.
    pub reason: DropReason,
    /// The interface that the program is attached to, in the namespace of that interface.
    pub ifindex: u32,
    /// The frame's length in bytes.
    pub frame_bytes: u32,
    /// The frame's first bytes; zeros when it has fewer.
    pub headers: [u8; HEADERS_BYTES],
}

/// The reading end of a network's events. One reader sees each event once; several share them.
pub struct Events(RingBuf<MapData>);

impl Network {
    /// Opens the events. They come only when the network was opened with a sample rate.
    ///
    /// # Errors
    /// [`Error::Map`] when the ring cannot be mapped.
    pub fn events(&self) -> Result<Events, Error> {
        typed(&MAP_EVENTS, &self.pin_dir).map(Events)
    }
}

impl Events {
    /// The next event that is there; `None` when there is none. Its descriptor is readable when there is one.
    pub fn next_event(&mut self) -> Option<Event> {
        while let Some(record) = self.0.next() {
            // A record of another build is of no use to this one.
            if let Some(event) = bytemuck::try_pod_read_unaligned(&record).ok().and_then(|event| read(&event)) {
                return Some(event);
            }
        }
        None
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn read(event: &DropEvent) -> Option<Event> {
    let (direction, outcome) = event.key().what()?;
    let reason = match outcome {
        Outcome::Dropped(reason) => reason,
        Outcome::ForwardedLocal | Outcome::ForwardedRemote | Outcome::ArpAnswered => return None,
    };
    Some(Event {
        since_boot: Duration::from_nanos(event.boot_ns()),
        member: Ipv4Addr::from(event.key().address()),
        direction,
        reason,
        ifindex: event.ifindex(),
        frame_bytes: event.frame_bytes(),
        headers: *event.headers(),
    })
}
