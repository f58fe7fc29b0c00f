//! The servers that a container asked before it was attached, and sockets in its namespace to ask them by.
//!
//! The process cannot enter a namespace, so the agent hands in sockets that it opened there and bound to nothing. For each
//! query one of them is connected: the kernel gives it a port that nobody could know, and it hears that server only.
//! Afterwards it is disconnected, which gives the port back.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::engine::Transport;
use super::upstream::Health;

/// How many queries of one container are on their way to servers of one family at a time, by UDP and by TCP; more wait.
const SOCKETS: [(Transport, usize); 2] = [(Transport::Udp, 16), (Transport::Tcp, 2)];

/// A container's own servers.
#[derive(Debug)]
pub struct OwnServers {
    /// In the order in which they are asked.
    pub servers: Vec<SocketAddr>,
    /// Which of them answer: another container's server of the same address is another one.
    pub health: Mutex<Health>,
    pools: Vec<Pool>,
    under_way: Mutex<BTreeMap<Vec<u8>, Answered>>,
}

/// The reply to a question that is under way, once it is there; `None` in it when none came.
type Answered = watch::Receiver<Option<Option<Vec<u8>>>>;

/// Sockets of one family and transport.
#[derive(Debug)]
struct Pool {
    is_ipv4: bool,
    transport: Transport,
    places: Semaphore,
    free: Mutex<Vec<OwnedFd>>,
}

/// A socket of a pool; it goes back when this is dropped.
struct Lent<'a> {
    socket: Option<OwnedFd>,
    pool: &'a Pool,
    _place: SemaphorePermit<'a>,
}

/// Opens the sockets to ask `servers` by, in the namespace of the calling thread.
///
/// # Errors
/// When the kernel makes none.
pub(super) fn open(servers: &[SocketAddr]) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    for (is_ipv4, family) in [(true, AddressFamily::INET), (false, AddressFamily::INET6)] {
        if !servers.iter().any(|server| server.is_ipv4() == is_ipv4) {
            continue;
        }
        for (transport, count) in SOCKETS {
            let kind = match transport {
                Transport::Udp => SocketType::DGRAM,
                Transport::Tcp => SocketType::STREAM,
            };
            for _ in 0..count {
                match rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None) {
                    Ok(socket) => sockets.push(socket),
                    // A kernel without IPv6: the servers of the other family are asked.
                    Err(Errno::AFNOSUPPORT) => break,
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
    }
    Ok(sockets)
}

impl OwnServers {
    /// Nothing when there are no servers.
    ///
    /// # Errors
    /// When a descriptor is no socket.
    pub fn new(servers: Vec<SocketAddr>, sockets: Vec<OwnedFd>) -> io::Result<Option<Arc<Self>>> {
        if servers.is_empty() {
            return Ok(None);
        }
        let mut found: BTreeMap<(bool, bool), Vec<OwnedFd>> = BTreeMap::new();
        for socket in sockets {
            let is_ipv4 = sockopt::socket_domain(&socket)? == AddressFamily::INET;
            let is_udp = sockopt::socket_type(&socket)? == SocketType::DGRAM;
            found.entry((is_ipv4, is_udp)).or_default().push(socket);
        }
        let pool = |((is_ipv4, is_udp), free): ((bool, bool), Vec<OwnedFd>)| Pool {
            is_ipv4,
            transport: if is_udp { Transport::Udp } else { Transport::Tcp },
            places: Semaphore::new(free.len()),
            free: Mutex::new(free),
        };
        let pools = found.into_iter().map(pool).collect();
        Ok(Some(Arc::new(Self { servers, health: Mutex::default(), pools, under_way: Mutex::default() })))
    }

    /// A datagram socket in the container's namespace that is connected to `server`, as long as `use_it` goes on.
    pub async fn by_udp<T>(
        &self,
        server: SocketAddr,
        use_it: impl AsyncFnOnce(UdpSocket) -> io::Result<T>,
    ) -> io::Result<T> {
        let lent = self.lend(server, Transport::Udp).await?;
        let socket = UdpSocket::from_std(lent.copy()?.into())?;
        // What an earlier server's host refused is not this one's.
        let _ = socket.take_error();
        socket.connect(server).await?;
        use_it(socket).await
    }

    /// A connection to `server` from the container's namespace, as long as `use_it` goes on.
    pub async fn by_tcp<T>(
        &self,
        server: SocketAddr,
        use_it: impl AsyncFnOnce(TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        let lent = self.lend(server, Transport::Tcp).await?;
        let socket = TcpSocket::from_std_stream(lent.copy()?.into());
        use_it(socket.connect(server).await?).await
    }

    async fn lend(&self, server: SocketAddr, transport: Transport) -> io::Result<Lent<'_>> {
        let is_meant = |pool: &&Pool| pool.is_ipv4 == server.is_ipv4() && pool.transport == transport;
        let none = || io::Error::other("there is no socket of this family in the container");
        let pool = self.pools.iter().find(is_meant).ok_or_else(none)?;
        let place = pool.places.acquire().await.map_err(io::Error::other)?;
        let socket = pool.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Ok(Lent { socket, pool, _place: place })
    }

    /// The reply to a question, or that of the same question which is under way already. So a server that passes what it
    /// is asked to the server of the container that asked it, us, gets no second question, and nothing goes round.
    pub async fn once(&self, question: Vec<u8>, ask: impl Future<Output = Option<Vec<u8>>>) -> Option<Vec<u8>> {
        let (tell, answered) = watch::channel(None);
        let earlier = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            let earlier = under_way.get(&question).cloned();
            if earlier.is_none() {
                under_way.insert(question.clone(), answered);
            }
            earlier
        };
        if let Some(mut earlier) = earlier {
            // Where the first one gave up, so does this one.
            return earlier.wait_for(Option::is_some).await.ok().and_then(|reply| reply.clone().flatten());
        }
        let _done = UnderWay { of: self, question };
        let reply = ask.await;
        tell.send_replace(Some(reply.clone()));
        reply
    }
}

