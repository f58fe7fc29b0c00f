//! From intent to operations: what one host must have for one network, what was seen, and the difference. Pure.
//!
//! `Intent` → [`plan::plan`] → [`State`] (desired); the agent observes another [`State`]; [`diff::diff`] gives the ordered
//! list of [`op::Op`]s that leads from the one to the other. Applied twice, the second list is empty.

pub mod diff;
pub mod intent;
pub mod object;
pub mod op;
pub mod ownership;
pub mod plan;

pub use diff::diff;
pub use intent::{Datapath, Intent, LocalMember};
pub use object::{Key, Peer, PeerTable, Spec, State};
pub use op::Op;
pub use plan::plan;
