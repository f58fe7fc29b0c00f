//! What happens without a request: following the store, ending the memberships of containers that died, looking again.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use tokio::task::JoinSet;

use super::cluster::{Pauses, is_ours};
use super::journal::Record;
use super::presence;
use super::shared::{Shared, Trouble};
use super::worker::Worker;
use super::world::{Concerns, World};
use crate::model::Member;
use crate::netns::Netns;
use crate::store::claims::End;
use crate::store::{Event, Watch, claims, keys, records};

/// How often the namespaces of this host's members are looked at: a container that dies is noticed within this time.
const PULSE: Duration = Duration::from_millis(500);
/// How often everything is looked at anew, whatever is believed.
pub const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Starts a worker for every network that calls for one, and lets go of those that have nothing left to do. Never ends.
pub async fn hire_workers(shared: Arc<Shared>) {
    let mut workers = JoinSet::new();
    let mut hired = BTreeSet::new();
    loop {
        for (network, bell) in shared.bells() {
            if hired.insert(network) {
                let worker = Worker::new(network, Arc::clone(&shared), bell);
                workers.spawn(async move {
                    worker.run().await;
                    network
                });
            }
        }
        tokio::select! {
            () = shared.hire.notified() => {}
            Some(ended) = workers.join_next() => match ended {
                Ok(network) => {
                    hired.remove(&network);
                    shared.let_go(network);
                }
                Err(error) => {
                    tracing::error!(%error, "a network's worker failed; all networks are taken up again");
                    hired.clear();
                    workers.abort_all();
                    while workers.join_next().await.is_some() {}
                }
            },
        }
    }
}

/// Follows the store. Never ends.
pub async fn follow_store(shared: Arc<Shared>, mut watch: Watch) {
    loop {
        while let Some(event) = watch.next().await {
            follow(&shared, &event);
        }
        tracing::warn!("the store's changes ended; reading everything again");
        shared
            .set_trouble(Trouble::Following, Some("its changes ended, and it has not been read again yet".to_owned()));
        shared.names.doubt();
        let (world, again) = read_until_it_answers(&shared).await;
        *shared.world.write().unwrap_or_else(PoisonError::into_inner) = world;
        watch = again;
        tracing::info!("the store is followed again");
        shared.set_trouble(Trouble::Following, None);
        shared.names.believe();
        ring(&shared, &Concerns::Everything);
    }
}

/// Until then nothing is changed: what cannot be read is no reason to tear anything down.
async fn read_until_it_answers(shared: &Shared) -> (World, Watch) {
    let mut pauses = Pauses::new();
    loop {
        let trouble = match read_our_world(shared).await {
            Ok(read) => return read,
            Err(error) => format!("{error:#}"),
        };
        tracing::warn!("the store cannot be followed, and what runs on this host goes on as it is: {trouble}");
        shared.set_trouble(Trouble::Following, Some(trouble));
        tokio::time::sleep(pauses.next()).await;
    }
}

/// Reads the store if it is the one that this host told of itself.
async fn read_our_world(shared: &Shared) -> Result<(World, Watch)> {
    // First, so that this host is there in what is read.
    presence::renew(shared).await?;
    let read = read_world(&*shared.store).await?;
    if is_ours(shared).await? {
        return Ok(read);
    }
    bail!("it does not know host {}: it is another one, or lost its data", shared.config.host)
}

/// Reads the store, and watches it from there.
///
/// # Errors
/// When the store or a record is at fault.
pub(super) async fn read_world(store: &dyn crate::store::Store) -> Result<(World, Watch)> {
    let (mut world, revisions) = World::read(store).await.context("reading the store")?;
    world.let_rise(super::now_unix_seconds());
    let networks = store.watch(&keys::networks(), revisions.networks).await.context("watching the networks")?;
    let members = store.watch(&keys::all_members(), revisions.members).await.context("watching the members")?;
    let addresses = store.watch(&keys::all_addresses(), revisions.addresses).await.context("watching the addresses")?;
    let hosts = store.watch(&keys::hosts(), revisions.hosts).await.context("watching the hosts")?;
    let presences = store.watch(&keys::presences(), revisions.presences).await.context("watching who is there")?;
    let together = futures::stream::select_all([networks, members, addresses, hosts, presences]);
    // The first of them that ends asks for everything to be read again.
    let until_resync = together.scan(false, |ended, event| {
        let go_on = !std::mem::replace(ended, matches!(event, Event::Resync(_)));
        futures::future::ready(go_on.then_some(event))
    });
    Ok((world, Watch::new(until_resync)))
}

/// Looks after the members of this host. Never ends.
pub async fn keep_house(shared: Arc<Shared>) {
    let mut pulse = tokio::time::interval(PULSE);
    pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let pulses_between_looks = LOOK_AGAIN.as_millis() / PULSE.as_millis();
    let mut pulses: u128 = 0;
    loop {
        pulse.tick().await;
        if let Err(error) = collect_the_dead(&shared).await {
            tracing::warn!("cannot look after the members of this host: {error:#}");
        }
        let risen = shared.world.write().unwrap_or_else(PoisonError::into_inner).let_rise(super::now_unix_seconds());
        if !risen.is_empty() {
            ring(&shared, &Concerns::Networks(risen));
        }
        pulses += 1;
        if pulses.is_multiple_of(pulses_between_looks) {
            for bell in shared.bells().values() {
                bell.ring_and_look();
            }
        }
    }
}

