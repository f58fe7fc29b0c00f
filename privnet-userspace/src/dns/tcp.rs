//! Queries by TCP (RFC 7766): many on one connection, answered as they are ready.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::engine::{Engine, Scratch, Step, Transport};
use super::forward::{ForwardQueue, Job, ReplyTo};
use super::tenant::Tenant;
use super::wire::{self, Incoming, Limits, ResponseCode};

/// The most connections of all containers together.
const CONNECTIONS: usize = 1024;
/// How long a connection may be silent, a query may take to arrive, and a client may take to read a reply.
pub const IDLE: Duration = Duration::from_secs(10);
/// How many replies wait for a slow client; its next queries wait as well.
const REPLIES_WAITING: usize = 32;
/// The pause between two attempts to accept while the process has no files left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The parts that all connections share.
#[derive(Clone, Debug)]
pub struct TcpServer {
    engine: Arc<Engine>,
    forwards: ForwardQueue,
    places: Arc<Semaphore>,
}

impl TcpServer {
    /// A server without connections.
    #[must_use]
    pub fn new(engine: Arc<Engine>, forwards: ForwardQueue) -> Self {
        Self { engine, forwards, places: Arc::new(Semaphore::new(CONNECTIONS)) }
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.places.available_permits() == CONNECTIONS
    }

    /// Accepts a container's connections until the task is aborted; connections that exist go on then.
    pub async fn accept(self, tenant: Arc<Tenant>, listener: TcpListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let place = Arc::clone(&self.places).try_acquire_owned().ok();
            match (tenant.connection_permit(), place) {
                (Some(permits), Some(place)) => self.open(Arc::clone(&tenant), stream, [permits, place]),
                // Dropping the stream closes the connection, which the client notices at once.
                (None, _) | (_, None) => self.engine.counters.connections_refused.add(),
            }
        }
    }

    fn open(&self, tenant: Arc<Tenant>, stream: TcpStream, permits: [OwnedSemaphorePermit; 2]) {
        // A reply is written as a whole, so the kernel need not collect.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        let (replies, queue) = mpsc::channel(REPLIES_WAITING);
        let this = self.clone();
        tokio::spawn(async move {
            let writing = tokio::spawn(write(writer, queue));
            // The end of either half ends the other: the reader drops its sender, the writer closes the queue.
            let _ = this.read(&tenant, reader, replies).await;
            let _ = writing.await;
            drop(permits);
        });
    }

    /// Reads queries until there are no more, and answers or forwards each.
    async fn read(
        &self,
        tenant: &Arc<Tenant>,
        mut reader: OwnedReadHalf,
        replies: mpsc::Sender<Vec<u8>>,
    ) -> io::Result<()> {
        let mut scratch = Scratch::default();
        let mut query = Vec::new();
        loop {
            tokio::time::timeout(IDLE, read_message(&mut reader, &mut query)).await??;
            let mut reply = Vec::new();
            match self.handle(tenant, &mut scratch, &query, &mut reply) {
                Step::Silence => continue,
                Step::Reply => {}
                Step::Forward(forwarding) => {
                    let reply_to = ReplyTo::Tcp(replies.clone());
                    let job = || Job { tenant: Arc::clone(tenant), query: query.clone(), forwarding, reply_to };
                    if tenant.forward_permit().is_some_and(|permits| self.forwards.forward(job(), permits)) {
                        continue;
                    }
                    self.refuse(&query, &mut reply);
                }
            }
            replies.send(reply).await.map_err(io::Error::other)?;
        }
    }

    fn handle(&self, tenant: &Tenant, scratch: &mut Scratch, query: &[u8], reply: &mut Vec<u8>) -> Step {
        let counters = &self.engine.counters;
        self.engine.view().handle(counters, scratch, &tenant.client(), (query, Transport::Tcp), reply)
    }

    fn refuse(&self, bytes: &[u8], reply: &mut Vec<u8>) {
        self.engine.counters.over_budget.add();
        if let Incoming::Query(query) = wire::read(bytes) {
            let limits = Limits { octets: wire::TCP_MOST_OCTETS, recursion_available: true };
            let written = wire::write_error(&query, ResponseCode::ServerFailure, limits, reply);
            self.engine.counters.wrote(Transport::Tcp, written);
        }
    }
}

/// Reads a message, which its length precedes; an error at the end of the stream.
async fn read_message(reader: &mut OwnedReadHalf, message: &mut Vec<u8>) -> io::Result<()> {
    let length = usize::from(reader.read_u16().await?);
    if length < wire::HEADER_OCTETS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    message.clear();
    // In parts: the client may announce more than it sends.
    while message.len() < length {
        let rest = u64::try_from(length - message.len()).unwrap_or(0);
        if (&mut *reader).take(rest).read_buf(message).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Writes replies until there are no more senders, or the client does not read one in time.
async fn write(mut writer: OwnedWriteHalf, mut replies: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    let mut framed = Vec::new();
    while let Some(reply) = replies.recv().await {
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        framed.clear();
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&reply);
        tokio::time::timeout(IDLE, writer.write_all(&framed)).await??;
    }
    writer.shutdown().await
}
