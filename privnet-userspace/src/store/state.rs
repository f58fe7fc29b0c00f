//! The memory of a store of one process: the keys, the recent changes, the leases. Never touches a disk.
//!
//! `memory` consists of this alone; `embedded` writes a transaction to its file before it is applied here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::contract::{Entry, Listing, check_size};
use super::error::{CommitError, StoreError};
use super::history::{Change, History};
use super::path::{Key, Prefix};
use super::transaction::{Expected, LeaseId, Revision, Transaction, Write};

/// A store's memory, shared by the store, its watches and its leases.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// The newest revision; a change of it wakes the watches.
    news: watch::Sender<Revision>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) revision: Revision,
    pub(super) entries: BTreeMap<Key, Entry>,
    pub(super) history: History,
    pub(super) closed: bool,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: LeaseId,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Duration,
    deadline: Instant,
}

/// A checked transaction: its changes, and the revision that they carry.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) revision: Revision,
    /// The new entry of each changed key; `None` where it is deleted.
    pub(super) changes: BTreeMap<Key, Option<Entry>>,
}

impl Shared {
    pub(super) fn new(revision: Revision, entries: BTreeMap<Key, Entry>, history_capacity: usize) -> Arc<Self> {
        let state = State {
            revision,
            entries,
            history: History::new(revision, history_capacity),
            closed: false,
            leases: BTreeMap::new(),
            last_lease: LeaseId(0),
        };
        Arc::new(Self { state: Mutex::new(state), news: watch::Sender::new(revision) })
    }

    /// The state. A panic elsewhere cannot have left it half changed: [`State::apply`] calls nothing that panics.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.news.subscribe()
    }

    pub(super) fn announce(&self, revision: Revision) {
        self.news.send_replace(revision);
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        Ok(self.lock().open()?.entries.get(key).cloned())
    }

    pub(super) fn list(&self, prefix: &Prefix) -> Result<Listing, StoreError> {
        let mut state = self.lock();
        let state = state.open()?;
        let entries = state.entries.range(prefix.range()).map(|(_, entry)| entry.clone()).collect();
        Ok(Listing { entries, revision: state.revision })
    }

    pub(super) fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let mut state = self.lock();
        let state = state.open()?;
        state.last_lease = LeaseId(state.last_lease.0 + 1);
        state.leases.insert(state.last_lease, Lease { ttl, deadline: Instant::now() + ttl });
        Ok(state.last_lease)
    }

    pub(super) fn keep_lease_alive(&self, id: LeaseId) -> Result<(), StoreError> {
        let mut state = self.lock();
        let now = Instant::now();
        let lease = state.open()?.leases.get_mut(&id).ok_or(StoreError::LeaseNotFound(id))?;
        // Its keys may still exist, but the lease has ended.
        if lease.deadline <= now {
            return Err(StoreError::LeaseNotFound(id));
        }
        lease.deadline = now + lease.ttl;
        Ok(())
    }

    fn lease_deadline(&self, id: LeaseId) -> Option<Instant> {
        self.lock().leases.get(&id).map(|lease| lease.deadline)
    }

    /// Ends every watch and refuses everything from now on.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.leases.clear();
        let revision = state.revision;
        drop(state);
        self.announce(revision);
    }
}

/// Waits until `lease` has expired; false when it, or its store, is gone instead.
pub(super) async fn lease_expired(store: &Weak<Shared>, lease: LeaseId) -> bool {
    loop {
        let Some(deadline) = store.upgrade().and_then(|shared| shared.lease_deadline(lease)) else { return false };
        if deadline <= Instant::now() {
            return true;
        }
        tokio::time::sleep_until(deadline).await;
    }
}

impl State {
    pub(super) fn open(&mut self) -> Result<&mut Self, StoreError> {
        if self.closed { Err(StoreError::Closed) } else { Ok(self) }
    }

    /// Checks the compares of `transaction`, and returns its changes.
    pub(super) fn prepare(&self, transaction: &Transaction) -> Result<Prepared, CommitError> {
        if self.closed {
            return Err(StoreError::Closed.into());
        }
        check_size(transaction)?;
        for (key, expected) in &transaction.compares {
            let found = self.entries.get(key).map(|entry| entry.revision);
            let holds = match *expected {
                Expected::Absent => found.is_none(),
                Expected::Exists => found.is_some(),
                Expected::Revision(revision) => found == Some(revision),
            };
            if !holds {
                return Err(CommitError::Conflict { key: key.clone(), expected: *expected, found });
            }
        }
        let revision = Revision(self.revision.0 + 1);
        let mut changes = BTreeMap::new();
        for (key, write) in &transaction.writes {
            match write {
                Write::Put { value, lease } => {
                    if let Some(lease) = lease.filter(|lease| !self.leases.contains_key(lease)) {
                        return Err(StoreError::LeaseNotFound(lease).into());
                    }
                    let entry = Entry { key: key.clone(), value: value.clone(), revision, lease: *lease };
                    changes.insert(key.clone(), Some(entry));
                }
                Write::Delete if self.entries.contains_key(key) => {
                    changes.insert(key.clone(), None);
                }
                Write::Delete => {}
            }
        }
        Ok(self.prepared(changes))
    }

    /// The changes that the end of `lease` makes.
    pub(super) fn prepare_lease_end(&self, lease: LeaseId) -> Prepared {
        let attached = self.entries.values().filter(|entry| entry.lease == Some(lease));
        self.prepared(attached.map(|entry| (entry.key.clone(), None)).collect())
    }

    /// Expires `lease` now: it cannot be kept alive any more.
    pub(super) fn expire_now(&mut self, lease: LeaseId) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.deadline = lease.deadline.min(Instant::now());
        }
    }

    pub(super) fn forget_lease(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
    }

    fn prepared(&self, changes: BTreeMap<Key, Option<Entry>>) -> Prepared {
        let revision = if changes.is_empty() { self.revision } else { Revision(self.revision.0 + 1) };
        Prepared { revision, changes }
    }

    /// Applies a prepared transaction. No other may have been applied since it was prepared.
    pub(super) fn apply(&mut self, prepared: Prepared) {
        let Prepared { revision, changes } = prepared;
        self.revision = revision;
        let (puts, deletes): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(_, change)| change.is_some());
        for (key, change) in puts.into_iter().chain(deletes) {
            let value = change.as_ref().map(|entry| entry.value.clone());
            self.history.push(Change { key: key.clone(), value, revision });
            match change {
                Some(entry) => self.entries.insert(key, entry),
                None => self.entries.remove(&key),
            };
        }
    }
}
