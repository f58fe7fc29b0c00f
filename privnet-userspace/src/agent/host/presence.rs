//! That this host is there: what it tells the others of itself, under a lease, and that no other agent has its name.
//!
//! Two agents of one name would each take the other's members for leftovers of its own. So each agent has an identity, in
//! its state directory, and one that finds the name held by another does not start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::Notify;

use super::facts::{Host, HostFacts};
use super::vtep::VtepClaim;
use crate::agent::backoff::Backoff;
use crate::agent::config::Config;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::door::explain::{explain, problem};
use crate::agent::store_problems::{StoreProblem, StoreProblems};
use crate::agent::world::SharedWorld;
use crate::store::records::{Envelope, HostRecord, PresenceRecord};
use crate::store::{CommitError, Entry, Expected, Fleet, LeaseId, Store as _, StoreError, Transaction, keys, records};

/// How long a host is taken to be there after its agent was heard last: longer than a reboot, so that its members keep
/// their names meanwhile.
const TTL: Duration = Duration::from_secs(300);
/// How often the agent is heard.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(30);
/// How often an announcement is tried while another agent announces the same name.
const MAX_ATTEMPTS: u32 = 5;

/// Tells the other hosts where this host's VTEP is, and takes the host's name for as long as the lease lives. The record has a
/// number above `seen`, the highest that was seen of it: the others take a lower one for what an older store says.
///
/// # Errors
/// Nothing was told. When another agent has the name, says so.
pub async fn announce(store: &Fleet, config: &Config, facts: &HostFacts, seen: u64) -> Result<LeaseId> {
    let host = &config.host;
    let presence = PresenceRecord {
        instance: facts.instance,
        machine: facts.machine,
        boot: Some(facts.boot_id.clone()),
        fleet: Some(store.id()),
    };
    let lease = store.grant_lease(TTL).await.context("announcing this host in the store")?;
    let mut attempts = 1;
    loop {
        let held = store.get(&keys::presence(host)).await.context("announcing this host in the store")?;
        let before = held.as_ref().map(records::read::<PresenceRecord>).transpose()?;
        if before.as_ref().is_some_and(|before| before.record.instance != presence.instance) {
            return Err(name_is_held(config).into());
        }
        let heard = before.map_or_else(Envelope::first, |before| before.envelope.next());
        let told = store.get(&keys::host(host)).await.context("announcing this host in the store")?;
        let claim = VtepClaim::look(store, host, presence.instance, facts.vtep).await?;
        // The others act on a change of it; one that cannot be read is one of none.
        let before = told.as_ref().and_then(|entry| records::read::<HostRecord>(entry).ok());
        let record = HostRecord {
            name: host.clone(),
            vtep: facts.vtep,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            applied_revision: before.as_ref().map_or(0, |before| before.record.applied_revision),
            clock_steps: before.as_ref().map_or(0, |before| before.record.clock_steps),
            instance: Some(facts.instance),
        };
        let envelope = before.map_or_else(Envelope::first, |before| before.envelope.next()).above(seen);
        let as_seen = |seen: Option<Entry>| seen.map_or(Expected::Absent, |entry| Expected::Revision(entry.revision));
        let transaction = Transaction::new()
            .require(keys::presence(host), as_seen(held))
            .require(keys::host(host), as_seen(told))
            .put(keys::host(host), records::encode(&record, &envelope))
            .put_leased(keys::presence(host), records::encode(&presence, &heard), lease);
        match store.commit(claim.made_by(transaction, lease)).await {
            Ok(_) => return Ok(lease),
            Err(CommitError::Conflict { .. }) if attempts < MAX_ATTEMPTS => attempts += 1,
            Err(error) => return Err(error).context("announcing this host in the store"),
        }
    }
}

/// This host's presence in the store, kept by renewing a lease.
pub struct Presence {
    host: Arc<Host>,
    store: Arc<Fleet>,
    problems: Arc<StoreProblems>,
    /// The image, which says what was seen of this host's record.
    world: Arc<SharedWorld>,
    /// Lives as long as this host is taken to be there.
    lease: tokio::sync::Mutex<LeaseId>,
    /// Notified when the others have been told that it is not.
    lost: Notify,
    /// Whether the store is known to have no presence of this host, whatever the lease says.
    is_lost: AtomicBool,
}

impl Presence {
    /// The presence under a lease that [`announce`] took.
    pub fn new(
        host: Arc<Host>,
        store: Arc<Fleet>,
        problems: Arc<StoreProblems>,
        world: Arc<SharedWorld>,
        lease: LeaseId,
    ) -> Self {
        let (lease, lost, is_lost) = (tokio::sync::Mutex::new(lease), Notify::new(), AtomicBool::new(false));
        Self { host, store, problems, world, lease, lost, is_lost }
    }

    /// Lets the others hear that this host is there; takes its name again when it was away for too long.
    ///
    /// # Errors
    /// When the store does not answer, is another one, or another agent has taken the name.
    pub async fn renew(&self) -> Result<()> {
        let mut lease = self.lease.lock().await;
        // A presence that was deleted is written again, also where its lease lives.
        if !self.is_lost.load(Ordering::Acquire) {
            match self.store.keep_lease_alive(*lease).await {
                Ok(()) => return Ok(()),
                Err(StoreError::LeaseNotFound(_)) => {}
                Err(error) => return Err(error).context("renewing the presence of this host"),
            }
        }
        let seen = self.world.belief(|belief| belief.serial(&keys::host(&self.host.config.host)));
        *lease = announce(&self.store, &self.host.config, &self.host.facts, seen).await?;
        self.is_lost.store(false, Ordering::Release);
        Ok(())
    }

    /// Notes that the store has no presence of this host: the next renewal comes at once.
    pub fn was_lost(&self) {
        self.is_lost.store(true, Ordering::Release);
        self.lost.notify_one();
    }

    /// Renews the presence again and again. Never ends.
    pub async fn renew_periodically(self: Arc<Self>) {
        let mut backoff = Backoff::new();
        loop {
            match self.renew().await {
                Ok(()) => {
                    self.problems.set(StoreProblem::Presence, None);
                    backoff = Backoff::new();
                    tokio::select! {
                        () = tokio::time::sleep(RENEWAL_INTERVAL) => {}
                        () = self.lost.notified() => {}
                    }
                }
                Err(error) => {
                    self.problems.set(StoreProblem::Presence, Some(problem(&explain(&error))));
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }
}

fn name_is_held(config: &Config) -> ControlError {
    ControlError::new(
        ErrorCode::InvalidArgument,
        format!("another agent of this store has the host name {}", config.host),
        format!(
            "give one of them another --host; if this host's state directory {} is a new one, wait {} s after the end of \
             its last agent",
            config.state_dir.display(),
            TTL.as_secs()
        ),
    )
}
