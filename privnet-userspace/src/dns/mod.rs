//! The DNS process: names answered inside every container, from a snapshot, also while the agent is away.
//!
//! The agent binds the sockets in the containers' namespaces and hands them over: the socket of a query identifies the
//! container. This room serves the sockets (UDP in threads of its own, TCP and the forwarding of other names in one
//! runtime), and owns the process `privnet dns` and the agent's door to it. It enters no namespace, and which names
//! exist is decided by `names`.
//!
//! | module | what it owns |
//! |---|---|
//! | [`wire`] | messages: queries read, replies written |
//! | [`engine`] | the zones, their age and the counters, shared by all transports; from bytes to bytes |
//! | [`responder`] | the threads and tasks that serve the containers |
//! | [`tenant`] | one container: its sockets and its budgets |
//! | `udp`, `tcp` | the transports |
//! | `process` | the process `privnet dns` |
//! | `handle`, `sockets`, `protocol` | the agent's door to the process; the sockets it is handed; their messages |
//! | `forward`, `upstream` | names of others: the resolvers that are asked, and for how long |
//! | `own` | the servers that a container asked before, and sockets in its namespace |
//! | [`stub`] | one question, asked as a program in a container asks it |

pub mod engine;
mod error;
mod forward;
mod handle;
#[cfg(test)]
mod hostile;
mod own;
mod process;
mod protocol;
pub mod responder;
mod sockets;
pub mod stub;
mod tcp;
pub mod tenant;
mod udp;
mod upstream;
pub mod wire;

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

pub use engine::Transport;
pub use error::Error;
pub use handle::{DnsProcess, ProcessSpec};
pub use process::serve_process;
pub use protocol::{Dns, ProcessState, Resolved, ServedContainer, Source};
pub use sockets::{Sockets, open_own};
pub use upstream::servers_of;
pub use wire::ResponseCode;

/// Where a container's names are answered, unless it is set otherwise: on its loopback, at an address that neither
/// Docker (127.0.0.11), systemd-resolved (.53, .54) nor dnsmasq (127.0.1.1) uses.
pub const DEFAULT_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 82);
/// The port of DNS.
pub const PORT: u16 = 53;
