//! A resolver outside of privnet that keeps the questions it was asked.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The address with which it answers every question.
pub const ANSWER: &str = "192.0.2.77";

/// A resolver; it ends when this is dropped.
pub struct Upstream {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// One in the tests' own namespace, that answers or does not.
    pub fn start(answers: bool) -> Self {
        Self::serving(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound"), answers)
    }

    /// One by a socket that is bound already, in whatever namespace.
    pub fn serving(socket: UdpSocket, answers: bool) -> Self {
        let address = socket.local_addr().expect("bound");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        let (asked, end) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, told) = (Arc::clone(&asked), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            let mut query = [0; 2048];
            while !told.load(Ordering::Acquire) {
                let Ok((length, client)) = socket.recv_from(&mut query) else { continue };
                let query = &query[..length];
                kept.lock().expect("not poisoned").push(name_of(query));
                if answers {
                    // The client may be gone.
                    let _ = socket.send_to(&reply_to(query), client);
                }
            }
        });
        Self { address, asked, end, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The names that it was asked for, in lower case and without final dots.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }

    /// Forgets them.
    pub fn forget(&self) {
        self.asked.lock().expect("not poisoned").clear();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        // It panicked, or it did not: it has ended.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// The name in the question of a query.
fn name_of(query: &[u8]) -> String {
    let mut labels = Vec::new();
    let mut at = 12;
    while let Some(length) = query.get(at).map(|length| usize::from(*length)).filter(|length| *length > 0) {
        labels.push(String::from_utf8_lossy(query.get(at + 1..=at + length).unwrap_or_default()).to_lowercase());
        at += length + 1;
    }
    labels.join(".")
}

/// The query with one address as its answer, whatever its type.
fn reply_to(query: &[u8]) -> Vec<u8> {
    let end = 12 + query.get(12..).and_then(|name| name.iter().position(|octet| *octet == 0)).unwrap_or(0) + 5;
    let mut reply = query.get(..end).unwrap_or_default().to_vec();
    let is_address = reply.ends_with(&[0, 1, 0, 1]);
    reply[2] |= 0x80;
    reply[3] = 0x80;
    reply[6..12].copy_from_slice(&[0, u8::from(is_address), 0, 0, 0, 0]);
    if is_address {
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 77]);
    }
    reply
}
