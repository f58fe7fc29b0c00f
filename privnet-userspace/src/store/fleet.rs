//! The store as the agents of one fleet use it: they act on no other store, nor on an older copy of it.
//!
//! Each transaction requires two keys: that of the fleet's id and epoch, which tells the store from every other, for revisions
//! begin at the same number in all of them; and the fleet's record as this agent has seen it last, so that a setting is never
//! used beside its successor. An agent whose store was emptied, restored or replaced behind its endpoint writes nothing there,
//! and reads nothing once it knows.

use std::io;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rand::RngCore as _;
use tokio::sync::Notify;

use super::contract::{Entry, Event, Listing, Store, StoreKind, Watch};
use super::error::{CommitError, StoreError};
use super::fleet_error::FleetError;
use super::keys;
use super::path::{Key, Prefix};
use super::records::{self, Envelope, FleetRecord, RecordError, Stored};
use super::transaction::{Expected, LeaseId, Revision, Transaction, Value};
use crate::failpoint::{self, Step};
use crate::model::{DEFAULT_VXLAN_PORT, FleetId};

/// How often a transaction is tried while the fleet's record changes.
const MAX_ATTEMPTS: u32 = 10;

/// The store of a fleet. Refuses to read and to write a store that is not.
#[derive(Debug)]
pub struct Fleet {
    store: Arc<dyn Store>,
    known: Mutex<Known>,
    /// Notified when the store turns out to be another one.
    doubted: Notify,
}

/// What an agent knows of its fleet.
#[derive(Clone, Debug)]
struct Known {
    /// The newest record that was seen; its revision is that of the record in the store.
    stored: Stored<FleetRecord>,
    /// Why the store is not the fleet's, where it is not.
    refusal: Option<FleetError>,
}

impl FleetRecord {
    /// A fleet that nothing belongs to yet.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        let id = FleetId::from_uuid(uuid::Builder::from_random_bytes(bytes).into_uuid());
        Self { id, epoch: 1, vxlan_port: DEFAULT_VXLAN_PORT, closed: false }
    }
}

impl Fleet {
    /// The fleet of an agent that has seen the record `believed`, whatever the store says: it is asked by [`Self::recognize`].
    #[must_use]
    pub fn of(store: Arc<dyn Store>, believed: Stored<FleetRecord>) -> Self {
        Self { store, known: Mutex::new(Known { stored: believed, refusal: None }), doubted: Notify::new() }
    }

    /// The fleet of the store, or a new one where the store has none.
    ///
    /// # Errors
    /// When the store cannot answer, or is closed, or the record cannot be read.
    pub async fn join(store: Arc<dyn Store>) -> Result<Self, CommitError> {
        let stored = find_or_found(&*store).await?;
        let fleet = Self::of(store, stored);
        fleet.recognize().await.map(|()| fleet)
    }

    /// The fleet.
    #[must_use]
    pub fn id(&self) -> FleetId {
        self.lock().stored.record.id
    }

    /// The record of the fleet as it was seen last, and as it has to be kept to be believed later.
    #[must_use]
    pub fn record(&self) -> (FleetRecord, Value) {
        let known = self.lock();
        (known.stored.record.clone(), records::encode(&known.stored.record, &known.stored.envelope))
    }

    /// The UDP port of VXLAN between the hosts.
    #[must_use]
    pub fn vxlan_port(&self) -> NonZeroU16 {
        self.lock().stored.record.vxlan_port
    }

    /// Why the store is not the fleet's; nothing when it is, as far as is known.
    #[must_use]
    pub fn refusal(&self) -> Option<FleetError> {
        self.lock().refusal.clone()
    }

