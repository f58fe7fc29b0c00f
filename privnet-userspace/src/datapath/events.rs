//! Sampled drops, read from the events ring.

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

/// A sampled drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The time since the host booted, suspension included.
    pub since_boot: Duration,
    /// The member that the frame was charged to; 0.0.0.0 for the network.
    pub member: Ipv4Addr,
    /// The direction of the frame, seen from the member.
    pub direction: Direction,
    /// Why it was dropped.
    pub reason: DropReason,
    /// The interface that the program is attached to, in the namespace of that interface.
    pub ifindex: u32,
    /// The frame's length in bytes.
    pub frame_bytes: u32,
    /// The frame's first bytes; all zero when the frame is shorter.
    pub headers: [u8; HEADERS_BYTES],
}

/// The reading end of a network's events. Each event is read once: several readers share the events.
pub struct Events(RingBuf<MapData>);

impl Network {
    /// Opens the events. A network that was opened without a sample rate has none.
    ///
    /// # Errors
    /// [`Error::Map`] when the ring cannot be mapped.
    pub fn events(&self) -> Result<Events, Error> {
        typed(&MAP_EVENTS, &self.pin_dir).map(Events)
    }
}

impl Events {
    /// The next event; `None` when the ring is empty. The descriptor is readable while the ring has an event.
    pub fn next_event(&mut self) -> Option<Event> {
        while let Some(record) = self.0.next() {
            // A record of another build can have another layout, and is skipped.
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
