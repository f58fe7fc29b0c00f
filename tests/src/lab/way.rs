//! A way to a server on which its answers take their time.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::space::Space;

const TICK: Duration = Duration::from_millis(20);

/// Hands connections on to a server, and what the server says back after a delay. Ends when it is dropped.
pub struct Way {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    delay_ms: AtomicU64,
    /// Both ends of each connection.
    open: Mutex<Vec<TcpStream>>,
}

impl Way {
    /// A way from `at` to `to`, both reached from `space`. It delays nothing yet.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn new(space: &Space, at: SocketAddrV4, to: SocketAddrV4) -> Self {
        let listener = space.inside(move || TcpListener::bind(at)).expect("a port");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let shared = Arc::<Shared>::default();
        let (of_acceptor, space) = (Arc::clone(&shared), space.clone());
        let acceptor = thread::spawn(move || accept(&listener, &space, to, &of_acceptor));
        Self { shared, acceptor: Some(acceptor) }
    }

    /// How late each answer is from now on.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay_ms.store(u64::try_from(delay.as_millis()).expect("a short time"), Ordering::Relaxed);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for stream in self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, space: &Space, to: SocketAddrV4, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(TICK);
                continue;
            }
            Err(error) => panic!("a way takes no more connections: {error}"),
        };
        // A server that is not there: the client sees its connection end.
        let Ok(server) = space.inside(move || TcpStream::connect(to)) else { continue };
        client.set_nonblocking(false).expect("a connection that blocks");
        let ends = [&client, &client, &server, &server].map(|end| end.try_clone().expect("a descriptor"));
        shared.open.lock().unwrap_or_else(PoisonError::into_inner).extend([client, server]);
        let [from_client, to_client, from_server, to_server] = ends;
        thread::spawn(move || carry(from_client, to_server));
        let (sender, waiting) = mpsc::channel();
        thread::spawn(move || deliver(&waiting, to_client));
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            read(from_server, |bytes| {
                let delay = Duration::from_millis(shared.delay_ms.load(Ordering::Relaxed));
                sender.send((Instant::now() + delay, bytes.to_vec())).is_ok()
            });
        });
    }
}

/// Hands on at once.
fn carry(from: TcpStream, mut to: TcpStream) {
    let mut target = to.try_clone().expect("a descriptor");
    read(from, |bytes| target.write_all(bytes).is_ok());
    let _ = to.flush();
    let _ = to.shutdown(Shutdown::Both);
}

/// Hands on what is due.
fn deliver(waiting: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    while let Ok((due, bytes)) = waiting.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Reads until the end, or until nobody takes what was read.
fn read(mut from: TcpStream, mut take: impl FnMut(&[u8]) -> bool) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        if !take(&bytes[..length]) {
            return;
        }
    }
}
