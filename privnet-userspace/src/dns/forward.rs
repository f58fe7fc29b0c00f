//! Other people's names: asked of resolvers, for as long as a client waits.
//!
//! Each query goes out with an id and a source port that nobody could know, from a socket that hears one resolver only,
//! without anything of the container's but the question. The servers that a container asked before it was attached are asked
//! from its namespace, the host's and those of a network from the host's. Nothing here waits for anything that names of ours
//! need.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::engine::{Engine, Transport, most_octets};
use super::own::OwnServers;
use super::tenant::Tenant;
use super::upstream::{Health, HostResolvers};
use super::wire::{self, Incoming, Limits, Query, ResponseCode, Written};
use crate::names::Forwarding;

/// How many forwarded queries of all containers are under way at most.
const FORWARDS: usize = 512;
/// How long one resolver has to answer.
const ATTEMPT: Duration = Duration::from_millis(1200);
/// How long all have: libc gives up after 5 s and asks anew.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often the resolvers are gone through: a datagram may be lost.
const ROUNDS: usize = 2;

/// A query for a name that is none of ours.
#[derive(Debug)]
pub struct Job {
    /// The container that asks.
    pub tenant: Arc<Tenant>,
    /// The query, which was read before.
    pub query: Vec<u8>,
    /// The resolvers to ask.
    pub forwarding: Forwarding,
    /// Where its reply goes.
    pub reply_to: ReplyTo,
}

/// Where the reply to a forwarded query goes.
#[derive(Debug)]
pub enum ReplyTo {
    /// To an address, from the container's UDP socket.
    Udp(SocketAddrV4),
    /// To the writing half of a TCP connection.
    Tcp(mpsc::Sender<Vec<u8>>),
}

/// Takes the queries that are not answered here from the UDP threads and the TCP tasks. Never blocks.
#[derive(Clone, Debug)]
pub struct ForwardQueue {
    jobs: mpsc::UnboundedSender<(Job, Permits)>,
    places: Arc<Semaphore>,
}

/// Held while a query is under way.
type Permits = [OwnedSemaphorePermit; 2];

impl ForwardQueue {
    /// The queue, and its end from which [`Forwarder::run`] takes the queries.
    #[must_use]
    pub fn new() -> (Self, Jobs) {
        let (jobs, queue) = mpsc::unbounded_channel();
        (Self { jobs, places: Arc::new(Semaphore::new(FORWARDS)) }, Jobs(queue))
    }

    /// Hands a query over; false when too many are under way.
    pub fn forward(&self, job: Job, permit: OwnedSemaphorePermit) -> bool {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return false };
        self.jobs.send((job, [permit, place])).is_ok()
    }

    /// Whether no query is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.places.available_permits() == FORWARDS
    }
}

/// The queries that were handed over; never more than there are places.
#[derive(Debug)]
pub struct Jobs(mpsc::UnboundedReceiver<(Job, Permits)>);

/// Asks resolvers.
#[derive(Debug)]
pub struct Forwarder {
    engine: Arc<Engine>,
    host: Mutex<HostResolvers>,
    health: Mutex<Health>,
}

impl Forwarder {
    /// One that asks the resolvers of `resolv_conf` where a network names none.
    #[must_use]
    pub fn new(engine: Arc<Engine>, resolv_conf: PathBuf) -> Arc<Self> {
        Arc::new(Self { engine, host: Mutex::new(HostResolvers::new(resolv_conf)), health: Mutex::default() })
    }

    /// Forwards what is handed over, until nobody is left who could.
    pub async fn run(self: Arc<Self>, mut jobs: Jobs) {
        while let Some((job, permits)) = jobs.0.recv().await {
            let this = Arc::clone(&self);
            tokio::spawn(async move {
                this.serve(job).await;
                drop(permits);
            });
        }
    }

    async fn serve(&self, job: Job) {
        let Incoming::Query(query) = wire::read(&job.query) else { return };
        let transport = match &job.reply_to {
            ReplyTo::Udp(..) => Transport::Udp,
            ReplyTo::Tcp(_) => Transport::Tcp,
        };
        let reply = self.reply(&query, &job, transport).await;
        match &job.reply_to {
            ReplyTo::Udp(client) => {
                if job.tenant.udp().send_to(&reply, client).is_err() {
                    self.engine.counters.send_failures.add();
                }
            }
            // The connection was closed meanwhile.
            ReplyTo::Tcp(writer) => drop(writer.send(reply).await),
        }
    }

