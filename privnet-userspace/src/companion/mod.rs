//! A companion: a process of ours that the agent starts and that outlives it, because it holds descriptors or sessions that
//! must not end with the agent. The DNS process and the WireGuard processes are companions.
//!
//! A [`Protocol`] says what is special about one kind: its messages, their version, what it is started with, and how a
//! process of another build is replaced. Everything else is the same for all kinds and stands here.
//!
//! ```text
//!  agent                                        companion
//!  Handle::start ── secret, Start, files ─▶ standard input ─▶ serve ─▶ Service::start
//!                ◀─ Started ───────────────                     │
//!  Handle::ask   ── Request, files ───────▶ control.sock ─────▶ Service::respond
//!                ◀─ Reply or Response, files                    │
//!  Handle::find  ── hello: version and build                    │
//!  Handle::end   ── SIGTERM, then SIGKILL                       ▼ Service::end
//! ```
//!
//! One request and one answer per connection, each one line of JSON, with its descriptors at the first octet. Each exchange
//! has a bound of its own, so a companion that hangs costs its caller that time and no other companion anything.
//!
//! | module | what it owns |
//! |---|---|
//! | `protocol` | what a kind of companion is; the envelope that all kinds share |
//! | `handle` | the agent's side: start, find, ask, end |
//! | `serve` | the companion's side: from `main` to the last answer |
//! | `upgrade` | the two run dirs of a companion that hands over, and what is found in them |
//! | `error` | what can go wrong, with the process and its run dir |
//! | `run_dir` | control socket, locked pid file, log |
//! | `last_agent` | whether the agent lives that a companion was last told something by |
//! | `liveness` | how a companion learns that its container has ended |
//! | `channel` | messages with descriptors over a socket |
//! | `privileges` | its log, and the privileges that it gives up |
//! | `ending` | waiting for a process to end, and ending it |

mod channel;
mod ending;
mod error;
mod handle;
mod last_agent;
mod liveness;
mod privileges;
mod protocol;
mod run_dir;
mod serve;
#[cfg(test)]
mod tests;
mod upgrade;

pub use ending::Ending;
pub use error::{Cause, Error};
pub use handle::{Found, Handle};
pub use liveness::{Liveness, LivenessError, LivenessWatch};
pub use privileges::{raise_descriptor_limit, watch};
pub use protocol::{BinaryId, Given, Identity, Program, Protocol, Request, Upgrade};
pub use run_dir::RunDir;
pub use serve::{Service, serve};
pub use upgrade::Standing;