/// Finds the records of namespaces that went while no agent held them, and whose path and number another one has now:
/// [`is_alive`] takes these for gone from then on.
///
/// # Errors
/// When a namespace cannot be asked, or a record cannot be changed.
pub async fn disown_the_recycled(shared: &Shared) -> Result<()> {
    let records: Vec<Record> = shared.journal().records().values().cloned().collect();
    for record in records.iter().filter(|record| is_alive(record, &shared.facts.boot_id)) {
        // What is gone by now is gone.
        let Ok(netns) = Netns::open(&record.netns_path) else { continue };
        if record.netns_cookie.is_some() && Some(netns.cookie().await?) != record.netns_cookie {
            tracing::info!(network = %record.network, "the namespace of {} went, and another has its number", record.container);
            shared.journal().disown((record.network, record.address))?;
        }
    }
    Ok(())
}

/// Ends the memberships of containers whose namespace is gone, and the records of members that the store does not know.
///
/// # Errors
/// When the store or a record cannot be changed; the next pulse tries again.
pub async fn collect_the_dead(shared: &Shared) -> Result<()> {
    let records: Vec<Record> = shared.journal().records().values().cloned().collect();
    for record in records.iter().filter(|record| !record.leaving && !is_alive(record, &shared.facts.boot_id)) {
        tracing::info!(network = %record.network, "the namespace of {} is gone: its membership ends", record.container);
        end_membership(shared, record).await?;
    }
    // Holding the claims, a member that is being attached has its record and its place in the store, or neither.
    let _claims = shared.claims.lock().await;
    let records: Vec<Record> = shared.journal().records().values().cloned().collect();
    for record in records.iter().filter(|record| !record.leaving) {
        let known = shared
            .world(|world| world.member(record.network, &record.container).is_some_and(|m| is_of(m, record, shared)));
        if !known && !is_stored(shared, record).await? {
            leave(shared, record)?;
        }
    }
    release_the_unrecorded(shared).await
}

/// Whether the container's namespace is still the one that was attached.
#[must_use]
pub fn is_alive(record: &Record, boot_id: &str) -> bool {
    record.boot_id == boot_id && Netns::identify(&record.netns_path).is_ok_and(|id| id == record.netns)
}

/// Releases a member's place in the store, and leaves its teardown to the network's worker.
///
/// # Errors
/// When the store or the record cannot be changed.
pub async fn end_membership(shared: &Shared, record: &Record) -> Result<()> {
    let _claims = shared.claims.lock().await;
    if is_stored(shared, record).await? {
        claims::release_member(
            &*shared.store,
            record.network,
            &record.container,
            End::by_its_host(super::now_unix_seconds()),
        )
        .await
        .with_context(|| format!("releasing {} in {}", record.container, record.network))?;
    }
    leave(shared, record)
}

/// Members of this host of which it has no record were being claimed when an agent died: nobody was told of them.
async fn release_the_unrecorded(shared: &Shared) -> Result<()> {
    let unrecorded: Vec<Member> = {
        let journal = shared.journal();
        let recorded = |member: &&Member| !journal.records().contains_key(&(member.network, member.address));
        shared.world(|world| world.members_on(&shared.config.host).filter(recorded).cloned().collect())
    };
    for member in unrecorded {
        release_unrecorded(shared, &member)
            .await
            .with_context(|| format!("releasing {} in {}", member.container, member.network))?;
    }
    Ok(())
}

/// What was seen of the store may be older than the record of the same container's next membership: the store decides.
async fn release_unrecorded(shared: &Shared, seen: &Member) -> Result<()> {
    let stored = records::get_member(&*shared.store, seen.network, &seen.container).await?;
    let is_recorded = |member: &Member| shared.journal().records().contains_key(&(member.network, member.address));
    if stored.is_some_and(|stored| stored.record.host == shared.config.host && !is_recorded(&stored.record)) {
        claims::release_member(
            &*shared.store,
            seen.network,
            &seen.container,
            End::by_its_host(super::now_unix_seconds()),
        )
        .await?;
    }
    Ok(())
}

async fn is_stored(shared: &Shared, record: &Record) -> Result<bool> {
    let stored = records::get_member(&*shared.store, record.network, &record.container)
        .await
        .with_context(|| format!("reading {} in {}", record.container, record.network))?;
    Ok(stored.is_some_and(|stored| is_of(&stored.record, record, shared)))
}

fn is_of(member: &Member, record: &Record, shared: &Shared) -> bool {
    member.address == record.address && member.host == shared.config.host
}

fn leave(shared: &Shared, record: &Record) -> Result<()> {
    shared.journal().mark_leaving((record.network, record.address))?;
    shared.bell(record.network).ring();
    shared.names.ring(&Concerns::Networks(BTreeSet::from([record.network])));
    Ok(())
}

fn follow(shared: &Shared, event: &Event) {
    if matches!(event, Event::Delete { key, .. } if *key == keys::presence(&shared.config.host)) {
        // It was stopped for longer than its lease lives, and goes on.
        shared.taken_for_gone.notify_one();
    }
    let concerns = shared.world.write().unwrap_or_else(PoisonError::into_inner).follow(event);
    ring(shared, &concerns);
}

fn ring(shared: &Shared, concerns: &Concerns) {
    shared.names.ring(concerns);
    match concerns {
        Concerns::Nothing => {}
        Concerns::Networks(networks) => {
            let bells = shared.bells();
            for bell in networks.iter().filter_map(|network| bells.get(network)) {
                bell.ring();
            }
        }
        Concerns::Everything => {
            for bell in shared.bells().values() {
                bell.ring();
            }
        }
    }
}
