//! Streams: a TCP connection from a process of the host to a container of a network. It is made by a member of its own, in a
//! namespace of its own, which last as long as the stream.
//!
//! The namespace has no pin and no process. It is found by a thread of the agent, so the membership of an agent that dies is
//! taken for that of a container that is gone, and the next agent ends it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};

use super::attach::attach_at;
use super::error::{ControlError, ErrorCode};
use super::explain::explain;
use super::gone::wait_until_gone;
use super::names::addresses_of;
use super::reads::find_network;
use super::target::TargetNetns;
use super::views::{Attach, OpenStream, Target};
use crate::agent::host::journal::Record;
use crate::agent::membership;
use crate::agent::netns_links::NetnsLinks;
use crate::agent::shared::{Memberships, Shared};
use crate::link;
use crate::model::{MemberId, Network};
use crate::netns::Netns;

/// The app of a stream's member, unless the caller says another.
const APP: &str = "privnet";
/// The type of a stream's member.
const TYPE: &str = "connect";
/// How long a container may take to accept, in seconds, unless the caller says otherwise.
const TIMEOUT_SECONDS: u32 = 15;

/// The process that asked for a stream, as the control socket knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its user.
    pub uid: u32,
    /// Its process, where the kernel says so.
    pub pid: Option<i32>,
}

/// How many bytes a stream has carried.
#[derive(Debug, Default)]
pub struct Carried {
    /// From the caller to the container.
    pub sent: AtomicU64,
    /// From the container to the caller.
    pub received: AtomicU64,
}

/// A stream to a container that has accepted.
#[derive(Debug)]
pub struct OpenedStream {
    /// The connection.
    pub socket: TcpStream,
    /// How much was carried by it, for the log.
    pub carried: Arc<Carried>,
    /// Takes why the stream has ended, once the socket is closed; a stream that is dropped ends too. Closed by the agent when
    /// the stream's member was ended by another request.
    pub ended: oneshot::Sender<String>,
}

/// Opens a stream: makes its member, looks its host up as that member, and connects.
///
/// # Errors
/// Nothing of the member is left, or is being removed.
pub(super) async fn open(
    shared: &Arc<Shared>,
    request: OpenStream,
    caller: Caller,
) -> Result<OpenedStream, ControlError> {
    shared.host.state_dir.check_writable()?;
    let network = find_network(shared, &request.network).await?;
    let address = request.host.parse::<Ipv4Addr>().ok();
    if let Some(address) = address {
        refuse_without_member(shared, &network, address)?;
    }
    let member = StreamMember::make(shared, &network, request.app.as_deref()).await?;
    let connected = member.connect(shared, &network, &request, address).await;
    let (socket, at) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            member.end(shared).await;
            return Err(error);
        }
    };
    let log = Log { network: network.name.to_string(), to: format!("{}:{}", request.host, request.port), caller };
    log.begins(at, &member.record);
    let carried = Arc::new(Carried::default());
    let (ended, end) = oneshot::channel();
    tokio::spawn(keep(Arc::clone(shared), member, end, log, Arc::clone(&carried)));
    Ok(OpenedStream { socket, carried, ended })
}

/// An address that no member has would not answer, which takes time to see.
fn refuse_without_member(shared: &Shared, network: &Network, address: Ipv4Addr) -> Result<(), ControlError> {
    if shared.world(|world| world.members(network.id).any(|member| member.address == address)) {
        return Ok(());
    }
    let message = format!("no member of network {} has the address {address}", network.name);
    let remedy = format!("`privnet members --network {}` shows their addresses", network.name);
    Err(ControlError::new(ErrorCode::MemberNotFound, message, remedy))
}

/// Ends the member when its stream has ended; ends the stream when the member was.
async fn keep(
    shared: Arc<Shared>,
    member: StreamMember,
    end: oneshot::Receiver<String>,
    log: Log,
    carried: Arc<Carried>,
) {
    let why = tokio::select! {
        why = end => why.unwrap_or_else(|_| "its caller did not wait for it".to_owned()),
        () = until_ended(&shared, member.record.id, member.record.network) => "its member was ended".to_owned(),
    };
    log.ends(&carried, &why);
    member.end(&shared).await;
}

/// Until another request, or the store, has ended a membership.
async fn until_ended(shared: &Memberships, id: MemberId, network: crate::model::NetworkId) {
    let mut reports = shared.workers.of(network).reports();
    while shared.journal().records().get(&id).is_some_and(|record| !record.leaving) {
        if reports.changed().await.is_err() {
            // The agent is ending, and the stream with it.
            return std::future::pending().await;
        }
    }
}

/// How many streams this process has at most: each has an address of its network, which has an end.
const MOST_STREAMS: usize = 256;
static STREAMS: Semaphore = Semaphore::const_new(MOST_STREAMS);

/// The member of a stream.
struct StreamMember {
    /// One of [`STREAMS`], until nothing of the member is left.
    _place: SemaphorePermit<'static>,
    record: Record,
    /// Holds the namespace, whose other users are the stream's socket and the agent's own tasks.
    netns: Netns,
}

