//! Following the store: each change goes into the store's image, and wakes the tasks that it concerns.

use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::backoff::Backoff;
use super::door::explain::{explain, problem};
use super::host::facts::Host;
use super::host::presence::Presence;
use super::names::handle::NamesHandle;
use super::network::handle::Workers;
use super::store_problems::{StoreProblem, StoreProblems};
use super::world::{Concerns, SharedWorld, World};
use crate::store::{Event, Store, Watch, keys};

/// Follows the store, and wakes the tasks that a change concerns.
pub struct StoreFollower {
    /// This host, whose presence is looked for in the store.
    pub host: Arc<Host>,
    /// The store.
    pub store: Arc<dyn Store>,
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
    /// Follows the store. Never ends.
    pub async fn run(self, mut watch: Watch) {
        let problem = |text| self.problems.set(StoreProblem::Following, text);
        loop {
            while let Some(changes) = watch.next_transaction().await {
                self.follow(&changes);
            }
            tracing::warn!("the watch of the store ended: the agent reads the whole store again");
            problem(Some("its watch ended, and it has not been read again yet".to_owned()));
            self.names.mark_stale();
            let (world, again) = self.read_until_it_answers().await;
            self.world.write(|known| *known = world);
            watch = again;
            tracing::info!("the store is watched again");
            problem(None);
            self.names.mark_current();
            wake(&self.names, &self.workers, &Concerns::Everything);
        }
    }

    /// Until then nothing is changed: a store that cannot be read is no reason to tear anything down.
    async fn read_until_it_answers(&self) -> (World, Watch) {
        let mut backoff = Backoff::new();
        loop {
            let problem = match self.read_our_world().await {
                Ok(read) => return read,
                Err(error) => problem(&explain(&error)),
            };
            tracing::warn!("the store cannot be read, and the members of this host stay as they are: {problem}");
            self.problems.set(StoreProblem::Following, Some(problem));
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Reads the store if it is the one that this host told of itself.
    async fn read_our_world(&self) -> Result<(World, Watch)> {
        // First, so that this host is there in what is read.
        self.presence.renew().await?;
        let read = read_world(&*self.store).await?;
        if self.presence.is_ours().await? {
            return Ok(read);
        }
        bail!("the store does not know host {}: it is another store, or lost its data", self.host.config.host)
    }

    /// Follows one transaction: a reader of the image sees all of it, or nothing.
    fn follow(&self, changes: &[Event]) {
        let own = keys::presence(&self.host.config.host);
        if changes.iter().any(|change| matches!(change, Event::Delete { key, .. } if *key == own)) {
            // The agent was stopped for longer than its lease lives, and goes on.
            self.presence.was_lost();
        }
        let concerns = self.world.write(|world| world.follow_all(changes));
        wake(&self.names, &self.workers, &concerns);
    }
}

/// Wakes the tasks that a change concerns.
pub fn wake(names: &NamesHandle, workers: &Workers, concerns: &Concerns) {
    names.wake(concerns);
    workers.wake(concerns);
}

/// Reads the store as of one revision, and watches all of it from there.
///
/// # Errors
/// When the store or a record is at fault.
pub async fn read_world(store: &dyn Store) -> Result<(World, Watch)> {
    let (mut world, revision) = World::read(store).await.context("reading the store")?;
    world.expire_quarantine(super::now_unix_seconds());
    let watch = store.watch(&keys::everything(), revision).await.context("watching the store")?;
    Ok((world, watch))
}