/// A question that is under way, until this is dropped.
struct UnderWay<'a> {
    of: &'a OwnServers,
    question: Vec<u8>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.of.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.question);
    }
}

impl Lent<'_> {
    /// Another descriptor of the socket. Closing it changes nothing about the socket.
    fn copy(&self) -> io::Result<OwnedFd> {
        let none = || io::Error::other("a socket of the container is missing");
        self.socket.as_ref().ok_or_else(none)?.try_clone()
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            // Of one that was never connected there is nothing to end.
            let _ = rustix::net::connect_unspec(socket.as_fd());
            self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn each_query_has_a_port_of_its_own_and_hears_its_server_only() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let address = server.local_addr().expect("bound");
        let sockets = open(&[address]).expect("opened");
        assert_eq!(sockets.len(), 18);
        let own = OwnServers::new(vec![address], sockets).expect("sockets").expect("servers");
        let mut ports = BTreeSet::new();
        for _ in 0..40 {
            let asked = async |socket: UdpSocket| {
                socket.send(b"question").await?;
                let mut buffer = [0; 16];
                let (_, client) = server.recv_from(&mut buffer).await?;
                other.send_to(b"forged", client).await?;
                server.send_to(b"answer", client).await?;
                let length = socket.recv(&mut buffer).await?;
                assert_eq!(&buffer[..length], b"answer");
                Ok(client.port())
            };
            ports.insert(own.by_udp(address, asked).await.expect("answered"));
        }
        assert!(ports.len() > 20, "{ports:?}");
        // By TCP a socket serves one connection after the other as well.
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let address = listener.local_addr().expect("bound");
        for _ in 0..6 {
            let accepted = async |stream: TcpStream| {
                let (peer, _) = listener.accept().await?;
                assert_eq!(stream.local_addr()?, peer.peer_addr()?);
                Ok(())
            };
            own.by_tcp(address, accepted).await.expect("connected");
        }
    }

    #[tokio::test]
    async fn servers_of_both_families_have_their_own_sockets() {
        let addresses: [SocketAddr; 2] = ["127.0.0.1:0", "[::1]:0"].map(|text| text.parse().expect("an address"));
        let mut servers = Vec::new();
        for address in addresses {
            // A machine without IPv6 has the other family alone.
            if let Ok(server) = UdpSocket::bind(address).await {
                servers.push(server);
            }
        }
        let bound: Vec<SocketAddr> = servers.iter().map(|server| server.local_addr().expect("bound")).collect();
        let sockets = open(&bound).expect("opened");
        assert_eq!(sockets.len(), 18 * bound.len());
        let own = OwnServers::new(bound.clone(), sockets).expect("sockets").expect("servers");
        for (server, address) in servers.iter().zip(bound) {
            let ask = async |socket: UdpSocket| socket.send(b"question").await.map(drop);
            own.by_udp(address, ask).await.expect("sent");
            let (length, client) = server.recv_from(&mut [0; 16]).await.expect("received");
            assert_eq!((length, client.is_ipv4()), (8, address.is_ipv4()));
        }
    }

    #[tokio::test]
    async fn a_question_that_is_under_way_is_not_asked_again() {
        let server: SocketAddr = "192.0.2.1:53".parse().expect("an address");
        let own = OwnServers::new(vec![server], Vec::new()).expect("no sockets").expect("servers");
        let (answer, answered) = tokio::sync::oneshot::channel::<Vec<u8>>();
        let first = own.once(b"a".to_vec(), async { answered.await.ok() });
        let twice = async || -> Option<Vec<u8>> { panic!("asked twice") };
        let second = own.once(b"a".to_vec(), twice());
        let other = own.once(b"b".to_vec(), async { Some(b"other".to_vec()) });
        let tell = async { answer.send(b"one".to_vec()) };
        let (first, second, other, _) = tokio::join!(first, second, other, tell);
        assert_eq!((first.as_deref(), second.as_deref()), (Some(b"one".as_slice()), Some(b"one".as_slice())));
        assert_eq!(other.as_deref(), Some(b"other".as_slice()));
        // It is over: the next one is asked, also after one that was given up.
        let given_up = own.once(b"c".to_vec(), std::future::pending());
        tokio::time::timeout(std::time::Duration::from_millis(1), given_up).await.expect_err("it waits");
        for question in [b"a", b"c"] {
            assert_eq!(own.once(question.to_vec(), async { None }).await, None);
        }
        assert!(own.by_udp(server, async |_| Ok(())).await.is_err(), "without sockets nothing is asked");
    }
}