    /// The reply for the client: a resolver's, or that there is none.
    async fn reply(&self, query: &Query<'_>, job: &Job, transport: Transport) -> Vec<u8> {
        let counters = &self.engine.counters;
        let octets = most_octets(query, transport);
        if let Some(mut reply) = self.ask(query, job, transport).await {
            let truncated = wire::cut_off(query, octets, &mut reply);
            counters.forwarded.add();
            counters.wrote(transport, Written { code: ResponseCode::of(&reply), truncated });
            return reply;
        }
        counters.unanswered.add();
        let mut reply = Vec::new();
        let limits = Limits { octets, recursion_available: true };
        let written = wire::write_error(query, ResponseCode::ServerFailure, limits, &mut reply);
        counters.wrote(transport, written);
        reply
    }

    /// What the servers say that are to be asked; nothing when none says anything.
    async fn ask(&self, query: &Query<'_>, job: &Job, transport: Transport) -> Option<Vec<u8>> {
        let servers = match (&job.forwarding, job.tenant.own_servers()) {
            (Forwarding::Off, _) => return None,
            (Forwarding::Servers(servers), _) => servers.clone(),
            (Forwarding::Host, Some(own)) => {
                let through = Through { health: &own.health, own: Some(&own) };
                let asked = ask_each(query, &own.servers, through, transport);
                let mut reply = own.once(wire::question_key(query, transport == Transport::Tcp), asked).await?;
                wire::make_reply_to(query, &mut reply);
                return Some(reply);
            }
            (Forwarding::Host, None) => {
                self.host.lock().unwrap_or_else(PoisonError::into_inner).servers(Instant::now()).to_vec()
            }
        };
        ask_each(query, &servers, Through { health: &self.health, own: None }, transport).await
    }
}

/// Through what servers are asked.
#[derive(Clone, Copy)]
struct Through<'a> {
    /// Which of them answer.
    health: &'a Mutex<Health>,
    /// The sockets in the container's namespace; from the host's, where they are none of the container's own.
    own: Option<&'a OwnServers>,
}

impl Through<'_> {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the first server says that has something to say; failing that, what the last one said.
async fn ask_each(
    query: &Query<'_>,
    servers: &[SocketAddr],
    through: Through<'_>,
    transport: Transport,
) -> Option<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let chosen = through.health().choose(servers, Instant::now());
    let mut lame = None;
    for server in std::iter::repeat_n(&chosen, ROUNDS).flatten() {
        let patience = ATTEMPT.min(deadline.saturating_duration_since(Instant::now()));
        if patience.is_zero() {
            break;
        }
        match tokio::time::timeout(patience, exchange(*server, query, through, transport)).await {
            Ok(Ok(reply)) => {
                through.health().answered(*server);
                match ResponseCode::of(&reply) {
                    ResponseCode::ServerFailure | ResponseCode::Refused | ResponseCode::NotImplemented => {
                        lame = Some(reply);
                    }
                    ResponseCode::NoError
                    | ResponseCode::FormatError
                    | ResponseCode::NameError
                    | ResponseCode::BadVersion
                    | ResponseCode::Other => return Some(reply),
                }
            }
            Ok(Err(_)) | Err(_) => through.health().failed(*server, Instant::now()),
        }
        // Said once by each is enough.
        if lame.is_some() && chosen.last() == Some(server) {
            break;
        }
    }
    lame
}

/// Asks one server, and makes its reply the client's.
async fn exchange(
    server: SocketAddr,
    query: &Query<'_>,
    through: Through<'_>,
    transport: Transport,
) -> io::Result<Vec<u8>> {
    let id = rand::random::<u16>();
    let request = wire::forwarded(query, id);
    let by_datagram = async |socket: UdpSocket| by_udp(&socket, query, &request, id).await;
    let by_stream = async |stream: TcpStream| by_tcp(stream, query, &request, id).await;
    let mut reply = match through.own {
        Some(own) => own.by_udp(server, by_datagram).await?,
        None => by_datagram(connected(server).await?).await?,
    };
    if transport == Transport::Tcp && wire::is_truncated(&reply) {
        reply = match through.own {
            Some(own) => own.by_tcp(server, by_stream).await?,
            None => by_stream(TcpStream::connect(server).await?).await?,
        };
    }
    wire::make_reply_to(query, &mut reply);
    Ok(reply)
}

/// A datagram socket in the process's namespace that hears `server` only.
async fn connected(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    Ok(socket)
}

async fn by_udp(socket: &UdpSocket, query: &Query<'_>, request: &[u8], id: u16) -> io::Result<Vec<u8>> {
    socket.send(request).await?;
    let mut reply = vec![0; 4096];
    loop {
        let length = socket.recv(&mut reply).await?;
        // A guess by somebody else does not end the waiting.
        if wire::is_reply(&reply[..length], query, id) {
            reply.truncate(length);
            return Ok(reply);
        }
    }
}

async fn by_tcp(mut stream: TcpStream, query: &Query<'_>, request: &[u8], id: u16) -> io::Result<Vec<u8>> {
    let length = u16::try_from(request.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), request].concat()).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    if wire::is_reply(&reply, query, id) { Ok(reply) } else { Err(io::Error::other("the reply is not to the query")) }
}