impl StreamMember {
    async fn make(shared: &Shared, network: &Network, app: Option<&str>) -> Result<Self, ControlError> {
        let place = STREAMS.try_acquire().map_err(|_| too_many())?;
        let (netns, path) = make_netns().await.map_err(|error| explain(&error))?;
        let request = Attach {
            network: network.id.to_string(),
            app: app.unwrap_or(APP).to_owned(),
            kind: Some(TYPE.to_owned()),
            number: None,
            address: None,
            target: Target::Netns(path.clone()),
            ports: Vec::new(),
            resolv_conf: None,
            attachment: None,
        };
        let found = TargetNetns { path, netns: netns.clone(), handover: None, may_come_back: true, only: None };
        let address = attach_at(shared, network, request, Some(found)).await?.member.address;
        let record = shared.journal().at(network.id, address).cloned();
        let ended = || ControlError::new(ErrorCode::MemberNotFound, "the stream's member was ended", "try again");
        let record = record.filter(|record| record.netns == netns.id()).ok_or_else(ended)?;
        Ok(Self { _place: place, record, netns })
    }

    /// Connects to the address, or to one that the name has.
    async fn connect(
        &self,
        shared: &Shared,
        network: &Network,
        request: &OpenStream,
        address: Option<Ipv4Addr>,
    ) -> Result<(TcpStream, SocketAddrV4), ControlError> {
        let OpenStream { host, port, timeout_seconds, .. } = request;
        let addresses = match address {
            Some(address) => vec![address],
            None => addresses_of(shared, self.netns.id(), host).await?,
        };
        let timeout = timeout_seconds.unwrap_or(TIMEOUT_SECONDS);
        let deadline = Instant::now() + Duration::from_secs(timeout.into());
        let mut failed = unknown_name(network, host);
        for address in addresses {
            let at = SocketAddrV4::new(address, port.get());
            failed = match timeout_at(deadline, connect_from(&self.netns, at)).await {
                Ok(Ok(socket)) => return Ok((socket, at)),
                Ok(Err(error)) => refused(network, host, at, &error),
                Err(_) => return Err(timed_out(network, host, at, timeout)),
            };
        }
        Err(failed)
    }

    /// Ends the membership, and holds the namespace until nothing of it is left.
    async fn end(self, shared: &Shared) {
        let ended = match membership::end_here(shared, &self.record).await {
            Ok(leaving) => {
                drop(leaving);
                wait_until_gone(shared, &self.record).await
            }
            Err(error) => Err(explain(&error)),
        };
        if let Err(error) = ended {
            tracing::warn!(network = %self.record.network, "{error}");
        }
    }
}

fn too_many() -> ControlError {
    ControlError::new(
        ErrorCode::PoolExhausted,
        format!("this agent has {MOST_STREAMS} streams already, and each has an address of its network"),
        "end others first, or attach a container for what needs more",
    )
}

/// Makes a namespace, and says where it is found: at the thread that is in it.
async fn make_netns() -> anyhow::Result<(Netns, PathBuf)> {
    let netns = Netns::create_anonymous()?;
    let inside = NetnsLinks::enter(netns.clone()).await?;
    link::ensure_loopback_up(&inside.links).await?;
    let thread = netns.run(rustix::thread::gettid).await?;
    let process = std::process::id();
    let path = format!("/proc/{process}/task/{}/ns/net", thread.as_raw_nonzero());
    Ok((netns, path.into()))
}

async fn connect_from(netns: &Netns, at: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = netns.run(TcpSocket::new_v4).await.map_err(io::Error::other)??;
    socket.set_keepalive(true)?;
    let stream = socket.connect(at.into()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn unknown_name(network: &Network, host: &str) -> ControlError {
    let message = format!("no container of network {} has the name {host}", network.name);
    let remedy = "give an address, a full name, or `<type>.<app>`; `privnet domain-names --app AP` lists the names of an \
                  app, and with --app AP its types are names by themselves";
    ControlError::new(ErrorCode::MemberNotFound, message, remedy)
}

fn refused(network: &Network, host: &str, at: SocketAddrV4, error: &io::Error) -> ControlError {
    let message = format!("cannot connect to {host} in network {}, at {at}: {error}", network.name);
    let remedy = format!(
        "see whether a program of that container listens on port {}, at its private address or at 0.0.0.0",
        at.port()
    );
    ControlError::new(ErrorCode::ConnectionFailed, message, remedy)
}

fn timed_out(network: &Network, host: &str, at: SocketAddrV4, seconds: u32) -> ControlError {
    let message =
        format!("cannot connect to {host} in network {}, at {at}: no answer within {seconds} s", network.name);
    let remedy = format!(
        "see whether the container drops what comes for port {}, and with `privnet hosts` whether its host is there",
        at.port()
    );
    ControlError::new(ErrorCode::Timeout, message, remedy)
}

/// What the log says of a stream.
struct Log {
    network: String,
    to: String,
    caller: Caller,
}

impl Log {
    fn begins(&self, at: SocketAddrV4, member: &Record) {
        let (from, name) = (member.address, member.names_text());
        let Self { network, to, caller: Caller { uid, pid } } = self;
        tracing::info!(%network, uid, pid, "a stream to {to} ({at}) begins, from {name} ({from})");
    }

    fn ends(&self, carried: &Carried, why: &str) {
        let [sent, received] = [&carried.sent, &carried.received].map(|count| count.load(Ordering::Relaxed));
        let Self { network, to, caller: Caller { uid, pid } } = self;
        tracing::info!(%network, uid, pid, sent, received, "a stream to {to} ends: {why}");
    }
}
