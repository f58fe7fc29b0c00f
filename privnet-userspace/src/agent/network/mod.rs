//! One network on this host: observed, compared with what is wanted, and changed, pass after pass.
//!
//! | module | what it owns |
//! |---|---|
//! | `supervisor`, `worker` | the task of each network: pass after pass |
//! | `handle` | wakes a worker, and follows its reports |
//! | `intent` | what this host must have, from the store and its own records |
//! | `local` | the records, namespaces, sockets and programs of one network, kept for a pass |
//! | `observe`, `apply` | what is seen and done there |
//! | `orphans` | veth pairs without a record |

pub mod apply;
pub mod handle;
mod intent;
mod local;
mod observe;
mod orphans;
pub mod supervisor;
mod worker;
