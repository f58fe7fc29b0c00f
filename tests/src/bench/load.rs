//! Pinned senders and receivers: how many packets a second, how long there and back, how many bits a second.
//!
//! Plain sockets and one system call per packet, so that what differs between two paths is the path.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use privnet::netns::Netns;
use rustix::process::Pid;
use rustix::thread::CpuSet;

/// The payload of a flooding datagram: what a WireGuard datagram of nearly full size is to the carrier.
pub const FLOOD_BYTES: usize = 1300;
/// The payload of a ping-pong datagram.
pub const ROUND_TRIP_BYTES: usize = 64;
/// What one call of a stream writes.
const STREAM_BYTES: usize = 128 << 10;
/// What flows before it is counted: caches, neighbours and handshakes.
const WARM_UP: Duration = Duration::from_millis(100);
/// How long an answer may take before the datagram is said to be lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a new path may take until it carries packets both ways.
const READY: Duration = Duration::from_secs(10);
/// The most that there is: other load on the machine costs the figures their precision, not their meaning.
const NICENESS: i32 = -20;
/// Room for what arrives while the receiver is not scheduled.
const BUFFER_BYTES: usize = 8 << 20;

/// The cores that are used.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// The sender's, and both ends' of a ping-pong.
    pub near: usize,
    /// The receiver's.
    pub far: usize,
}

impl Cores {
    /// The first two cores that this process may use.
    pub fn choose() -> Result<Self> {
        let allowed = rustix::thread::sched_getaffinity(None).context("cannot ask for the allowed cores")?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        match (cores.next(), cores.next()) {
            (Some(near), Some(far)) => Ok(Self { near, far }),
            (Some(_) | None, _) => bail!("a flood needs two cores"),
        }
    }
}

/// Binds the calling thread to a core, before all others that want it.
fn pin(core: usize) -> Result<()> {
    pin_thread(None, core)
}

/// Binds a thread, the calling one without an id, to a core, before all others that want it.
pub fn pin_thread(thread: Option<Pid>, core: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(core);
    rustix::thread::sched_setaffinity(thread, &only).with_context(|| format!("cannot bind to core {core}"))?;
    // For the kernel this is a thread's, whatever the name says (setpriority(2)).
    rustix::process::setpriority_process(thread, NICENESS).context("cannot go before others")
}

/// One end of a path: where, and under which address and port.
#[derive(Clone, Debug)]
pub struct End {
    /// Its namespace.
    pub netns: Netns,
    /// Its address.
    pub address: Ipv4Addr,
}

/// Two connected sockets, each in the namespace of its end.
#[derive(Debug)]
pub struct Pair {
    near: UdpSocket,
    far: UdpSocket,
}

impl Pair {
    /// Opens the sockets, both on `port`, and waits until datagrams come through.
    pub fn open(near: &End, far: &End, port: u16) -> Result<Self> {
        let pair = Self { near: connected(near, far, port)?, far: connected(far, near, port)? };
        let start = Instant::now();
        while !pair.answers()? {
            ensure!(start.elapsed() < READY, "no datagram came through within {READY:?}");
        }
        Ok(pair)
    }

