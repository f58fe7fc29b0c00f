//! What a WireGuard process does all day: packets of the app become datagrams on the carrier, and the other way. One task of one
//! thread does all of it in short turns, and yields after each: without that, an end that always has something to read would
//! keep the other end, the timers and the control socket waiting, since nothing that is ready makes a task yield.
//!
//! While the carrier's socket is full, nothing is read from the app, whose packets wait in the TUN link; what the carrier
//! receives still goes to the app. A TUN link is never full: it hands a packet to the stack at once.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gotatun::packet::Packet;
use rustix::io::Errno;
use tokio::sync::Notify;

use super::PeerState;
use super::app::{App, Read};
use super::carrier::Carrier;
use super::datagrams::Datagrams;
use super::predecessor::Predecessor;
use super::tunnels::{IN_USE, Tunnels, earlier};
use crate::model::PublicKey;

/// Most reads of one end in one turn.
const READS: usize = 32;
/// So many octets end a turn, and are sent: what one call can send.
const ENOUGH_OCTETS: usize = 60_000;
/// Packets that wait before they are written while more is received: neighbours of a flow that far apart are not merged.
const ENOUGH_PACKETS: usize = 64;
/// How long to wait after a receive error that was not "nothing there", so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// What the forwarding and the control socket share.
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Notify,
    /// Which peers go on in sessions of the process before.
    pub(super) predecessor: Predecessor,
}

struct State {
    tunnels: Tunnels,
    /// What a change has to send.
    out: Datagrams,
}

impl Shared {
    pub(super) fn new(tunnels: Tunnels, predecessor: Predecessor) -> Self {
        let out = tunnels.no_datagrams();
        let state = Mutex::new(State { tunnels, out });
        Self { state, changed: Notify::new(), predecessor }
    }

    /// Changes the tunnels, and has sent what the change puts out.
    pub(super) fn change(&self, change: impl FnOnce(&mut Tunnels, &mut Datagrams)) {
        let State { tunnels, out } = &mut *self.lock();
        change(tunnels, out);
        self.changed.notify_one();
    }

    /// The peers, as they are.
    pub(super) fn peers(&self) -> BTreeMap<PublicKey, PeerState> {
        self.lock().tunnels.peers().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forwards until the TUN link is gone, and returns how that showed.
pub(super) async fn forward(mut app: App, mut carrier: Carrier, shared: Arc<Shared>) -> io::Error {
    let mut out = shared.lock().tunnels.no_datagrams();
    let mut packets = Vec::new();
    let mut rest = Rest::default();
    loop {
        let due = earlier(shared.lock().tunnels.due(), rest.due);
        let result = tokio::select! {
            ready = app.is_readable(), if out.is_empty() => match ready {
                Ok(()) => {
                    rest.comes_after(Instant::now());
                    from_app(&mut app, &shared, &mut packets, &mut out)
                }
                Err(error) => Err(error),
            },
            gone = app.is_gone() => Err(gone.err().unwrap_or_else(|| Errno::BADFD.into())),
            ready = carrier.is_readable() => match ready {
                Ok(()) => {
                    rest.comes_after(Instant::now());
                    from_carrier(&mut app, &mut carrier, &shared, &mut out).await
                }
                Err(error) => Err(error),
            },
            // It is sent below.
            ready = carrier.is_writable(), if !out.is_empty() => ready,
            () = until(due) => {
                let now = Instant::now();
                let tunnels = &mut shared.lock().tunnels;
                tunnels.tick(now, &mut out);
                if rest.has_come(now) && tunnels.is_at_rest(now) {
                    app.rest();
                    packets = Vec::new();
                    out.rest();
                }
                Ok(())
            }
            () = shared.predecessor.is_heard() => {
                let heard = shared.predecessor.take_heard();
                shared.lock().tunnels.begin_sessions(&heard, Instant::now(), &mut out);
                Ok(())
            }
            () = shared.changed.notified() => {
                out.append(&mut shared.lock().out);
                Ok(())
            }
        };
        carrier.send(&mut out);
        if out.is_empty() {
            let lost = out.take_lost();
            if lost > 0 {
                tracing::warn!(lost, "datagrams were lost while the socket was full");
            }
        }
        if let Err(error) = result {
            return error;
        }
        tokio::task::yield_now().await;
    }
}

/// When what reading takes is given back: a while after the last read, whatever that came to. A tunnel that is in use makes it
/// later; input that is dropped uses none.
#[derive(Default)]
struct Rest {
    /// Absent after it has come, until something is read again.
    due: Option<Instant>,
}

impl Rest {
    /// Takes note of a read.
    fn comes_after(&mut self, read: Instant) {
        self.due = Some(read + IN_USE);
    }

    /// Whether nothing was read for long enough.
    fn has_come(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now);
        self.due.is_none()
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn from_app(app: &mut App, shared: &Shared, packets: &mut Vec<Packet>, out: &mut Datagrams) -> io::Result<()> {
    let now = Instant::now();
    for _ in 0..READS {
        match app.read(packets)? {
            Read::Nothing => break,
            Read::Dropped => {}
            Read::To(destination) => shared.lock().tunnels.outgoing(packets.drain(..), destination, now, out),
        }
        if out.octets() >= ENOUGH_OCTETS {
            break;
        }
    }
    Ok(())
}

async fn from_carrier(app: &mut App, carrier: &mut Carrier, shared: &Shared, out: &mut Datagrams) -> io::Result<()> {
    let now = Instant::now();
    for _ in 0..READS {
        let received = match carrier.receive() {
            Ok(Some(received)) => received,
            Ok(None) => break,
            Err(_) => {
                tokio::time::sleep(ERROR_PAUSE).await;
                break;
            }
        };
        {
            let tunnels = &mut shared.lock().tunnels;
            for datagram in received.datagrams() {
                shared.predecessor.look_at(datagram, received.source);
                if let Some(packet) = tunnels.incoming(app.packet(datagram), received.source, now, out) {
                    app.push(&packet);
                }
            }
        }
        if app.waiting() >= ENOUGH_PACKETS {
            app.flush()?;
        }
        // The answer to a handshake releases all that waited for it. While the socket is known to be full this is no call.
        if out.octets() >= ENOUGH_OCTETS {
            carrier.send(out);
        }
    }
    app.flush()
}

#[cfg(test)]
mod tests;
