//! The door to the truth: the [`Store`] trait, its implementations, and the records of privnet in it.
//!
//! - [`contract`], [`transaction`], [`path`], [`error`]: the promises of a store.
//! - [`memory`] and [`embedded`]: the two stores of one host; [`etcd`]: the store of many. One conformance suite holds all
//!   three to the contract.
//! - [`keys`] and [`records`]: the keys, and the form of the records.
//! - [`fleet`]: the store as the agents of one fleet use it, which write into no other.
//! - [`claims`]: the transactions that the agent needs, so that a name, a VNI, an address is never given twice.
//!
//! The room never touches the kernel; the agent decides what follows from a record.

pub mod claims;
#[cfg(test)]
mod conformance;
pub mod contract;
pub mod embedded;
pub mod error;
pub mod etcd;
pub mod fleet;
pub mod fleet_error;
mod history;
#[cfg(test)]
mod hostile;
pub mod keys;
pub mod memory;
pub mod path;
pub mod records;
mod state;
pub mod transaction;
mod watches;

pub use contract::{Entry, Event, Listing, ResyncReason, Store, StoreKind, Watch};
pub use embedded::{Beginning, Embedded};
pub use error::{CommitError, OpenError, StoreError};
pub use etcd::{Etcd, EtcdLogin, EtcdOptions, EtcdTls};
pub use fleet::Fleet;
pub use fleet_error::FleetError;
pub use memory::Memory;
pub use path::{Key, Prefix};
pub use transaction::{Expected, LeaseId, Revision, Transaction, Value};
