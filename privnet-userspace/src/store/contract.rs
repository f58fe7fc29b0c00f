//! What every store promises. The conformance suite holds each implementation to it.
//!
//! - A **revision** counts the transactions that changed something; the first is 1. Every change of one transaction
//!   carries its revision. In a cluster that others use too, theirs count as well: revisions grow, but not by one.
//! - A **commit** happens whole, is durable when it is answered, or did not happen. A failed compare says which key.
//! - A **watch** delivers every change after its revision, in order, once; where it cannot, its last event is
//!   [`Event::Resync`]. It is never silent about a gap.
//! - A **lease** that is not kept alive deletes the keys attached to it. In a store of one host it lives as long as the
//!   process that holds the store; in a cluster it outlives that, and time stands still for it while the cluster has no
//!   leader.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use serde::{Deserialize, Serialize};

use super::error::{CommitError, StoreError};
use super::path::{Key, Prefix};

/// The most compares, puts and deletes that one transaction may have in all (etcd's `--max-txn-ops` is 128 by default).
pub const MAX_OPERATIONS: usize = 128;
/// The most bytes that the keys and values of one transaction may have (etcd's `--max-request-bytes` is 1.5 MiB).
pub const MAX_TRANSACTION_BYTES: usize = 1024 * 1024;

/// The door to the truth. See the module for what it promises.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Which of the stores it is.
    fn kind(&self) -> StoreKind;

    /// Reads one key; nothing when it is absent.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError>;

    /// Reads every key below `prefix`, in order, as of one revision.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn list(&self, prefix: &Prefix) -> Result<Listing, StoreError>;

    /// Delivers the changes below `prefix` whose revision is greater than `after`.
    ///
    /// With the revision of a [`Listing`] nothing is missed and nothing is delivered twice. When the changes after
    /// `after` are not known any more, the only event is [`Event::Resync`].
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch, StoreError>;

    /// Applies `transaction` whole or not at all, and returns its revision.
    ///
    /// A transaction that changes nothing (it only deletes absent keys, say) returns the current revision. The commit
    /// goes on when the returned future is dropped.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] for the first compare that does not hold. After [`CommitError::Store`] it is unknown
    /// whether the transaction happened; reading tells.
    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError>;

    /// Creates a lease that expires unless it is kept alive within `ttl`. A cluster rounds `ttl` up: to seconds, and to
    /// what electing a leader takes.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Gives `lease` its whole time to live again.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`] when it has expired or never was.
    async fn keep_lease_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends `lease` now and deletes the keys attached to it. A lease that is gone is no error.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError>;
}

/// The stores that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
pub enum StoreKind {
    /// In the memory of one process; for tests and demonstrations.
    Memory,
    /// A file of one host.
    Embedded,
    /// An etcd cluster, for many hosts.
    Etcd,
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Embedded => "embedded",
            Self::Etcd => "etcd",
        })
    }
}

/// How many transactions have changed a store, other people's in the same cluster included. 0 is the empty store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A lease's number; never 0, never used twice in one process or one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A value: bytes that many readers may share.
pub type Value = Arc<[u8]>;

/// One key as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// Its value.
    pub value: Value,
    /// The transaction that put it last.
    pub revision: Revision,
    /// The lease that it is attached to.
    pub lease: Option<LeaseId>,
}

/// The keys below a prefix, as of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// The store's revision when they were read; watch from it.
    pub revision: Revision,
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was created or changed.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Value,
        /// The transaction that did it.
        revision: Revision,
    },
    /// The key was deleted.
    Delete {
        /// The key.
        key: Key,
        /// The transaction that did it.
        revision: Revision,
    },
    /// Changes may have been missed, and the watch has ended: list again, and watch from the listing's revision.
    Resync(ResyncReason),
}

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResyncReason {
    /// The changes that it asks for are older than the store's memory, or the watcher was too slow.
    Compacted,
    /// The revision that it asks for lies in the future: the store is another one than the watcher has seen.
    UnknownRevision,
    /// The store was closed, or the connection to it lost.
    Closed,
}

/// The changes below a prefix. Ends after [`Event::Resync`], and only then. Cancelling a read loses nothing.
pub struct Watch(BoxStream<'static, Event>);

impl Watch {
    /// Wraps a stream that ends with [`Event::Resync`]; also for those who join several watches into one.
    pub fn new(events: impl Stream<Item = Event> + Send + 'static) -> Self {
        Self(events.boxed())
    }

    /// Waits for the next event; nothing once [`Event::Resync`] has been delivered.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.next().await
    }
}

impl Stream for Watch {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_next_unpin(context)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// What must be true of a key for a transaction to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It does not exist.
    Absent,
    /// It exists.
    Exists,
    /// It was put last by this transaction.
    Revision(Revision),
}

/// One write of a transaction.
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
    /// At most one write of each key.
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

    /// Refuses what one of the implementations could not hold.
    pub(super) fn check_size(&self) -> Result<(), CommitError> {
        let operations = self.compares.len() + self.writes.len();
        let compared: usize = self.compares.iter().map(|(key, _)| key.as_str().len()).sum();
        let written: usize = self.writes.iter().map(|(key, write)| key.as_str().len() + write.size_bytes()).sum();
        let bytes = compared + written;
        if operations > MAX_OPERATIONS || bytes > MAX_TRANSACTION_BYTES {
            return Err(CommitError::TooLarge { operations, bytes });
        }
        Ok(())
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
