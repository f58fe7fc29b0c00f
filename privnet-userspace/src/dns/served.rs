//! One container, as it is served: its sockets, what exists for it, and how much of everybody's it may use.

use std::net::UdpSocket;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::forward::FORWARDS_PER_CONTAINER;
use super::tcp::CONNECTIONS_PER_CONTAINER;
use crate::names::Asker;

/// A container, with the UDP socket in its namespace.
#[derive(Debug)]
pub struct Served {
    asker: RwLock<Arc<Asker>>,
    udp: UdpSocket,
    forwards: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Served {
    /// A container whose names are asked for on `udp`.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking.
    pub fn new(asker: Asker, udp: UdpSocket) -> std::io::Result<Arc<Self>> {
        udp.set_nonblocking(true)?;
        Ok(Arc::new(Self {
            asker: RwLock::new(Arc::new(asker)),
            udp,
            forwards: Arc::new(Semaphore::new(FORWARDS_PER_CONTAINER)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_PER_CONTAINER)),
        }))
    }

    /// Who asks.
    #[must_use]
    pub fn asker(&self) -> Arc<Asker> {
        Arc::clone(&self.asker.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the networks that exist for the container.
    pub fn set_asker(&self, asker: Asker) {
        *self.asker.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(asker);
    }

    /// The UDP socket.
    #[must_use]
    pub const fn udp(&self) -> &UdpSocket {
        &self.udp
    }

    /// Leave to forward one more query, if the container has not too many under way.
    pub(super) fn leave_to_forward(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.forwards).try_acquire_owned().ok()
    }

    /// Leave to open one more connection, if the container has not too many.
    pub(super) fn leave_to_connect(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }
}
