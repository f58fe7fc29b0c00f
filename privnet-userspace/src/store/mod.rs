//! The door to the truth: the [`Store`] trait, its implementations, and the records of privnet in it.
//!
//! - [`contract`], [`transaction`], [`path`], [`error`]: what a store promises.
//! - [`memory`] and [`embedded`]: the two stores of one host; [`etcd`]: the store of many. One conformance suite holds all
//!   three to the contract.
//! - [`keys`] and [`records`]: what is where, and how it is written.
//! - [`claims`]: the transactions that the agent needs, so that a name, a VNI, an address is never given twice.
//!
//! Never touches the kernel, and never decides what a record means for it.

pub mod claims;
#[cfg(test)]
mod conformance;
pub mod contract;
pub mod embedded;
pub mod error;
pub mod etcd;
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
pub use etcd::{Etcd, EtcdOptions, EtcdTls};
pub use memory::Memory;
pub use path::{Key, Prefix};
pub use transaction::{Expected, LeaseId, Revision, Transaction, Value};
