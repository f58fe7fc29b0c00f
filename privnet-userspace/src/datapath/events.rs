//! Sampled drops, read from the events ring.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use privnet_ebpf::abi::DropEvent;
use privnet_ebpf::maps::MAP_EVENTS;
use privnet_ebpf::packet::HEADERS_BYTES;
use privnet_ebpf::verdict::{Direction, DropReason, Outcome};

use super::pinned::{is_pinned_as, open_config, typed};
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

/// Which file a network's ring is pinned as: its device and inode. Another instance of the network has another one.
pub type RingId = (u64, u64);

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
    /// Opens the events of the network that is pinned in `pin_dir`, with the id of their ring; `None` where none is pinned.
    ///
    /// # Errors
    /// [`Error::Layout`] when the ring was pinned by another ABI, [`Error::Map`] when it cannot be mapped.
    pub fn open(pin_dir: &Path) -> Result<Option<(Self, RingId)>, Error> {
        let Some(id) = Self::ring_in(pin_dir) else { return Ok(None) };
        if !is_pinned_as(&MAP_EVENTS, pin_dir, 0)? {
            return Ok(None);
        }
        Ok(Some((Self(typed(&MAP_EVENTS, pin_dir)?), id)))
    }

    /// The ring that is pinned in `pin_dir` at present.
    #[must_use]
    pub fn ring_in(pin_dir: &Path) -> Option<RingId> {
        let pin = fs::metadata(pin_dir.join(MAP_EVENTS.name)).ok()?;
        Some((pin.dev(), pin.ino()))
    }

    /// Whether the programs of the network that is pinned in `pin_dir` report each frame that they drop.
    #[must_use]
    pub fn are_complete(pin_dir: &Path) -> bool {
        let config = open_config(pin_dir).ok().and_then(|(config, _)| config.get(&0, 0).ok());
        config.is_some_and(|config| config.0.event_sample() == 1)
    }

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
