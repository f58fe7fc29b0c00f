//! The DNS process: names answered inside every container, from a snapshot, also while the agent is away.
//!
//! Sockets are handed in, already bound in the containers' namespaces; which container asks is known from the socket
//! and from nothing else. Owns the serving of them (UDP in threads that do nothing else, TCP and the forwarding of other
//! names in one runtime), the process `privnet dns` and the agent's door to it. Never enters a namespace, never decides
//! what exists (that is `names`).
//!
//! | module | what it owns |
//! |---|---|
//! | [`wire`] | messages: queries read, replies written |
//! | [`engine`] | what all that serve share: the zones, their age, the counters; from bytes to bytes |
//! | [`responder`] | all that serve, put together |
//! | [`tenant`] | one container: its sockets and its budgets |
//! | `udp`, `tcp` | the transports |
//! | `process` | what `privnet dns` is |
//! | `handle`, `sockets`, `protocol` | the agent's door to it; what it is handed; what the two say to each other |
//! | `forward`, `upstream` | other people's names: asked of whom, how long |
//! | [`stub`] | one question, asked as a program in a container asks it |

pub mod engine;
mod error;
mod forward;
mod handle;
#[cfg(test)]
mod hostile;
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
pub use sockets::Sockets;
pub use wire::ResponseCode;

/// Where a container's names are answered, unless it is set otherwise: on its loopback, at an address that neither
/// Docker (127.0.0.11), systemd-resolved (.53, .54) nor dnsmasq (127.0.1.1) uses.
pub const DEFAULT_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 82);
/// The port of DNS.
pub const PORT: u16 = 53;
