//! The door for the surfaces: requests go in, views and errors come out.
//!
//! | module | what it owns |
//! |---|---|
//! | [`control`] | every request that a surface can make |
//! | [`verbs`] | the table of everything that can be asked |
//! | `adopt` | taking over the members that another instance of this host's agent made |
//! | `attach`, `wish`, `claim`, `target` | one attach from end to end; what it asks for; its claim; which namespace it means |
//! | `without_store` | the claim of a place that is this host's already, while the store is away |
//! | `attachments` | what container runtimes attached, by their names for it |
//! | [`handover`] | a device that another program moves into its container and out of it; where it is made |
//! | `overlap` | the ranges of host and containers that a network must not take away |
//! | `difference` | what an attach asks for and the membership that is there does not have |
//! | `status` | what `status` says |
//! | `problems` | what does not work of the containers, with the members that it concerns |
//! | `fleet` | what the hosts that share a store have in common |
//! | `gone` | waits until nothing of a member remains |
//! | `scrape`, `read_failures` | what the metrics read: counters, devices, the state; a read that fails is counted |
//! | `numbers` | the numbers of containers as an attach finds them |
//! | `names` | what surfaces may ask about names |
//! | `forget` | a host that is forgotten, and one that is drained |
//! | `drops` | the frames that the programs drop, for one who watches |
//! | `ends` | a network that ends with its members, and a member of a host that is away |
//! | [`doctor`], `host_checks`, `service_checks`, `names_check` | what the agent and its host can do, one check a line |
//! | [`streams`] | a connection from a process of the host into a network, by a member of its own |
//! | [`views`], [`error`] | what the surfaces may see |
//! | `explain` | the errors of doors and store as the one error that surfaces see |

mod adopt;
pub mod attach;
mod attachments;
mod claim;
pub mod control;
mod difference;
pub mod doctor;
mod drops;
mod ends;
pub mod error;
pub mod explain;
mod fleet;
mod forget;
mod gone;
pub mod handover;
mod host_checks;
mod names;
mod names_check;
mod numbers;
mod overlap;
mod problems;
pub mod read_failures;
mod reads;
mod scrape;
mod service_checks;
mod state;
mod status;
pub mod streams;
mod target;
pub mod verbs;
pub mod views;
mod wish;
mod without_store;
