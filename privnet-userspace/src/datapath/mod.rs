//! The door to aya: loads the programs of a network, attaches them, fills their tables, reads their counters.
//!
//! A [`Network`] is one instance: four programs and the maps of [`privnet_ebpf::maps`], all pinned in a directory of the
//! bpffs that the caller names, so that traffic goes on, isolated as before, when the agent is gone. Opening it again
//! adopts what is pinned. Holds no policy: it does not know which members there should be.
//!
//! | file | what it owns |
//! |---|---|
//! | [`plain`] | the one `unsafe impl`: plain data as values of aya's maps |
//! | [`object`] | the embedded object, and its mark |
//! | `pinned` | pinned maps: compared, then opened |
//! | [`network`] | opening an instance: compare, adopt or load, pin |
//! | `hook` | the places of the programs |
//! | [`attach`] | programs on interfaces, by clsact or TCX |
//! | [`tables`] | typed reads and writes of the tables |
//! | [`counters`] | typed reads of the counters |
//! | [`events`] | sampled drops |
//! | [`features`] | what the kernel can do |

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
mod tables;

pub use attach::{Attachment, CLSACT_PRIORITY, clsact_handle};
pub use counters::Counters;
pub use error::Error;
pub use events::{Event, Events};
pub use features::{Features, features, is_bpffs};
pub use hook::{Hook, Method};
pub use network::{Network, NetworkSpec};
pub use privnet_ebpf::abi::{MemberRow, PortRow, Tally};
pub use privnet_ebpf::verdict::{Direction, DropReason, Outcome};
