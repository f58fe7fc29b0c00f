//! The door to aya: loads the programs of a network, attaches them, writes their tables, reads their counters.
//!
//! A [`Network`] is one instance: four programs and the maps of [`privnet_ebpf::maps`], all pinned in a directory of
//! the bpffs, so that programs run on and isolate without the agent. [`Network::open`] adopts a pinned instance. The
//! room has no policy: the caller decides which members the tables hold.
//!
//! | file | what it owns |
//! |---|---|
//! | [`plain`] | the one `unsafe impl`: plain data as values of aya's maps |
//! | [`object`] | the embedded object, and the mark of its bytes |
//! | [`pinned`] | pinned maps: compared with the table, then opened |
//! | [`network`] | opening an instance: compare, adopt or load, pin |
//! | [`hook`] | the hooks of the programs, and the methods of attaching |
//! | [`attach`] | attaching programs to interfaces, by clsact or TCX |
//! | [`running`] | what runs at a hook, whoever attached it |
//! | [`restore`] | pins that a stranger removed |
//! | [`tables`] | typed reads and writes of the tables |
//! | [`counters`] | typed reads of the counters |
//! | [`events`] | sampled drops |
//! | [`reasons`] | what a drop means to people |
//! | [`features`] | the kernel's features |

mod attach;
mod counters;
mod error;
mod events;
mod features;
mod hook;
mod network;
mod object;
mod pinned;
mod plain;
mod reasons;
mod restore;
mod running;
mod tables;

pub use attach::{Attachment, CLSACT_PRIORITY, clsact_handle};
pub use counters::Counters;
pub use error::Error;
pub use events::{Event, Events, RingId};
pub use features::{Features, features, is_bpffs};
pub use hook::{Hook, Method};
pub use network::{Network, NetworkSpec};
pub use privnet_ebpf::abi::{MemberRow, PortRow, Tally};
pub use privnet_ebpf::verdict::{Direction, DropReason, Outcome};
pub use reasons::{Explained, explained};
pub use restore::pin_again;
pub use running::{Running, Side, running_by_tcx};