    /// Packets a second that were received while one sender sent as fast as it could.
    pub fn flood(&self, cores: &Cores, window: Duration) -> Result<f64> {
        self.drain()?;
        let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                pin(cores.far)?;
                let mut buffer = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    if received_one(&self.far, &mut buffer)? {
                        received.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            });
            let sender = scope.spawn(|| {
                pin(cores.near)?;
                let payload = [0x5a; FLOOD_BYTES];
                while !stop.load(Ordering::Relaxed) {
                    // A queue that is full is part of being flooded.
                    let _ = self.near.send(&payload);
                }
                Ok(())
            });
            let rate = counted(&received, window);
            stop.store(true, Ordering::Relaxed);
            join(receiver)?;
            join(sender)?;
            ensure!(rate > 0.0, "nothing arrived");
            Ok(rate)
        })
    }

    /// The median time of a round trip in nanoseconds, with both ends on one core.
    pub fn round_trip(&self, cores: &Cores, trips: usize) -> Result<f64> {
        self.drain()?;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let echo = scope.spawn(|| {
                pin(cores.near)?;
                let mut buffer = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    if received_one(&self.far, &mut buffer)? {
                        self.far.send(&buffer[..ROUND_TRIP_BYTES]).context("cannot answer")?;
                    }
                }
                Ok(())
            });
            let player = scope.spawn(|| {
                pin(cores.near)?;
                self.play(trips / 10)?;
                self.play(trips)
            });
            let times = join(player);
            stop.store(true, Ordering::Relaxed);
            join(echo)?;
            let mut times = times?;
            times.sort_unstable();
            Ok(times[times.len() / 2] as f64)
        })
    }

    /// The times of round trips in nanoseconds.
    fn play(&self, trips: usize) -> Result<Vec<u64>> {
        let payload = [0x5a; ROUND_TRIP_BYTES];
        let mut buffer = [0; 2048];
        let mut times = Vec::with_capacity(trips);
        let mut lost = 0;
        while times.len() < trips.max(1) {
            let start = Instant::now();
            self.near.send(&payload).context("cannot send")?;
            if received_one(&self.near, &mut buffer)? {
                times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
            } else {
                lost += 1;
                ensure!(lost < 10, "{lost} datagrams of a ping-pong were lost");
            }
        }
        Ok(times)
    }

    /// Whether a datagram goes there and one comes back.
    fn answers(&self) -> Result<bool> {
        let mut buffer = [0; 2048];
        for (from, to) in [(&self.near, &self.far), (&self.far, &self.near)] {
            // What a path that is not ready refuses is tried again.
            let _ = from.send(&[0; ROUND_TRIP_BYTES]);
            if !received_one(to, &mut buffer)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Throws away what an earlier load left.
    fn drain(&self) -> Result<()> {
        let mut buffer = [0; 2048];
        for socket in [&self.near, &self.far] {
            socket.set_nonblocking(true)?;
            while received_one(socket, &mut buffer)? {}
            socket.set_nonblocking(false)?;
        }
        Ok(())
    }
}

/// Bits a second that one stream brought through.
pub fn stream(near: &End, far: &End, cores: &Cores, window: Duration) -> Result<f64> {
    let address = far.address;
    let listener = far.netns.run_blocking(move || TcpListener::bind((address, 0)))?.context("cannot listen")?;
    let port = listener.local_addr()?.port();
    let connect = move || TcpStream::connect_timeout(&SocketAddrV4::new(address, port).into(), READY);
    let mut sender = near.netns.run_blocking(connect)?.with_context(|| format!("cannot connect to {address}"))?;
    let (mut receiver, _) = listener.accept()?;
    // The default of some machines, bbr, paces by a queueing discipline that veths do not have.
    rustix::net::sockopt::set_tcp_congestion(&sender, "cubic").context("cannot choose cubic")?;
    sender.set_write_timeout(Some(PATIENCE))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            pin(cores.far)?;
            let mut buffer = vec![0; STREAM_BYTES];
            while !stop.load(Ordering::Relaxed) {
                match receiver.read(&mut buffer) {
                    Ok(bytes) => drop(received.fetch_add(bytes as u64, Ordering::Relaxed)),
                    Err(error) if is_timeout(error.kind()) => {}
                    Err(error) => return Err(error).context("cannot read the stream"),
                }
            }
            Ok(())
        });
        let writing = scope.spawn(|| {
            pin(cores.near)?;
            let block = vec![0x5a; STREAM_BYTES];
            while !stop.load(Ordering::Relaxed) {
                match sender.write(&block) {
                    Ok(_) => {}
                    Err(error) if is_timeout(error.kind()) => {}
                    Err(error) => return Err(error).context("cannot write the stream"),
                }
            }
            Ok(())
        });
        // Slow start takes longer than a cache.
        thread::sleep(WARM_UP * 2);
        let rate = counted(&received, window);
        stop.store(true, Ordering::Relaxed);
        join(reading)?;
        join(writing)?;
        Ok(rate * 8.0)
    })
}

/// How much `counter` rose per second, after a warm-up.
fn counted(counter: &AtomicU64, window: Duration) -> f64 {
    thread::sleep(WARM_UP);
    let (start, before) = (Instant::now(), counter.load(Ordering::Relaxed));
    thread::sleep(window);
    let (after, elapsed) = (counter.load(Ordering::Relaxed), start.elapsed());
    (after - before) as f64 / elapsed.as_secs_f64()
}

fn connected(own: &End, other: &End, port: u16) -> Result<UdpSocket> {
    let (own_address, other_address) = (own.address, other.address);
    let open = move || {
        let socket = UdpSocket::bind((own_address, port))?;
        socket.connect((other_address, port))?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        std::io::Result::Ok(socket)
    };
    own.netns.run_blocking(open)?.with_context(|| format!("cannot open UDP {own_address}:{port}"))
}

/// Whether a datagram came before the socket's patience ended.
fn received_one(socket: &UdpSocket, buffer: &mut [u8]) -> Result<bool> {
    match socket.recv(buffer) {
        Ok(_) => Ok(true),
        // Refused: an earlier datagram found no listener, and its ICMP answer comes out here.
        Err(error) if is_timeout(error.kind()) || error.kind() == ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error).context("cannot receive"),
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| bail!("a thread of the load panicked"))
}
