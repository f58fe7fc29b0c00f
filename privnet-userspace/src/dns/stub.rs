//! A question as a program in a container asks it: by UDP, to one server, once.
//!
//! The answer is the server's alone: libc would add `/etc/nsswitch.conf`, caches and search lists. The question goes out
//! from the namespace of the calling thread.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use domain::base::iana::Rtype;
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::A;
use serde::{Deserialize, Serialize};

use super::wire::UDP_MOST_OCTETS;

/// A server's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The question, `<name> A`.
    pub question: String,
    /// Where the reply came from.
    pub server: SocketAddr,
    /// The code, `NOERROR`.
    pub rcode: String,
    /// Whether it is marked as authoritative.
    pub is_authoritative: bool,
    /// The addresses, each with its TTL in seconds.
    pub addresses: Vec<(Ipv4Addr, u32)>,
}

/// Asks `server` for the addresses of `name`.
///
/// # Errors
/// When `name` is none, or no reply comes within `patience`.
pub fn ask(server: SocketAddrV4, name: &str, patience: Duration) -> io::Result<Heard> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidInput, error);
    let wanted = Name::<Vec<u8>>::from_str(name).map_err(|error| invalid(format!("{name:?} is no name: {error}")))?;
    let mut builder = MessageBuilder::new_vec();
    let id: u16 = rand::random();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((&wanted, Rtype::A)).map_err(|error| invalid(error.to_string()))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // A connected socket receives the datagrams of the server alone.
    socket.connect(server)?;
    socket.send(builder.finish().as_slice())?;
    let (start, mut reply) = (Instant::now(), [0; UDP_MOST_OCTETS]);
    loop {
        let left = patience.saturating_sub(start.elapsed());
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let length = socket.recv(&mut reply)?;
        if let Some(heard) = read(&reply[..length], id, name, socket.peer_addr()?) {
            return Ok(heard);
        }
        if start.elapsed() > patience {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// The answer in a reply; `None` when it is not the reply to this question.
fn read(bytes: &[u8], id: u16, name: &str, server: SocketAddr) -> Option<Heard> {
    let message = Message::from_slice(bytes).ok()?;
    let header = message.header();
    let is_reply = header.qr() && header.id() == id && message.sole_question().ok()?.qtype() == Rtype::A;
    let records = message.answer().ok()?.limit_to::<A>().filter_map(Result::ok);
    is_reply.then(|| Heard {
        question: format!("{name} A"),
        server,
        rcode: header.rcode().to_string(),
        is_authoritative: header.aa(),
        addresses: records.map(|record| (record.data().addr(), record.ttl().as_secs())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "web.shop.private-network.internal";

    /// A server that lets `reply` change the query, and sends that back; twice the first octet differs.
    fn heard(reply: impl Fn(&mut Vec<u8>) + Sync) -> io::Result<Heard> {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let SocketAddr::V4(server) = socket.local_addr().expect("bound") else { panic!("it is IPv4") };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut query = [0; 512];
                let (length, client) = socket.recv_from(&mut query).expect("a query");
                let mut other = query[..length].to_vec();
                other[0] = !other[0];
                other[2] |= 0x80;
                socket.send_to(&other, client).expect("sent");
                let mut answer = query[..length].to_vec();
                answer[2] |= 0x84;
                reply(&mut answer);
                socket.send_to(&answer, client).expect("sent");
            });
            ask(server, NAME, Duration::from_millis(500))
        })
    }

    #[test]
    fn a_reply_is_heard_and_anothers_is_not() {
        let told = heard(|answer| {
            answer[7] = 1;
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 240, 0, 2]);
        })
        .expect("a reply");
        assert_eq!((told.rcode.as_str(), told.is_authoritative), ("NOERROR", true));
        assert_eq!(told.addresses, [(Ipv4Addr::new(10, 240, 0, 2), 5)]);
        assert_eq!(told.question, format!("{NAME} A"));
        let told = heard(|answer| answer[3] = 3).expect("a reply");
        assert_eq!((told.rcode.as_str(), told.addresses), ("NXDOMAIN", Vec::new()));
        assert!(heard(|answer| answer[2] &= 0x7f).is_err(), "a query is no reply");
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let refused = ask(server, "a..b", Duration::from_millis(10)).expect_err("no name");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
