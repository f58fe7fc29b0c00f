//! Probes: servers that answer and clients that ask, in the namespaces of the lab.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::say;
use super::space::Space;
use super::wait::wait_until;

/// How long an answer may take before it is none.
pub const PATIENCE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(20);

/// Room for what waits in a socket, in bytes: 10,000 small datagrams and more. The usual room holds 277, which a thread that gets
/// no processor for a while loses.
const ROOM_BYTES: usize = 16 << 20;

fn make_room(socket: &UdpSocket) {
    rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, ROOM_BYTES).expect("room in a socket");
}

/// A thread that serves until it is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Answers every datagram and every connection on a port of all addresses with what it was sent.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn echo(space: &Space, port: u16) -> Self {
        Self::echo_at(space, Ipv4Addr::UNSPECIFIED, port)
    }

    /// As [`Server::echo`], on one address.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn echo_at(space: &Space, address: Ipv4Addr, port: u16) -> Self {
        let at = SocketAddr::from((address, port));
        let udp = space.inside(move || UdpSocket::bind(at)).expect("a UDP port");
        make_room(&udp);
        let tcp = space.inside(move || TcpListener::bind(at)).expect("a TCP port");
        udp.set_read_timeout(Some(TICK)).expect("a timeout");
        tcp.set_nonblocking(true).expect("a listener that does not block");
        let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<Vec<u8>>>>::default());
        let datagrams = {
            let (stop, heard) = (Arc::clone(&stop), Arc::clone(&heard));
            thread::spawn(move || echo_datagrams(&udp, &stop, &heard))
        };
        let connections = {
            let (stop, heard) = (Arc::clone(&stop), Arc::clone(&heard));
            thread::spawn(move || echo_connections(&tcp, &stop, &heard))
        };
        Self { stop, heard, threads: vec![datagrams, connections] }
    }

    /// Whether a datagram of exactly this content, or a connection that began with it, was received.
    #[must_use]
    pub fn heard(&self, what: &[u8]) -> bool {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|heard| heard == what)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn echo_datagrams(socket: &UdpSocket, stop: &AtomicBool, heard: &Mutex<Vec<Vec<u8>>>) {
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(buffer[..length].to_vec());
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

fn echo_connections(listener: &TcpListener, stop: &Arc<AtomicBool>, heard: &Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut connections = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let (stop, heard) = (Arc::clone(stop), Arc::clone(heard));
                connections.push(thread::spawn(move || echo_connection(stream, &stop, &heard)));
            }
            Err(_) => thread::sleep(TICK / 4),
        }
    }
    for connection in connections {
        let _ = connection.join();
    }
}

fn echo_connection(mut stream: TcpStream, stop: &AtomicBool, heard: &Mutex<Vec<Vec<u8>>>) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(TICK));
    let mut buffer = vec![0; 1 << 16];
    let mut first = true;
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if first {
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(buffer[..length].to_vec());
                }
                first = false;
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

/// Sends a datagram from a namespace and returns the answer.
///
/// # Errors
/// The stack's refusal, or [`ErrorKind::WouldBlock`] when no answer came in time.
pub fn ask_udp(space: &Space, to: (Ipv4Addr, u16), what: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let socket = space.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    socket.set_read_timeout(Some(patience))?;
    socket.send_to(what, SocketAddrV4::new(to.0, to.1))?;
    let mut buffer = vec![0; 1 << 16];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Connects from a namespace, sends, and returns as many bytes of the answer.
///
/// # Errors
/// The stack's refusal, or a timeout.
pub fn ask_tcp(space: &Space, to: (Ipv4Addr, u16), what: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let address = SocketAddr::from(to);
    let mut stream = space.inside(move || TcpStream::connect_timeout(&address, patience))?;
    stream.set_read_timeout(Some(patience))?;
    let mut writer = stream.try_clone()?;
    let message = what.to_vec();
    let sender = thread::spawn(move || writer.write_all(&message));
    let mut answer = vec![0; what.len()];
    stream.read_exact(&mut answer)?;
    sender.join().map_err(|_| io::Error::other("the sender panicked"))??;
    Ok(answer)
}

/// Whether both UDP and TCP are answered.
#[must_use]
pub fn reaches(space: &Space, to: (Ipv4Addr, u16)) -> bool {
    let asked = b"are you there";
    ask_udp(space, to, asked, PATIENCE).is_ok_and(|answer| answer == asked)
        && ask_tcp(space, to, asked, PATIENCE).is_ok_and(|answer| answer == asked)
}

/// A steady stream of datagrams to an echo server, each numbered, each awaited.
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<Vec<u64>>>,
}

impl Stream {
    /// Starts to send, one datagram each `pace`.
    ///
    /// # Panics
    /// When the namespace is gone.
    #[must_use]
    pub fn start(space: &Space, to: (Ipv4Addr, u16), pace: Duration) -> Self {
        let socket = space.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a UDP socket");
        make_room(&socket);
        socket.connect(SocketAddrV4::new(to.0, to.1)).expect("a route");
        socket.set_nonblocking(true).expect("a socket that does not block");
        let (stop, sent, answered) = (Arc::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (until, of_sent, of_answered) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&answered));
        let thread = thread::spawn(move || stream(&socket, pace, &until, &of_sent, &of_answered));
        Self { stop, sent, answered, thread: Some(thread) }
    }

    /// How many were answered until now.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until a hundred more are answered.
    ///
    /// # Panics
    /// When they are not.
    #[track_caller]
    pub fn flows(&self) {
        let before = self.answered();
        wait_until("the stream flows", || self.answered() > before + 100);
    }

    /// Ends it once it flows; none of it was lost.
    ///
    /// # Panics
    /// When one was.
    #[track_caller]
    pub fn finish_whole(self) {
        self.flows();
        let (sent, lost) = self.finish();
        say(&format!("{sent} datagrams were sent, and {} lost", lost.len()));
        assert!(lost.is_empty(), "{} of {sent} were lost: {lost:?}", lost.len());
    }

    /// How many were sent until now; they are numbered from 0.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it and returns how many were sent, and the numbers of those that were not answered.
    ///
    /// # Panics
    /// When its thread did.
    #[must_use]
    pub fn finish(mut self) -> (u64, Vec<u64>) {
        self.stop.store(true, Ordering::Relaxed);
        let lost = self.thread.take().expect("runs until now").join().expect("the stream's thread");
        (self.sent.load(Ordering::Relaxed), lost)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn stream(socket: &UdpSocket, pace: Duration, stop: &AtomicBool, sent: &AtomicU64, answered: &AtomicU64) -> Vec<u64> {
    let mut missing = std::collections::BTreeSet::new();
    let receive = |missing: &mut std::collections::BTreeSet<u64>| {
        let mut buffer = [0; 8];
        while let Ok(8) = socket.recv(&mut buffer) {
            if missing.remove(&u64::from_be_bytes(buffer)) {
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    while !stop.load(Ordering::Relaxed) {
        let number = sent.fetch_add(1, Ordering::Relaxed);
        missing.insert(number);
        let _ = socket.send(&number.to_be_bytes());
        thread::sleep(pace);
        receive(&mut missing);
    }
    // As long as answers come: many may have waited for a process, and an emulated processor takes its time.
    let mut end = Instant::now() + PATIENCE;
    while !missing.is_empty() && Instant::now() < end {
        thread::sleep(TICK);
        let before = missing.len();
        receive(&mut missing);
        if missing.len() < before {
            end = Instant::now() + PATIENCE;
        }
    }
    missing.into_iter().collect()
}
