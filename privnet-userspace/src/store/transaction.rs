//! Transactions, which consist of compares and writes, and the numbers that a store gives out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::path::Key;

/// The most compares, puts and deletes that one transaction may have in all (etcd's `--max-txn-ops` is 128 by default).
pub const MAX_OPERATIONS: usize = 128;
/// The most bytes that the keys and values of one transaction may have (etcd's `--max-request-bytes` is 1.5 MiB).
pub const MAX_TRANSACTION_BYTES: usize = 1024 * 1024;

/// How many transactions have changed a store, those of others in a shared cluster included. 0 is the empty store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A lease's number; never 0, never used twice in one process or one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A value: bytes that many readers may share.
pub type Value = Arc<[u8]>;

/// The state of a key that a transaction requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It does not exist.
    Absent,
    /// It exists.
    Exists,
    /// It was put last by this transaction.
    Revision(Revision),
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Creates or replaces the key, and attaches it to the lease or to none.
    Put {
        /// The new value.
        value: Value,
        /// The lease to attach it to.
        lease: Option<LeaseId>,
    },
    /// Deletes the key if it exists.
    Delete,
}

/// Compares, and the writes to be done if all of them hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// In the order in which they are compared.
    pub compares: Vec<(Key, Expected)>,
    /// By key: at most one write of each.
    pub writes: BTreeMap<Key, Write>,
}

impl Transaction {
    /// An empty transaction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the transaction depend on `key`.
    #[must_use]
    pub fn require(mut self, key: Key, expected: Expected) -> Self {
        self.compares.push((key, expected));
        self
    }

    /// Puts `key`; replaces an earlier write of the same key.
    #[must_use]
    pub fn put(mut self, key: Key, value: impl Into<Value>) -> Self {
        self.writes.insert(key, Write::Put { value: value.into(), lease: None });
        self
    }

    /// Puts `key` for as long as `lease` lives; replaces an earlier write of the same key.
    #[must_use]
    pub fn put_leased(mut self, key: Key, value: impl Into<Value>, lease: LeaseId) -> Self {
        self.writes.insert(key, Write::Put { value: value.into(), lease: Some(lease) });
        self
    }

    /// Deletes `key`; replaces an earlier write of the same key.
    #[must_use]
    pub fn delete(mut self, key: Key) -> Self {
        self.writes.insert(key, Write::Delete);
        self
    }

    /// Compares and writes together.
    pub(super) fn operations(&self) -> usize {
        self.compares.len() + self.writes.len()
    }

    /// The bytes of all keys and values.
    pub(super) fn bytes(&self) -> usize {
        let compared: usize = self.compares.iter().map(|(key, _)| key.as_str().len()).sum();
        let written: usize = self.writes.iter().map(|(key, write)| key.as_str().len() + write.size_bytes()).sum();
        compared + written
    }
}

impl Write {
    fn size_bytes(&self) -> usize {
        match self {
            Self::Put { value, .. } => value.len(),
            Self::Delete => 0,
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Exists => f.write_str("present"),
            Self::Revision(revision) => write!(f, "at revision {revision}"),
        }
    }
}
