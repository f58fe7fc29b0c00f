//! Queries by UDP: a thread that serves the sockets of many containers.
//!
//! Each round reads at most one batch from each socket with queries, so a container that floods its socket delays another
//! container by one batch.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll};
use rustix::io::Errno;

use super::engine::{Engine, Scratch, Step, Transport, most_octets};
use super::forward::{ForwardQueue, Job, ReplyTo};
use super::tenant::Tenant;
use super::wire::{self, Incoming, Limits, ResponseCode};

/// The most queries of a batch.
const BATCH: usize = 32;
/// The longest query, in octets; a longer one is cut off, and is then malformed.
const QUERY_OCTETS: usize = 2048;
/// The most sockets of a round.
const EVENTS: usize = 64;
/// The token of the eventfd that ends the thread.
const STOP: u64 = u64::MAX;

/// A thread that serves sockets; it ends when this is dropped.
#[derive(Debug)]
pub struct UdpThread {
    sockets: Arc<Sockets>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Sockets {
    epoll: OwnedFd,
    wake: OwnedFd,
    stop: AtomicBool,
    tenants: Mutex<(u64, BTreeMap<u64, Arc<Tenant>>)>,
}

impl UdpThread {
    /// Starts a thread without sockets.
    ///
    /// # Errors
    /// When the process has no files or threads left.
    pub fn start(engine: Arc<Engine>, forwards: ForwardQueue) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let sockets = Arc::new(Sockets { epoll, wake, stop: AtomicBool::new(false), tenants: Mutex::default() });
        let of_thread = Arc::clone(&sockets);
        let serve = move || serve(&of_thread, &mut Batch::new(engine, forwards));
        let thread = std::thread::Builder::new().name("dns-udp".to_owned()).spawn(serve)?;
        Ok(Self { sockets, thread: Some(thread) })
    }

    /// Serves a socket, and returns the token that [`Self::remove`] takes.
    ///
    /// # Errors
    /// When the kernel does not watch it.
    pub fn add(&self, tenant: &Arc<Tenant>) -> io::Result<u64> {
        let mut map = self.sockets.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let token = map.0;
        epoll::add(&self.sockets.epoll, tenant.udp(), epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        map.0 += 1;
        map.1.insert(token, Arc::clone(tenant));
        Ok(token)
    }

    /// Stops serving a socket; it is closed after its last query.
    pub fn remove(&self, token: u64) {
        let removed = self.sockets.tenants.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&token);
        if let Some(tenant) = removed {
            // The only other way out of the set is to be closed.
            let _ = epoll::delete(&self.sockets.epoll, tenant.udp());
        }
    }

    /// How many sockets it serves.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.sockets.tenants.lock().unwrap_or_else(PoisonError::into_inner).1.len()
    }
}

impl Drop for UdpThread {
    fn drop(&mut self) {
        self.sockets.stop.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.sockets.wake, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // After a panic, too, the thread has ended.
            let _ = thread.join();
        }
    }
}

fn serve(sockets: &Sockets, batch: &mut Batch) {
    let mut events = Vec::with_capacity(EVENTS);
    while !sockets.stop.load(Ordering::Acquire) {
        events.clear();
        match epoll::wait(&sockets.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "cannot wait for the DNS sockets");
                return;
            }
        }
        for event in &events {
            let token = event.data.u64();
            let tenant = sockets.tenants.lock().unwrap_or_else(PoisonError::into_inner).1.get(&token).cloned();
            if let Some(tenant) = tenant {
                batch.serve(&tenant);
            }
        }
    }
}

/// The memory of a thread: used for each of its batches, so that a batch allocates none.
struct Batch {
    engine: Arc<Engine>,
    forwards: ForwardQueue,
    scratch: Scratch,
    received: MultiHeaders<SockaddrIn>,
    sent: MultiHeaders<SockaddrIn>,
    queries: Vec<[u8; QUERY_OCTETS]>,
    arrivals: Vec<(usize, Option<SockaddrIn>)>,
    replies: Vec<Vec<u8>>,
    recipients: Vec<Option<SockaddrIn>>,
}

impl Batch {
    fn new(engine: Arc<Engine>, forwards: ForwardQueue) -> Self {
        Self {
            engine,
            forwards,
            scratch: Scratch::default(),
            received: MultiHeaders::preallocate(BATCH, None),
            sent: MultiHeaders::preallocate(BATCH, None),
            queries: vec![[0; QUERY_OCTETS]; BATCH],
            arrivals: Vec::with_capacity(BATCH),
            replies: (0..BATCH).map(|_| Vec::with_capacity(wire::UDP_MOST_OCTETS)).collect(),
            recipients: Vec::with_capacity(BATCH),
        }
    }

    /// Answers a batch of the queries that wait in the socket.
    fn serve(&mut self, tenant: &Arc<Tenant>) {
        self.receive(tenant);
        self.recipients.clear();
        let client = tenant.client();
        let view = self.engine.view();
        for (query, (length, sender)) in self.queries.iter().zip(&self.arrivals) {
            // The kernel sends nothing to port 0, and the attempt would cost the rest of the batch.
            let Some(sender) = sender.filter(|sender| sender.port() != 0) else { continue };
            let bytes = &query[..*length];
            let reply = &mut self.replies[self.recipients.len()];
            let counters = &self.engine.counters;
            match view.handle(counters, &mut self.scratch, &client, (bytes, Transport::Udp), reply) {
                Step::Silence => continue,
                Step::Reply => {}
                Step::Forward(forwarding) => {
                    let reply_to = ReplyTo::Udp(SocketAddrV4::new(sender.ip(), sender.port()));
                    let job = || Job { tenant: Arc::clone(tenant), query: bytes.to_vec(), forwarding, reply_to };
                    if tenant.forward_permit().is_some_and(|permits| self.forwards.forward(job(), permits)) {
                        continue;
                    }
                    counters.over_budget.add();
                    refuse(&self.engine, bytes, reply);
                }
            }
            self.recipients.push(Some(sender));
        }
        drop(view);
        self.send(tenant);
    }

    fn receive(&mut self, tenant: &Tenant) {
        self.arrivals.clear();
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.queries.iter_mut().map(|query| [IoSliceMut::new(query)]).collect();
        let fd = tenant.udp().as_raw_fd();
        // The error is that of an earlier datagram, and reading it clears it: the next round reads the queries.
        if let Ok(arrived) = recvmmsg(fd, &mut self.received, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
            self.arrivals.extend(arrived.map(|one| (one.bytes, one.address)));
        }
    }

    fn send(&mut self, tenant: &Tenant) {
        if self.recipients.is_empty() {
            return;
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            self.replies[..self.recipients.len()].iter().map(|reply| [IoSlice::new(reply)]).collect();
        let fd = tenant.udp().as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        if sendmmsg(fd, &mut self.sent, slices.iter(), &self.recipients, [], flags).is_err() {
            self.engine.counters.send_failures.add();
        }
    }
}

/// Writes that a query is not forwarded.
pub(super) fn refuse(engine: &Engine, bytes: &[u8], reply: &mut Vec<u8>) {
    if let Incoming::Query(query) = wire::read(bytes) {
        let limits = Limits { octets: most_octets(&query, Transport::Udp), recursion_available: true };
        let written = wire::write_error(&query, ResponseCode::ServerFailure, limits, reply);
        engine.counters.wrote(Transport::Udp, written);
    }
}
