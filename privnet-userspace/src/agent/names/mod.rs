//! The DNS process as it should be: there, with a socket in every container of this host, and told every name.
//!
//! | module | what it owns |
//! |---|---|
//! | `handle` | wakes the names' task, and follows its reports |
//! | `worker` | pass after pass: process, sockets, names |
//! | `desired` | what should be told, from the world and the records |
//! | `search` | the search list of a container, and its `resolv.conf` |
//! | `resolv_conf` | the containers' files: written, kept, put back |
//! | `wait`, `drain` | what attach, detach and draining wait for |
//! | `reason` | why a container is told what it is told |

pub mod desired;
pub mod drain;
pub mod handle;
pub mod reason;
pub mod resolv_conf;
pub mod search;
pub mod wait;
pub mod worker;
