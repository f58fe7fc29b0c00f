//! Following the store: each change goes into the store's image, and wakes the tasks that it concerns.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures::StreamExt;

use super::backoff::Backoff;
use super::door::explain::{explain, problem};
use super::shared::Shared;
use super::store_problems::StoreProblem;
use super::world::{Concerns, World};
use crate::store::{Event, Store, Watch, keys};

/// Follows the store. Never ends.
pub async fn follow_store(shared: Arc<Shared>, mut watch: Watch) {
    let problem = |text| shared.store_problems.set(StoreProblem::Following, text);
    loop {
        while let Some(event) = watch.next().await {
            follow(&shared, &event);
        }
        tracing::warn!("the watch of the store ended: the agent reads the whole store again");
        problem(Some("its watch ended, and it has not been read again yet".to_owned()));
        shared.names.mark_stale();
        let (world, again) = read_until_it_answers(&shared).await;
        shared.world.write(|known| *known = world);
        watch = again;
        tracing::info!("the store is watched again");
        problem(None);
        shared.names.mark_current();
        wake(&shared, &Concerns::Everything);
    }
}

/// Wakes the tasks that a change concerns.
pub fn wake(shared: &Shared, concerns: &Concerns) {
    shared.names.wake(concerns);
    shared.workers.wake(concerns);
}

/// Reads the store, and watches it from there.
///
/// # Errors
/// When the store or a record is at fault.
pub async fn read_world(store: &dyn Store) -> Result<(World, Watch)> {
    let (mut world, revisions) = World::read(store).await.context("reading the store")?;
    world.expire_quarantine(super::now_unix_seconds());
    let networks = store.watch(&keys::networks(), revisions.networks).await.context("watching the networks")?;
    let members = store.watch(&keys::all_members(), revisions.members).await.context("watching the members")?;
    let addresses = store.watch(&keys::all_addresses(), revisions.addresses).await.context("watching the addresses")?;
    let hosts = store.watch(&keys::hosts(), revisions.hosts).await.context("watching the hosts")?;
    let presences = store.watch(&keys::presences(), revisions.presences).await.context("watching the presences")?;
    let together = futures::stream::select_all([networks, members, addresses, hosts, presences]);
    // The first of them that ends asks for everything to be read again.
    let until_resync = together.scan(false, |ended, event| {
        let go_on = !std::mem::replace(ended, matches!(event, Event::Resync(_)));
        futures::future::ready(go_on.then_some(event))
    });
    Ok((world, Watch::new(until_resync)))
}

/// Until then nothing is changed: a store that cannot be read is no reason to tear anything down.
async fn read_until_it_answers(shared: &Shared) -> (World, Watch) {
    let mut backoff = Backoff::new();
    loop {
        let problem = match read_our_world(shared).await {
            Ok(read) => return read,
            Err(error) => problem(&explain(&error)),
        };
        tracing::warn!("the store cannot be read, and the members of this host stay as they are: {problem}");
        shared.store_problems.set(StoreProblem::Following, Some(problem));
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Reads the store if it is the one that this host told of itself.
async fn read_our_world(shared: &Shared) -> Result<(World, Watch)> {
    // First, so that this host is there in what is read.
    shared.presence.renew().await?;
    let read = read_world(&*shared.store).await?;
    if shared.presence.is_ours().await? {
        return Ok(read);
    }
    bail!("the store does not know host {}: it is another store, or lost its data", shared.host.config.host)
}

fn follow(shared: &Shared, event: &Event) {
    if matches!(event, Event::Delete { key, .. } if *key == keys::presence(&shared.host.config.host)) {
        // The agent was stopped for longer than its lease lives, and goes on.
        shared.presence.was_lost();
    }
    let concerns = shared.world.write(|world| world.follow(event));
    wake(shared, &concerns);
}
