//! The sockets that systemd opened for the agent, by the names that its units give them (sd_listen_fds(3)).
//!
//! Such a socket is there before the agent and outlives it: a connection waits in its backlog while no agent runs. systemd
//! made its file with owner, group and mode, and removes it; the agent does neither.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;

/// The name of the control socket (`FileDescriptorName=`).
pub const CONTROL: &str = "control";
/// The name of the socket of Docker's plugin.
pub const DOCKER: &str = "docker";

/// Where systemd says the names, in the order of the descriptors.
const NAMES: &str = "LISTEN_FDNAMES";

/// The sockets that were handed over and are not taken yet.
#[derive(Debug, Default)]
pub struct Activation {
    listeners: BTreeMap<String, UnixListener>,
}

impl Activation {
    /// Takes the sockets that this process was started with, and their variables out of its environment. A second call finds
    /// none.
    ///
    /// Must be called while the process has one thread: it changes the environment.
    #[must_use]
    pub fn from_environment() -> Self {
        let names = std::env::var(NAMES).unwrap_or_default();
        let mut given = ListenFd::from_env();
        let mut listeners = BTreeMap::new();
        for (index, name) in names.split(':').take(given.len()).enumerate() {
            match given.take_unix_listener(index) {
                Ok(Some(listener)) => drop(listeners.insert(name.to_owned(), listener)),
                Ok(None) => {}
                Err(error) => tracing::warn!(name, "systemd handed over a socket that is none of the agent's: {error}"),
            }
        }
        Self { listeners }
    }

    /// The socket of this name; nothing when there is none, or when it was taken before.
    pub fn take(&mut self, name: &str) -> Option<UnixListener> {
        self.listeners.remove(name)
    }

    /// The names of those that were not taken. They are closed with this value: systemd keeps its own descriptor, and a
    /// connection to such a socket waits until an agent serves it.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        self.listeners.keys().map(String::as_str)
    }
}
