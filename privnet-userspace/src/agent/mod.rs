//! The only room with all the keys: watch, plan, observe, diff, apply, report.
//!
//! | module | what it owns |
//! |---|---|
//! | [`start`] | an agent from its configuration to its tasks, and back |
//! | `cluster`, `presence` | an agent on a store that many hosts share; that this host is there |
//! | [`control`] | the one door for the surfaces: requests go in, views come out |
//! | `attach`, `target` | one attach from end to end; which namespace it means |
//! | `worker` | one network on this host, pass after pass |
//! | `site`, `observe`, `apply` | the doors to one network; what is seen and done behind them |
//! | `housekeeping` | what happens without a request |
//! | `clock` | that this host's clock steps back is noticed and told |
//! | `names` | the DNS process, its sockets and what it is told |
//! | `world`, `journal` | the store's image; this host's own records |
//! | `scrape` | what the metrics read: counters, devices, the state; a read that fails is counted |
//! | [`doctor`], `facts` | what the host can do; what follows for this agent |
//! | [`views`], [`error`] | what the surfaces may see |

mod apply;
mod attach;
mod clock;
mod cluster;
pub mod config;
pub mod control;
pub mod doctor;
pub mod error;
mod explain;
mod facts;
#[cfg(test)]
mod hostile;
mod housekeeping;
mod journal;
mod names;
mod observe;
mod presence;
mod scrape;
mod shared;
mod site;
pub mod start;
mod strays;
mod target;
pub mod views;
mod worker;
mod world;

pub use config::{Config, DatapathChoice, NamesConfig};
pub use control::Control;
pub use error::{ControlError, ErrorCode};
pub use start::Agent;

pub use crate::store::{EtcdOptions, EtcdTls};

/// Seconds since 1970-01-01 UTC.
fn now_unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
