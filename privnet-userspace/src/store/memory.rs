//! The store for tests and the lab, and the reference for the other stores. Its content ends with the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;

use super::contract::{Entry, Listing, Store, StoreKind, Watch};
use super::error::{CommitError, StoreError};
use super::history::HISTORY_CHANGES;
use super::path::{Key, Prefix};
use super::state::{Shared, lease_expired};
use super::transaction::{LeaseId, Revision, Transaction};
use super::watches;

/// A store in memory. Dropping it ends its watches with a resync.
#[derive(Debug)]
pub struct Memory {
    shared: Arc<Shared>,
}

impl Memory {
    /// An empty store, at revision 0.
    #[must_use]
    pub fn new() -> Self {
        Self::with_history(HISTORY_CHANGES)
    }

    /// An empty store that remembers no more than `changes` changes for its watches.
    #[must_use]
    pub fn with_history(changes: usize) -> Self {
        Self { shared: Shared::new(Revision(0), BTreeMap::new(), changes) }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[async_trait]
impl Store for Memory {
    fn kind(&self) -> StoreKind {
        StoreKind::Memory
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.shared.get(key)
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing, StoreError> {
        self.shared.list(prefix)
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch, StoreError> {
        self.shared.lock().open()?;
        Ok(watches::watch(&self.shared, prefix, after))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        let mut state = self.shared.lock();
        let prepared = state.prepare(&transaction)?;
        let revision = prepared.revision;
        state.apply(prepared);
        drop(state);
        self.shared.announce(revision);
        Ok(revision)
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let lease = self.shared.grant_lease(ttl)?;
        tokio::spawn(expire(Arc::downgrade(&self.shared), lease));
        Ok(lease)
    }

    async fn keep_lease_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.keep_lease_alive(lease)
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.lock().open()?;
        end_lease(&self.shared, lease);
        Ok(())
    }
}

/// Waits for the end of `lease`, and deletes the keys attached to it.
async fn expire(store: Weak<Shared>, lease: LeaseId) {
    if lease_expired(&store, lease).await
        && let Some(shared) = store.upgrade()
    {
        end_lease(&shared, lease);
    }
}

fn end_lease(shared: &Shared, lease: LeaseId) {
    let mut state = shared.lock();
    let prepared = state.prepare_lease_end(lease);
    let revision = prepared.revision;
    state.apply(prepared);
    state.forget_lease(lease);
    drop(state);
    shared.announce(revision);
}
