//! The threads for UDP, the tasks for TCP, the forwarder, and the containers that they serve.

use std::collections::BTreeMap;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use super::engine::Engine;
use super::forward::{ForwardQueue, Forwarder};
use super::tcp::TcpServer;
use super::tenant::Tenant;
use super::udp::UdpThread;
use crate::names::DnsClient;
use crate::netns::NetnsId;

/// The configuration of a responder.
#[derive(Clone, Debug)]
pub struct ResponderConfig {
    /// How many threads serve UDP.
    pub threads: usize,
    /// How old the snapshot may be before it is no longer answered from.
    pub max_age: Duration,
    /// The host's `resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// Serves containers. It is made and used in a runtime, which runs the tasks for TCP and for forwarding.
#[derive(Debug)]
pub struct Responder {
    engine: Arc<Engine>,
    tcp: TcpServer,
    forwards: ForwardQueue,
    threads: Vec<UdpThread>,
    containers: BTreeMap<NetnsId, Container>,
    forwarder: AbortHandle,
}

/// A container, by its namespace.
#[derive(Debug)]
struct Container {
    tenant: Arc<Tenant>,
    thread: usize,
    token: u64,
    listener: TcpListener,
    accepting: AbortHandle,
}

impl Responder {
    /// A responder without containers and names.
    ///
    /// # Errors
    /// When the process has no files or threads left.
    pub fn start(config: &ResponderConfig) -> io::Result<Self> {
        let engine = Arc::new(Engine::new(config.max_age));
        let (forwards, jobs) = ForwardQueue::new();
        let forwarder = Forwarder::new(Arc::clone(&engine), config.resolv_conf.clone());
        let threads = (0..config.threads.max(1)).map(|_| UdpThread::start(Arc::clone(&engine), forwards.clone()));
        Ok(Self {
            tcp: TcpServer::new(Arc::clone(&engine), forwards.clone()),
            forwards: forwards.clone(),
            threads: threads.collect::<io::Result<_>>()?,
            containers: BTreeMap::new(),
            forwarder: tokio::spawn(forwarder.run(jobs)).abort_handle(),
            engine,
        })
    }

    /// The zones and the counters.
    #[must_use]
    pub const fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The containers that are served.
    pub fn containers(&self) -> impl Iterator<Item = (NetnsId, Arc<DnsClient>)> {
        self.containers.iter().map(|(id, container)| (*id, container.tenant.client()))
    }

    /// Serves a container by the sockets that were bound in its namespace, in place of sockets that it had before, and asks its
    /// own servers by `own`.
    ///
    /// # Errors
    /// When the sockets cannot be used. It is not served then.
    pub fn serve(
        &mut self,
        id: NetnsId,
        client: DnsClient,
        (udp, listener): (UdpSocket, TcpListener),
        own: Vec<OwnedFd>,
    ) -> io::Result<()> {
        self.forget(id);
        let tenant = Tenant::new(client, udp, own)?;
        listener.set_nonblocking(true)?;
        let accepted = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        // The thread with the fewest sockets.
        let least = self.threads.iter().enumerate().min_by_key(|(_, thread)| thread.sockets());
        let Some((thread, of_thread)) = least else { return Err(io::Error::other("no thread serves UDP")) };
        let token = of_thread.add(&tenant)?;
        let accepting = tokio::spawn(self.tcp.clone().accept(Arc::clone(&tenant), accepted)).abort_handle();
        self.containers.insert(id, Container { tenant, thread, token, listener, accepting });
        Ok(())
    }

    /// Whether it has no connection and no forwarded query under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.forwards.is_idle() && self.tcp.is_idle()
    }

    /// Changes what exists for a container, and the sockets to ask its own servers by; false when it is not served.
    ///
    /// # Errors
    /// When the sockets cannot be used; nothing is changed.
    pub fn set_client(&self, id: NetnsId, client: DnsClient, own: Vec<OwnedFd>) -> io::Result<bool> {
        let Some(container) = self.containers.get(&id) else { return Ok(false) };
        container.tenant.set_client(client, own)?;
        Ok(true)
    }

    /// The sockets of a container, for another process to go on with.
    ///
    /// # Errors
    /// When the process has no files left.
    pub fn sockets(&self, id: NetnsId) -> io::Result<Option<(UdpSocket, TcpListener)>> {
        let Some(container) = self.containers.get(&id) else { return Ok(None) };
        Ok(Some((container.tenant.udp().try_clone()?, container.listener.try_clone()?)))
    }

    /// Stops serving a container, and closes its sockets, which held its namespace; false when it was not served.
    pub fn forget(&mut self, id: NetnsId) -> bool {
        let Some(container) = self.containers.remove(&id) else { return false };
        container.accepting.abort();
        self.threads[container.thread].remove(container.token);
        true
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.forwarder.abort();
        for container in self.containers.values() {
            container.accepting.abort();
        }
    }
}
