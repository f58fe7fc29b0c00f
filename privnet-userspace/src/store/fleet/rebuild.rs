//! An operator's word that a store is the fleet's: it gets the fleet's record, with a higher epoch than was seen. The agents of
//! the fleet believe such a store, and put back what it lacks.

use std::collections::BTreeSet;

use super::{Fleet, commit_to};
use crate::model::{FleetId, NetworkId};
use crate::store::contract::Listing;
use crate::store::error::{CommitError, StoreError};
use crate::store::fleet_error::FleetError;
use crate::store::keys;
use crate::store::records::{self, FleetRecord, Stored};
use crate::store::transaction::{Expected, Revision, Transaction};

/// How many records of another fleet are removed by one transaction.
const BATCH: usize = 50;
/// How often the records of another fleet are listed anew: leases end meanwhile.
const MAX_LISTINGS: u32 = 10;

/// What a store holds that is to be the fleet's.
#[derive(Debug)]
pub struct Survey {
    /// The fleet's record in it.
    found: Option<Stored<FleetRecord>>,
    /// Whether it is the fleet's already, and takes its changes.
    pub is_ours: bool,
    /// Whether it was closed when the fleet moved to another one.
    pub is_closed: bool,
    /// Its networks and members that are not known to be the fleet's.
    pub strange: Option<Strange>,
    /// The epoch of the fleet in it, if an operator makes it the fleet's.
    pub next_epoch: u64,
}

/// Networks and members in a store that are not known to be the fleet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strange {
    /// The fleet that has its record there; none where the store has no fleet's, and its networks are unknown.
    pub fleet: Option<FleetId>,
    /// How many networks.
    pub networks: usize,
    /// How many members.
    pub members: usize,
}

impl Strange {
    /// Whether there is none. An agent without a fleet that was given an empty store has made one there: its host is of this
    /// fleet from now on.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.networks == 0 && self.members == 0
    }
}

impl Fleet {
    /// Looks what the store holds, whether or not it is that of the fleet of `record`; `known` are the networks that are known
    /// of that.
    ///
    /// # Errors
    /// When the store cannot be read, or its record of a fleet cannot.
    pub async fn survey(&self, record: &FleetRecord, known: &BTreeSet<NetworkId>) -> Result<Survey, StoreError> {
        let found = self.store.get(&keys::fleet()).await?;
        let found = found.as_ref().map(records::read::<FleetRecord>).transpose();
        let found = found.map_err(|error| FleetError::Unreadable { detail: error.to_string() })?;
        let networks = self.store.list(&keys::networks()).await?.entries;
        let members = self.store.list(&keys::all_members()).await?.entries.len();
        let is_known = |id: &str| id.parse().is_ok_and(|id| known.contains(&id));
        let knows_one = networks.iter().any(|entry| entry.key.below(&keys::networks()).is_some_and(is_known));
        let strange = |fleet| Strange { fleet, networks: networks.len(), members };
        let (is_ours, strange, epoch) = match &found {
            Some(found) if found.record.id != record.id => (false, Some(strange(Some(found.record.id))), record.epoch),
            Some(found) => {
                let is_ours = found.record.epoch >= record.epoch && !found.record.closed;
                (is_ours, None, record.epoch.max(found.record.epoch))
            }
            None if networks.is_empty() || knows_one => (false, None, record.epoch),
            None => (false, Some(strange(None)), record.epoch),
        };
        let is_closed = found.as_ref().is_some_and(|found| found.record.id == record.id && found.record.closed);
        Ok(Survey { found, is_ours, is_closed, strange, next_epoch: epoch.saturating_add(1) })
    }

    /// Makes the store the fleet's, by a higher epoch than was seen. What another fleet has there is removed first: its agents
    /// write nothing from then on.
    ///
    /// # Errors
    /// The store's; a conflict when the record of a fleet in it has changed since the survey.
    pub async fn rebuild(&self, survey: Survey) -> Result<FleetRecord, CommitError> {
        let Stored { record, mut envelope, .. } = self.lock().stored.clone();
        let mut expected = Expected::Absent;
        let mut transaction = Transaction::new();
        if let Some(found) = &survey.found {
            expected = Expected::Revision(found.revision);
            if found.record.id == record.id {
                envelope.serial = envelope.serial.max(found.envelope.serial);
            } else if survey.strange.is_some_and(|strange| !strange.is_nothing()) {
                expected = Expected::Revision(self.empty_of_another(found).await?);
            }
            transaction = transaction.delete(keys::fleet_epoch(found.record.id, found.record.epoch));
        }
        let next = FleetRecord { epoch: survey.next_epoch, closed: false, ..record };
        let transaction = transaction
            .require(keys::fleet(), expected)
            .put(keys::fleet_epoch(next.id, next.epoch), [])
            .put(keys::fleet(), records::encode(&next, &envelope.next()));
        commit_to(&*self.store, transaction).await?;
        tracing::warn!(fleet = %next.id, epoch = next.epoch, "an operator made this store the fleet's");
        self.recognize().await?;
        Ok(next)
    }

    /// Closes the store, since the fleet moves to another one, and reads what it held then: no agent writes into it after that.
    ///
    /// # Errors
    /// The store's; or that it is not the fleet's.
    pub async fn close(&self) -> Result<Listing, CommitError> {
        loop {
            self.recognize().await?;
            let Stored { record, envelope, revision } = self.lock().stored.clone();
            let closed = FleetRecord { closed: true, ..record };
            let transaction = Transaction::new()
                .require(keys::fleet(), Expected::Revision(revision))
                .require(keys::fleet_epoch(closed.id, closed.epoch), Expected::Exists)
                .put(keys::fleet(), records::encode(&closed, &envelope.next()));
            match commit_to(&*self.store, transaction).await {
                Ok(_) => {
                    tracing::warn!(fleet = %closed.id, "an operator closed this store: the fleet moves to another one");
                    break;
                }
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let listing = self.store.list(&keys::everything()).await?;
        // It is closed by now, and that is known from here on.
        let _ = self.recognize().await;
        Ok(listing)
    }

    /// Takes the record of another fleet for that of this agent's, which has seen nothing of its own yet.
    pub fn adopt(&self, record: FleetRecord) {
        let mut known = self.lock();
        known.stored.record = record;
        known.stored.envelope = records::Envelope::first();
    }

    /// Removes what another fleet has in the store, behind its record, which is closed first: its agents write nothing from then
    /// on. Where this is interrupted, the record says still whose the rest is. Returns the record's revision.
    async fn empty_of_another(&self, found: &Stored<FleetRecord>) -> Result<Revision, CommitError> {
        let closed = FleetRecord { closed: true, ..found.record.clone() };
        let closing = Transaction::new()
            .require(keys::fleet(), Expected::Revision(found.revision))
            .put(keys::fleet(), records::encode(&closed, &found.envelope.next()));
        let revision = commit_to(&*self.store, closing).await?;
        let kept = [keys::fleet(), keys::fleet_epoch(closed.id, closed.epoch)];
        for _ in 0..MAX_LISTINGS {
            let mut entries = self.store.list(&keys::everything()).await?.entries;
            entries.retain(|entry| !kept.contains(&entry.key));
            if entries.is_empty() {
                return Ok(revision);
            }
            for batch in entries.chunks(BATCH) {
                let removal = batch.iter().fold(Transaction::new(), |transaction, entry| {
                    let as_seen = Expected::Revision(entry.revision);
                    transaction.require(entry.key.clone(), as_seen).delete(entry.key.clone())
                });
                match commit_to(&*self.store, removal).await {
                    Ok(_) | Err(CommitError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Err(self.conflict())
    }
}
