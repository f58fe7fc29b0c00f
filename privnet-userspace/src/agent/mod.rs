//! The only room with all the keys: watch, plan, observe, diff, apply, report.
//!
//! | module | what it owns |
//! |---|---|
//! | [`start`], `start_etcd`, [`config`] | an agent from its configuration to its tasks, and back |
//! | `host` | this host: facts, records, clock, presence, cluster |
//! | `network` | one network on this host: worker, objects, observation and change |
//! | `door` | the surfaces: requests, views, errors, checks |
//! | `names` | the DNS process, its sockets and what it is told |
//! | `belief`, `snapshot`, `put_back` | what was seen of the store does not step back: in memory, on the disk, in the store |
//! | `world`, `concerns`, `seen` | the image in memory of what is believed of the store, and how a claim chooses from it |
//! | `netns_links` | a namespace with its netlink socket |
//! | `foreign_ranges` | where a namespace sends packets by interfaces that are no private network's |
//! | `drops` | the frames that the programs drop, for those who watch |
//! | `follow`, `checks` | what happens without a request: the store's changes, the members' checks |
//! | `membership`, `kept` | how a membership ends; the places of those that ended while the store was away |
//! | `adoption`, `revival` | members that another instance of this host's agent made; an agent that was forgotten |
//! | `recovery`, `unrecorded` | the journal entry of a membership, made again from what is in the kernel |
//! | `contact`, `store_problems`, `backoff` | whether the store answers, how old its image is; pauses between attempts |
//! | `hosts` | which hosts are there, and since when another is not |
//! | `said` | what the log has said of a trouble that repeats |
//! | `audit` | whether what members send goes into their tunnels and nowhere else, read from the kernel |
//! | `purge` | the end of all that a host has |
//! | `turns` | whether the tasks still turn |
//! | `shared` | the parts that the tasks are handed, and the order of their locks |

mod adoption;
mod audit;
mod backoff;
mod belief;
mod checks;
mod concerns;
pub mod config;
mod contact;
mod door;
mod drops;
mod follow;
mod foreign_ranges;
mod host;
#[cfg(test)]
mod hostile;
mod hosts;
mod kept;
mod membership;
mod names;
mod netns_links;
mod network;
mod purge;
mod put_back;
mod recovery;
mod revival;
mod said;
mod seen;
mod shared;
mod snapshot;
pub mod start;
mod start_etcd;
mod store_problems;
mod turns;
mod unrecorded;
mod world;

pub use audit::{Audit, Finding, audit};
pub use config::{Config, DatapathChoice, NamesConfig};
pub use door::control::Control;
pub use door::error::{ControlError, ErrorCode};
pub(crate) use door::explain::MORE_DESCRIPTORS;
pub use door::verbs::AgentApi;
pub(crate) use door::verbs::verbs;
pub use door::{control, doctor, error, handover, streams, views};
pub use host::capabilities::check_own as check_capabilities;
pub use host::facts::Underlay;
pub use host::journal::{Durability, rename_over};
pub use purge::memberships_of;
pub use start::Agent;

pub use crate::store::{EtcdLogin, EtcdOptions, EtcdTls};

/// Seconds since 1970-01-01 UTC.
fn now_unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
