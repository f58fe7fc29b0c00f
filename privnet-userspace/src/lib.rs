//! privnet: encrypted private networks for containers.
//!
//! Rooms, in order of rank; a room uses rooms of lower rank only (`cargo xtask tidy` reads this table and checks it).
//!
//! | rank | room | what it owns |
//! |---|---|---|
//! | 1 | [`failpoint`] | the steps at which a test kills the agent; nothing in a release |
//! | 1 | [`model`] | the nouns, checked at birth |
//! | 2 | [`ipam`] | which address, VNI and subnet is whose; pure |
//! | 2 | [`names`] | domain names: from a snapshot and a question to the answer; pure |
//! | 2 | [`topology`] | from intent to operations: plan, observation, difference; pure |
//! | 3 | [`netns`] | a namespace is a thread: create, pin, enter, run, remove |
//! | 4 | [`companion`] | what processes of ours that outlive the agent have in common |
//! | 5 | [`link`] | the door to rtnetlink |
//! | 5 | [`wireguard`] | the door to WireGuard, the kernel's and the userspace one |
//! | 5 | [`datapath`] | the door to aya: load, attach, fill tables, read counters |
//! | 5 | [`dns`] | the DNS process and the door to it: names answered inside the containers |
//! | 5 | [`store`] | the door to the truth |
//! | 6 | [`agent`] | the only room with all the keys: watch, plan, observe, diff, apply |
//! | 7 | [`metrics`] | counters and status as Prometheus text |
//! | 8 | [`api`] | HTTP and JSON on the control socket |
//! | 9 | [`docker`] | Docker's network plugin: its calls as requests to the agent |
//! | 10 | [`cli`] | commands and their printing; client of the api |

#![deny(unsafe_code)]

pub mod agent;
pub mod api;
pub mod cli;
pub mod companion;
pub mod datapath;
pub mod dns;
pub mod docker;
pub mod failpoint;
pub mod ipam;
pub mod link;
pub mod metrics;
pub mod model;
pub mod names;
pub mod netns;
pub mod store;
pub mod topology;
pub mod wireguard;

// As the tests beside this crate name it, with which it shares a file.
#[cfg(test)]
extern crate self as privnet;

#[cfg(test)]
#[path = "../../tests/src/soak.rs"]
mod soak;
