//! The promises of every store. The conformance suite holds each implementation to them.
//!
//! - A **revision** counts the transactions that changed something; the first is 1. Every change of one transaction
//!   carries its revision. In a shared cluster the transactions of others count as well: revisions grow, but not by one.
//! - A **commit** happens whole and is durable when it is answered, or does not happen. A failed compare names its key.
//! - A **watch** delivers every change after its revision, in order, once; where it cannot, its last event is
//!   [`Event::Resync`]. It is never silent about a gap. Its unit is the transaction: [`Watch::next_transaction`] delivers
//!   all changes of one together. Of one transaction the puts come before the deletions, so that a record that moves to
//!   another key is never gone in between.
//! - A **lease** that is not kept alive deletes the keys attached to it. In a store of one host it lives as long as the
//!   process that holds the store; in a cluster it outlives that, and time stands still for it while the cluster has no
//!   leader.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, Stream, StreamExt};
use serde::{Deserialize, Serialize};

use super::error::{CommitError, StoreError};
use super::keys;
use super::path::{Key, Prefix};
use super::transaction::{LeaseId, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Revision, Transaction, Value};

/// The door to the truth. The module's documentation has its promises.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Which of the stores it is.
    fn kind(&self) -> StoreKind;

    /// Asks whether the store answers.
    ///
    /// # Errors
    /// When it does not.
    async fn check(&self) -> Result<(), StoreError> {
        self.get(&keys::networks_fence()).await.map(drop)
    }

    /// Reads a key; `None` when it is absent.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError>;

    /// Reads every key below `prefix`, in order, as of the same revision.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn list(&self, prefix: &Prefix) -> Result<Listing, StoreError>;

    /// Delivers the changes below `prefix` whose revision is greater than `after`.
    ///
    /// After the revision of a [`Listing`] each change is delivered once. When the changes after `after` are not known any
    /// more, the only event is [`Event::Resync`].
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch, StoreError>;

    /// Applies `transaction` whole or not at all, and returns its revision.
    ///
    /// A transaction without an effect (it only deletes absent keys, say) returns the current revision. The commit
    /// goes on when the returned future is dropped.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] for the first compare that does not hold. After [`StoreError::Unanswered`] it is unknown
    /// whether the transaction happened, and it may happen yet; reading tells.
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

/// A key as it was read.
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

/// The keys below a prefix, all as of the same revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// The store's revision when they were read; watch from it.
    pub revision: Revision,
}

/// An event of a watch.
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
    /// The revision that it asks for lies in the future: the watcher has seen another store.
    UnknownRevision,
    /// The store was closed, or the connection to it lost.
    Closed,
}

/// The changes below a prefix. Ends after [`Event::Resync`], and only then. Cancelling a read loses no event.
pub struct Watch {
    transactions: BoxStream<'static, Vec<Event>>,
    /// What was not read yet of the transaction that was delivered last.
    rest: VecDeque<Event>,
}

impl Watch {
    /// Wraps a stream of transactions, each with all its changes below the prefix, that ends with [`Event::Resync`] alone.
    pub(super) fn new(transactions: impl Stream<Item = Vec<Event>> + Send + 'static) -> Self {
        Self { transactions: transactions.boxed(), rest: VecDeque::new() }
    }

    /// Waits for the next event; `None` once [`Event::Resync`] has been delivered.
    pub async fn next(&mut self) -> Option<Event> {
        StreamExt::next(self).await
    }

    /// Waits for the next transaction that changed something below the prefix: its changes, all of the same revision, or
    /// [`Event::Resync`] alone; `None` once that has been delivered.
    pub async fn next_transaction(&mut self) -> Option<Vec<Event>> {
        if !self.rest.is_empty() {
            return Some(self.rest.drain(..).collect());
        }
        loop {
            let transaction = self.transactions.next().await?;
            if !transaction.is_empty() {
                return Some(transaction);
            }
        }
    }
}

impl Stream for Watch {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if let Some(event) = self.rest.pop_front() {
                return Poll::Ready(Some(event));
            }
            match ready!(self.transactions.poll_next_unpin(context)) {
                Some(transaction) => self.rest = transaction.into(),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// Refuses a transaction that one of the implementations could not hold.
pub(super) fn check_size(transaction: &Transaction) -> Result<(), CommitError> {
    let (operations, bytes) = (transaction.operations(), transaction.bytes());
    if operations > MAX_OPERATIONS || bytes > MAX_TRANSACTION_BYTES {
        return Err(CommitError::TooLarge { operations, bytes });
    }
    Ok(())
}