    /// Waits until the store turns out not to be the fleet's.
    pub async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// Looks whether the store is the fleet's. A record that is older than the one that was seen is put right, if its epoch is
    /// the same.
    ///
    /// # Errors
    /// [`StoreError::Fleet`] when it is not, or the store's.
    pub async fn recognize(&self) -> Result<(), CommitError> {
        for _ in 0..MAX_ATTEMPTS {
            let found = self.store.get(&keys::fleet()).await?;
            let found = found.as_ref().map(records::read::<FleetRecord>).transpose();
            let older = self.judge(found).map_err(StoreError::from)?;
            let Stored { record, envelope, revision } = self.lock().stored.clone();
            let epoch = keys::fleet_epoch(record.id, record.epoch);
            let repair = match older {
                Some(older) => Transaction::new()
                    .require(keys::fleet(), Expected::Revision(older))
                    .put(keys::fleet(), records::encode(&record, &envelope.next())),
                None if self.store.get(&epoch).await?.is_some() => return Ok(()),
                None => Transaction::new().require(keys::fleet(), Expected::Revision(revision)),
            };
            match commit_to(&*self.store, repair.put(epoch, [])).await {
                // It is read again, as the newest then.
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(self.conflict())
    }

    /// Follows a change of the fleet's record; whether it was one.
    pub fn follow(&self, event: &Event) -> bool {
        match event {
            Event::Put { key, value, revision } if *key == keys::fleet() => {
                let entry = Entry { key: key.clone(), value: value.clone(), revision: *revision, lease: None };
                // Where it is refused, `refusal` says so; where it is older, the next transaction finds and repairs it.
                let _ = self.judge(records::read::<FleetRecord>(&entry).map(Some));
                true
            }
            Event::Delete { key, .. } if *key == keys::fleet() => {
                let _ = self.judge(Ok(None));
                true
            }
            Event::Put { .. } | Event::Delete { .. } | Event::Resync(_) => false,
        }
    }

    /// Compares what the store has with what is known, and takes it over where it is newer. Returns the revision of a record
    /// that is older.
    fn judge(&self, found: Result<Option<Stored<FleetRecord>>, RecordError>) -> Result<Option<Revision>, FleetError> {
        let mut known = self.lock();
        let (record, envelope) = (known.stored.record.clone(), known.stored.envelope.clone());
        let fleet = record.id;
        let refusal = match found {
            Err(error) => FleetError::Unreadable { detail: error.to_string() },
            Ok(None) => FleetError::NoRecord { fleet },
            Ok(Some(found)) if found.record.id != fleet => FleetError::Another { fleet, found: found.record.id },
            Ok(Some(found)) if found.record.epoch < record.epoch => {
                FleetError::Older { fleet, epoch: record.epoch, found: found.record.epoch }
            }
            Ok(Some(found)) if found.record.closed => FleetError::Closed { fleet },
            Ok(Some(found)) => {
                known.refusal = None;
                let newest = (record.epoch, envelope.serial);
                if (found.record.epoch, found.envelope.serial) < newest {
                    return Ok(Some(found.revision));
                }
                known.stored = found;
                return Ok(None);
            }
        };
        known.refusal = Some(refusal.clone());
        drop(known);
        self.doubted.notify_one();
        Err(refusal)
    }

    /// What tells that a store is the fleet's, and its record the one that was seen last.
    fn compares(&self) -> Result<[(Key, Expected); 2], FleetError> {
        let known = self.lock();
        let Known { stored: Stored { record, revision, .. }, refusal } = &*known;
        let of_epoch = (keys::fleet_epoch(record.id, record.epoch), Expected::Exists);
        refusal.clone().map_or(Ok([of_epoch, (keys::fleet(), Expected::Revision(*revision))]), Err)
    }

    fn require_ours(&self) -> Result<(), FleetError> {
        self.refusal().map_or(Ok(()), Err)
    }

    fn conflict(&self) -> CommitError {
        let expected = Expected::Revision(self.lock().stored.revision);
        CommitError::Conflict { key: keys::fleet(), expected, found: None }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record of the store's fleet; made where there is none.
async fn find_or_found(store: &dyn Store) -> Result<Stored<FleetRecord>, CommitError> {
    loop {
        if let Some(entry) = store.get(&keys::fleet()).await? {
            let unreadable = |error: RecordError| FleetError::Unreadable { detail: error.to_string() };
            return Ok(records::read(&entry).map_err(unreadable).map_err(StoreError::from)?);
        }
        let (record, envelope) = (FleetRecord::random(), Envelope::first());
        let founding = Transaction::new()
            .require(keys::fleet(), Expected::Absent)
            .put(keys::fleet_epoch(record.id, record.epoch), [])
            .put(keys::fleet(), records::encode(&record, &envelope));
        match commit_to(store, founding).await {
            Ok(revision) => {
                tracing::info!(fleet = %record.id, "this store is the fleet's from now on");
                return Ok(Stored { record, envelope, revision });
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The one way by which an agent changes its store.
async fn commit_to(store: &dyn Store, transaction: Transaction) -> Result<Revision, CommitError> {
    failpoint::refused(Step::Commit).map_err(refusal)?;
    let revision = store.commit(transaction).await?;
    failpoint::passed(Step::Commit);
    Ok(revision)
}

/// A test refuses the store.
fn refusal(error: io::Error) -> StoreError {
    StoreError::Cluster { operation: "commit", detail: error.to_string() }
}

#[async_trait]
impl Store for Fleet {
    fn kind(&self) -> StoreKind {
        self.store.kind()
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.require_ours()?;
        self.store.check().await
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.require_ours()?;
        self.store.get(key).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing, StoreError> {
        self.require_ours()?;
        self.store.list(prefix).await
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch, StoreError> {
        self.require_ours()?;
        self.store.watch(prefix, after).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        for _ in 0..MAX_ATTEMPTS {
            let compares = self.compares().map_err(StoreError::from)?;
            let mut of_fleet = transaction.clone();
            // First: in another store, no other compare means anything.
            of_fleet.compares.splice(0..0, compares.iter().cloned());
            let outcome = commit_to(&*self.store, of_fleet).await;
            let Err(CommitError::Conflict { key, .. }) = &outcome else { return outcome };
            if !compares.iter().any(|(compared, _)| compared == key) {
                return outcome;
            }
            self.recognize().await?;
            if transaction.compares.iter().any(|(compared, _)| compared == key) {
                // What the transaction was made of is no longer so.
                return outcome;
            }
        }
        Err(self.conflict())
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.require_ours()?;
        failpoint::refused(Step::Lease).map_err(refusal)?;
        let lease = self.store.grant_lease(ttl).await?;
        failpoint::passed(Step::Lease);
        Ok(lease)
    }

    async fn keep_lease_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_lease_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke_lease(lease).await
    }
}

mod rebuild;

pub use rebuild::{Strange, Survey};
#[cfg(test)]
mod tests;
