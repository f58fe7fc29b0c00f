//! Following the store: each change goes into the store's image, and wakes the tasks that it concerns.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};

use super::backoff::Backoff;
use super::door::explain::{explain, problem};
use super::host::facts::Host;
use super::host::fleet;
use super::host::presence::Presence;
use super::names::handle::NamesHandle;
use super::network::handle::Workers;
use super::store_problems::{StoreProblem, StoreProblems};
use super::world::{Concerns, SharedWorld};
use crate::store::{Event, Fleet, Listing, Store as _, Watch, keys};

/// Follows the store, and wakes the tasks that a change concerns.
pub struct StoreFollower {
    /// This host, whose presence is looked for in the store.
    pub host: Arc<Host>,
    /// The store.
    pub fleet: Arc<Fleet>,
    /// The image that follows it.
    pub world: Arc<SharedWorld>,
    /// Where it is said that the store is not followed.
    pub problems: Arc<StoreProblems>,
    /// Renewed when the store has lost it.
    pub presence: Arc<Presence>,
    /// Woken.
    pub names: Arc<NamesHandle>,
    /// Woken.
    pub workers: Arc<Workers>,
}

impl StoreFollower {
    /// Follows the store, from its first reading on if there is no watch yet. Never ends.
    pub async fn run(self, mut watch: Option<Watch>) {
        loop {
            if let Some(watch) = watch {
                self.follow_while_it_is_ours(watch).await;
            }
            self.names.mark_stale();
            watch = Some(self.read_until_it_answers().await);
            self.problems.set(StoreProblem::Following, None);
            self.names.mark_current();
            wake(&self.names, &self.workers, &Concerns::Everything);
        }
    }

    /// Follows the store until its watch ends, or it turns out to be another one.
    async fn follow_while_it_is_ours(&self, mut watch: Watch) {
        loop {
            let changes = tokio::select! {
                biased;
                () = self.fleet.doubted() => Some(Vec::new()),
                changes = watch.next_transaction() => changes,
            };
            let Some(changes) = changes else { break };
            self.follow(&changes);
            if self.fleet.refusal().is_some() {
                break;
            }
        }
        let why = self.fleet.refusal().map(|refusal| refusal.to_string());
        let why = why.unwrap_or_else(|| "its watch ended, and it has not been read again yet".to_owned());
        self.problems.set(StoreProblem::Following, Some(why));
    }

    /// Until then nothing is changed: a store that cannot be read is no reason to tear anything down.
    async fn read_until_it_answers(&self) -> Watch {
        let mut backoff = Backoff::new();
        loop {
            let problem = match self.read_our_world().await {
                Ok(read) => return read,
                Err(error) => problem(&explain(&error)),
            };
            self.problems.set(StoreProblem::Following, Some(problem));
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Reads the store if it is that of this host's fleet, and compares it with what is believed.
    async fn read_our_world(&self) -> Result<Watch> {
        self.fleet.recognize().await?;
        // First, so that this host is there in what is read.
        self.presence.renew().await?;
        let (listing, watch) = read_everything(&self.fleet).await?;
        self.presence.compare(&listing);
        self.world.compare(&listing, Instant::now());
        self.world.expire_quarantine(super::now_unix_seconds());
        fleet::note(&self.host.config.state_dir, &self.fleet)?;
        Ok(watch)
    }

    /// Follows one transaction: a reader of the image sees all of it, or nothing. One that ends the fleet's record is none of
    /// the fleet's, and what it says is not believed.
    fn follow(&self, changes: &[Event]) {
        // Each is followed, also behind one that is of the fleet.
        let is_of_fleet = changes.iter().filter(|change| self.fleet.follow(change)).count() > 0;
        if self.fleet.refusal().is_some() {
            return;
        }
        if is_of_fleet && let Err(error) = fleet::note(&self.host.config.state_dir, &self.fleet) {
            tracing::warn!("cannot note the record of the fleet: {error:#}");
        }
        // The agent may have been stopped for longer than its lease lives, and goes on.
        self.presence.follow(changes);
        let concerns = self.world.follow(changes, Instant::now());
        wake(&self.names, &self.workers, if is_of_fleet { &Concerns::Everything } else { &concerns });
    }
}

/// Wakes the tasks that a change concerns.
pub fn wake(names: &NamesHandle, workers: &Workers, concerns: &Concerns) {
    names.wake(concerns);
    workers.wake(concerns);
}

/// Reads all of the store as of one revision, and watches all of it from there.
///
/// # Errors
/// When the store does not answer, or is not the fleet's.
pub async fn read_everything(store: &Fleet) -> Result<(Listing, Watch)> {
    let listing = store.list(&keys::everything()).await.context("reading the store")?;
    let watch = store.watch(&keys::everything(), listing.revision).await.context("watching the store")?;
    // What was read is the fleet's if the store is still: another one may have taken its place meanwhile.
    store.recognize().await?;
    Ok((listing, watch))
}
