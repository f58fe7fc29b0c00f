//! The transactions that give out names, VNIs, subnets, numbers and addresses. Each happens whole or not at all.
//!
//! Every function reads, decides, and commits on the condition that what it read is still so; if not, it starts over.

pub mod claim;
pub mod error;
#[cfg(test)]
mod error_rows;
pub mod forgetting;
mod free;
pub mod members;
pub mod names;
pub mod networks;
pub mod occupancy;
pub mod release;
pub mod revival;
pub mod vxlan_port;

#[cfg(test)]
mod tests;

pub use claim::{MemberClaim, NameClaim, NameWish};
pub use error::{MemberError, NetworkError, some_of};
pub use forgetting::{Forgetting, Forgotten, forget_host};
pub use members::{Written, adopt_member, claim_member, set_member_state, update_member};
pub use names::{MAX_NAMES, Released, add_name, drain_name, release_name};
pub use networks::{NewNetwork, create_network, delete_network, end_network, members_of_network, remove_leftovers};
pub use occupancy::{Choice, Found, NothingSeen, Occupancy, Seen};
pub use release::{End, release_member};
pub use revival::revive_member;
pub use vxlan_port::{VxlanPortError, hosts_of_earlier_builds, set_vxlan_port};

use super::contract::Entry;
use super::transaction::Expected;

/// How often a transaction is tried while others get in between; each failure is another one's success.
const MAX_ATTEMPTS: u32 = 1000;

/// How many choices may turn out to be taken before everything is read: what has been seen is far behind then.
const STALE_CHOICES: u32 = 4;

/// That a key is as it was read.
fn unchanged(entry: Option<&Entry>) -> Expected {
    entry.map_or(Expected::Absent, |entry| Expected::Revision(entry.revision))
}
