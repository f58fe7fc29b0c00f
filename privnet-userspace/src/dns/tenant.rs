//! A tenant: one container that the DNS process serves. Its UDP socket, its networks, its own servers, and its share of what
//! all tenants use.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::own::OwnServers;
use crate::names::DnsClient;

/// How many forwarded queries of one container are under way at most.
const FORWARDS_PER_CONTAINER: usize = 64;
/// How many TCP connections one container has at most.
pub(super) const CONNECTIONS_PER_CONTAINER: usize = 32;

/// A container that is served, with the UDP socket in its namespace.
#[derive(Debug)]
pub struct Tenant {
    client: RwLock<Arc<DnsClient>>,
    own: RwLock<Option<Arc<OwnServers>>>,
    udp: UdpSocket,
    forwards: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Tenant {
    /// A container whose programs send their queries to `udp`, and whose own servers are asked by `own`.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking, or one of `own` is none.
    pub fn new(client: DnsClient, udp: UdpSocket, own: Vec<OwnedFd>) -> std::io::Result<Arc<Self>> {
        udp.set_nonblocking(true)?;
        Ok(Arc::new(Self {
            own: RwLock::new(OwnServers::new(client.upstreams.clone(), own)?),
            client: RwLock::new(Arc::new(client)),
            udp,
            forwards: Arc::new(Semaphore::new(FORWARDS_PER_CONTAINER)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_PER_CONTAINER)),
        }))
    }

    /// The container as a client of the DNS.
    #[must_use]
    pub fn client(&self) -> Arc<DnsClient> {
        Arc::clone(&self.client.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the networks that exist for the container, and the servers that it asked before.
    ///
    /// # Errors
    /// When one of `own` is no socket; nothing is changed.
    pub fn set_client(&self, client: DnsClient, own: Vec<OwnedFd>) -> std::io::Result<()> {
        let own = OwnServers::new(client.upstreams.clone(), own)?;
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = own;
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(client);
        Ok(())
    }

    /// The container's own servers; nothing when it has none, and the host's are asked.
    pub(super) fn own_servers(&self) -> Option<Arc<OwnServers>> {
        self.own.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The UDP socket.
    #[must_use]
    pub const fn udp(&self) -> &UdpSocket {
        &self.udp
    }

    /// A permit to forward one more query; `None` when the container has [`FORWARDS_PER_CONTAINER`] under way.
    pub(super) fn forward_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.forwards).try_acquire_owned().ok()
    }

    /// A permit to open one more connection; `None` when the container has [`CONNECTIONS_PER_CONTAINER`].
    pub(super) fn connection_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }
}
