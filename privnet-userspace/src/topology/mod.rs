//! From intent to operations: what one host must have for one network, what was seen, and the difference. Pure.
//!
//! `Intent` → [`plan::plan`] → [`Plan`]; the agent observes a [`State`]; [`diff::diff`] gives the ordered list of
//! [`op::Op`]s that leads from the one to the other. Applied twice, the second list is empty.

pub mod diff;
pub mod intent;
pub mod object;
pub mod op;
pub mod ownership;
pub mod peers;
pub mod plan;
pub mod state;
pub mod table;

pub use diff::diff;
pub use intent::{Datapath, DeviceAt, Intent, LocalMember};
pub use object::{Key, Kind, Object, kind, spec};
pub use op::Op;
pub use peers::{Peer, PeerTable};
pub use plan::plan;
pub use state::{Before, Plan, Seen, State};
