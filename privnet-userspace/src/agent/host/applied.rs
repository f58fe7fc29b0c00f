//! How far this host has come with what the store says: told to the others in its record, seldom.
//!
//! A change of the store costs each host of a fleet a write, which all others read: so it is told twice a minute at most, and
//! only where a network, a member or an address has changed since. The records of hosts do not count: they would answer each
//! other for ever.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::agent::shared::Memberships;
use crate::store::records::{self, HostRecord, Stored};
use crate::store::{CommitError, Expected, Transaction, keys};

/// How often it is told at most.
const INTERVAL: Duration = Duration::from_secs(30);

/// Tells again and again which revision this host has applied, where another host may read it. Never ends.
pub async fn tell_applied(memberships: Arc<Memberships>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Err(error) = tell(&memberships).await {
            // The next one tells more.
            tracing::debug!("cannot tell which revision this host has applied: {error:#}");
        }
    }
}

async fn tell(memberships: &Memberships) -> Result<()> {
    let host = &memberships.host.config.host;
    let (applied, told, is_alone) = memberships.world(|world| {
        let told = world.hosts().find(|record| record.name == *host).map(|record| record.applied_revision);
        (world.applied().0, told, world.hosts().count() < 2)
    });
    if is_alone || told.is_none_or(|told| told >= applied) {
        return Ok(());
    }
    let key = keys::host(host);
    let Some(entry) = memberships.store.get(&key).await? else { return Ok(()) };
    let Stored { record, envelope, revision } = records::read::<HostRecord>(&entry)?;
    let record = records::encode(&HostRecord { applied_revision: applied, ..record }, &envelope.next());
    let change = Transaction::new().require(key.clone(), Expected::Revision(revision)).put(key, record);
    match memberships.store.commit(change).await {
        // The clock's step was told at the same time.
        Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
