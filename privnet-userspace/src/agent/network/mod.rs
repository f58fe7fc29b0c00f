//! One network on this host: observed, compared with what is wanted, and changed, pass after pass.
//!
//! | module | what it owns |
//! |---|---|
//! | `supervisor`, `worker` | the task of each network: pass after pass |
//! | `apply` | the operations of a pass, carried out |
//! | `ready` | what the store is told of members that are ready |
//! | `handle` | wakes a worker, and follows its reports |
//! | `intent` | what this host must have, from the store and its own records |
//! | `local` | the records, namespaces, sockets and programs of one network, kept for a pass |
//! | `container` | what a member needs of its container |
//! | `objects` | one file per kind of object: how it is observed, made, changed and removed |
//! | `observe`, `scan` | a look at everything; each list is read once |
//! | `watch` | watchers in the namespaces, which wake the worker |
//! | `sessions`, `resumption` | the sessions that were last seen, and how those of a device that is made anew are begun again |
//! | `pace` | how often something may happen |
//! | `own_netns` | namespaces of ours, hardened |
//! | `orphans` | veth pairs without a record |

mod apply;
mod container;
pub mod handle;
mod intent;
mod local;
pub mod objects;
mod observe;
mod orphans;
pub(in crate::agent) mod own_netns;
mod pace;
mod ready;
pub mod resumption;
mod scan;
mod sessions;
pub mod supervisor;
mod watch;
mod worker;
