//! The end of memberships: of containers that died, of members that the store does not know, and on request.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::door::views::ProblemView;
use super::host::journal::Record;
use super::names::resolv_conf;
use super::shared::Memberships as Shared;
use super::world::Concerns;
use crate::model::Member;
use crate::netns::Netns;
use crate::store::claims::End;
use crate::store::{claims, records};

/// Finds the records of namespaces that went while no agent held them, and whose path and number another one has now:
/// [`Record::is_alive`] takes these for gone from then on.
///
/// # Errors
/// When a namespace cannot be asked, or a record cannot be changed.
pub async fn detect_reused_netns(shared: &Shared) -> Result<()> {
    let records: Vec<Record> = shared.journal().records().values().cloned().collect();
    for record in records.iter().filter(|record| record.is_alive(&shared.host.facts.boot_id)) {
        // What is gone by now is gone.
        let Ok(netns) = Netns::open(&record.netns_path) else { continue };
        if record.netns_cookie.is_some() && Some(netns.cookie().await?) != record.netns_cookie {
            tracing::info!(network = %record.network, "the namespace of {} was deleted, and another one has its inode number", record.container);
            shared.journal().mark_netns_reused(record.id)?;
        }
    }
    Ok(())
}

/// Ends the memberships of containers whose namespace is gone, and the records of members that the store does not know.
///
/// # Errors
/// When the store or a record cannot be changed; the next pulse tries again.
pub async fn end_dead(shared: &Shared) -> Result<()> {
    let records: Vec<Record> = shared.journal().records().values().cloned().collect();
    for record in records.iter().filter(|record| !record.leaving && !record.is_alive(&shared.host.facts.boot_id)) {
        tracing::info!(network = %record.network, "the namespace of {} was deleted: its membership ends", record.container);
        end(shared, record).await?;
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
    release_unrecorded(shared).await
}

/// Releases a member's place in the store, and leaves its teardown to the network's worker. Returns what could not be done in
/// the container's files.
///
/// # Errors
/// When the store or the record cannot be changed.
pub async fn end(shared: &Shared, record: &Record) -> Result<Vec<ProblemView>> {
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

/// Members of this host of which it has no record were being claimed when an agent died: no answer named them.
async fn release_unrecorded(shared: &Shared) -> Result<()> {
    let unrecorded: Vec<Arc<Member>> = {
        let journal = shared.journal();
        let recorded = |member: &&Arc<Member>| journal.at(member.network, member.address).is_none();
        shared.world(|world| world.members_on(&shared.host.config.host).filter(recorded).cloned().collect())
    };
    for member in unrecorded {
        release_one_unrecorded(shared, &member)
            .await
            .with_context(|| format!("releasing {} in {}", member.container, member.network))?;
    }
    Ok(())
}

/// What was seen of the store may be older than the record of the same container's next membership: the store decides.
async fn release_one_unrecorded(shared: &Shared, seen: &Member) -> Result<()> {
    let stored = records::get_member(&*shared.store, seen.network, &seen.container).await?;
    let is_recorded = |member: &Member| shared.journal().at(member.network, member.address).is_some();
    if stored.is_some_and(|stored| stored.record.host == shared.host.config.host && !is_recorded(&stored.record)) {
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
    member.address == record.address && member.host == shared.host.config.host
}

fn leave(shared: &Shared, record: &Record) -> Result<Vec<ProblemView>> {
    shared.journal().mark_leaving(record.id)?;
    // While names are still answered in the container.
    let problems = resolv_conf::after_change(shared, record.netns);
    shared.workers.of(record.network).wake();
    shared.names.wake(&Concerns::Networks(BTreeSet::from([record.network])));
    Ok(problems)
}
