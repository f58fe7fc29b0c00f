//! The end of memberships: of containers that died, of members that the store does not know, and on request.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;

use super::door::error::{ControlError, ErrorCode};
use super::door::explain::explain;
use super::door::views::ProblemView;
use super::host::journal::Record;
use super::kept::Place;
use super::names::resolv_conf;
use super::recovery::{self, Found};
use super::shared::Memberships;
use super::world::Concerns;
use crate::model::{ContainerRef, Member};
use crate::netns::Netns;
use crate::store::claims::{End, Released, Written};
use crate::store::records::{EndedBy, NetworkMark, Stored};
use crate::store::{claims, records};

/// Finds the records of namespaces that went while no agent held them, and whose path and number another one has now:
/// [`Record::is_alive`] takes these for gone from then on.
///
/// # Errors
/// When a namespace cannot be asked, or a record cannot be changed.
pub async fn detect_reused_netns(memberships: &Memberships) -> Result<()> {
    let records: Vec<Record> = memberships.journal().records().values().cloned().collect();
    for record in records.iter().filter(|record| record.is_alive(&memberships.host.facts.boot_id)) {
        // One that is gone by now is gone.
        let Some(path) = record.living_path(&memberships.host.facts.boot_id) else { continue };
        let Some(netns) = Netns::find(path)? else { continue };
        if record.netns_cookie.is_some() && Some(netns.cookie().await?) != record.netns_cookie {
            tracing::info!(network = %record.network, "the namespace of {} was deleted, and another one has its inode number", record.container);
            memberships.journal().mark_netns_reused(record.id)?;
        }
    }
    Ok(())
}

/// Ends the memberships of containers whose namespace is gone, the names of those whose namespace lives on by another
/// container, and the records of members that the store does not know.
///
/// # Errors
/// When the store or a record cannot be changed; the next pulse tries again.
pub async fn end_dead(memberships: &Memberships) -> Result<()> {
    for record in staying(memberships) {
        if !record.is_alive(&memberships.host.facts.boot_id) {
            tracing::info!(network = %record.network, "the namespace of {} was deleted: its membership ends", record.names_text());
            end(memberships, &record).await?;
            continue;
        }
        for name in record.dead_names() {
            tracing::info!(network = %record.network, "{name} is gone, and other containers of its namespace are not: its name ends");
            end_name(memberships, &record, &name).await?;
        }
    }
    // What has ended for the others goes on where an operator takes this host back.
    if memberships.mark().is_some() {
        return Ok(());
    }
    // Holding the claims, a member that is being attached has its record and its place in the store, or neither.
    let _claims = memberships.claims.lock().await;
    for record in staying(memberships) {
        let (mark, is_known, end) = memberships.world(|world| {
            let known = world.membership(record.id).or_else(|| world.member(record.network, &record.container));
            let is_known = known.is_some_and(|known| is_of(known, &record, memberships) && record.has_names_of(known));
            let row = world.row(record.network, record.address).map(|row| &row.record);
            let end = row.filter(|row| record.was_ended_by(row)).map(|row| row.ended_by);
            (world.network_mark(record.network).cloned(), is_known, end)
        });
        if let Some(NetworkMark { name, by, .. }) = mark {
            tracing::info!(
                network = %record.network,
                "{name} was deleted with its members, at host {by}: the membership of {} ends", record.names_text()
            );
            leave(memberships, &record)?;
        } else if let Some(ended_by) = end {
            let by = if ended_by == Some(EndedBy::Operator) { "by an operator" } else { "in the store" };
            tracing::info!(network = %record.network, "the membership of {} was ended {by}", record.names_text());
            leave(memberships, &record)?;
        } else if !is_known {
            take_over_names(memberships, &record).await?;
        }
    }
    forget_released(memberships);
    Ok(())
}

/// As [`end_dead`], and settles the members of this host that have no record. Not to be given up halfway: what was released in
/// the store is not looked for again.
///
/// # Errors
/// As there.
pub async fn end_dead_and_settle(memberships: &Memberships) -> Result<()> {
    end_dead(memberships).await?;
    if memberships.mark().is_some() {
        return Ok(());
    }
    let _claims = memberships.claims.lock().await;
    settle_unrecorded(memberships).await
}

/// How long a pass waits for the ends of memberships whose containers are gone.
const ENDING: Duration = Duration::from_millis(100);

/// As [`end_dead`], as far as it is done at once: what is in the kernel does not wait for a store that is slow. The checks end
/// the rest, and say what is in the way.
pub async fn end_dead_before_pass(memberships: &Memberships) {
    match tokio::time::timeout(ENDING, end_dead(memberships)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("cannot end the memberships of containers that are gone: {error:#}"),
        Err(_) => tracing::debug!("the memberships of containers that are gone end after this pass"),
    }
}

/// Forgets the places of members that are known to have ended.
fn forget_released(memberships: &Memberships) {
    for place in memberships.kept.all() {
        if memberships.world(|world| world.membership(place.record.id).is_none()) {
            memberships.kept.forget(place.record.id);
        }
    }
}

/// The records of this host's memberships, without those that are leaving.
fn staying(memberships: &Memberships) -> Vec<Record> {
    memberships.journal().records().values().filter(|record| !record.leaving).cloned().collect()
}

/// Gives a record the names that the store has for the membership, or ends the record of one that is not there: an agent may
/// have died between the two. The claims are held.
async fn take_over_names(memberships: &Memberships, record: &Record) -> Result<Option<Leaving>> {
    match stored(memberships, record).await? {
        Some(member) if record.has_names_of(&member) => Ok(None),
        Some(member) => memberships.journal().note_names(&Written::nothing(member), None).map(|()| None),
        None => leave(memberships, record).map(Some),
    }
}

/// What goes on after the end of a membership, in its container's files; also when this is dropped.
pub struct Leaving(JoinHandle<Vec<ProblemView>>);

impl Leaving {
    /// Waits for it, and returns what could not be done.
    pub async fn problems(self) -> Vec<ProblemView> {
        // One that did not end ends with the agent.
        self.0.await.unwrap_or_default()
    }
}

/// Releases a member's place in the store, and leaves its teardown to the network's worker.
///
/// # Errors
/// When the store or the record cannot be changed.
pub async fn end(memberships: &Memberships, record: &Record) -> Result<Leaving> {
    let _claims = memberships.claims.lock().await;
    end_with_claims(memberships, record).await
}

/// As [`end`], also while the store is away: nothing stays on this host, and what the store has is released when it answers,
/// unless the member is back by then.
///
/// # Errors
/// When the record cannot be changed.
pub async fn end_here(memberships: &Memberships, record: &Record) -> Result<Leaving> {
    match end_in_time(memberships, record).await {
        Ok(leaving) => Ok(leaving),
        Err(error) => {
            tracing::warn!("{error:#}");
            let key = memberships.journal().private_key(record.id);
            let leaving = leave(memberships, record)?;
            // A store that has not answered the release may have carried it out.
            if let Ok(key) = key
                && explain(&error).code == ErrorCode::StoreUnavailable
            {
                memberships.kept.keep(Place { record: record.clone(), key });
            }
            Ok(leaving)
        }
    }
}

/// As [`end`], for a container that waits: a store that does not answer is not waited for. Whether it has carried out a release
/// it is given time to say.
async fn end_in_time(memberships: &Memberships, record: &Record) -> Result<Leaving> {
    let contact = &memberships.contact;
    let _claims = contact.in_time(memberships.claims.lock()).await?;
    let member = contact.in_time(stored(memberships, record)).await??;
    release(memberships, record, member).await
}

/// As [`end`], for a task that holds the claims.
///
/// # Errors
/// When the store or the record cannot be changed.
pub async fn end_with_claims(memberships: &Memberships, record: &Record) -> Result<Leaving> {
    let member = stored(memberships, record).await?;
    release(memberships, record, member).await
}

/// Releases what the store has of a membership. The claims are held.
async fn release(memberships: &Memberships, record: &Record, member: Option<Member>) -> Result<Leaving> {
    if let Some(member) = member {
        claims::release_member(&*memberships.store, &member, now(), &*memberships.world)
            .await
            .with_context(|| format!("releasing {} in {}", member.container, record.network))?;
    }
    leave(memberships, record)
}

/// How long the end of a name waits for its record, where the store has lost that: a request ends within 2 s.
const UNTIL_PUT_BACK: Duration = Duration::from_millis(1500);
/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What the end of a name led to.
pub struct Ended {
    /// Whether the membership has ended with it.
    pub membership: bool,
    /// What goes on then.
    pub leaving: Option<Leaving>,
}

/// Takes one name from a membership, and ends the membership with its last one.
///
/// # Errors
/// When the store or the record cannot be changed.
pub async fn end_name(memberships: &Memberships, record: &Record, name: &ContainerRef) -> Result<Ended> {
    let _claims = memberships.claims.lock().await;
    end_name_with_claims(memberships, record, name).await
}

/// As [`end_name`], for a task that holds the claims.
///
/// # Errors
/// When the store or the record cannot be changed.
pub async fn end_name_with_claims(memberships: &Memberships, record: &Record, name: &ContainerRef) -> Result<Ended> {
    let deadline = tokio::time::Instant::now() + UNTIL_PUT_BACK;
    let released = loop {
        let Memberships { store, world, .. } = memberships;
        let released = claims::release_name(&**store, record.network, record.id, name, now(), &**world)
            .await
            .with_context(|| format!("releasing {name} in {}", record.network))?;
        // The store has lost the record, of which the other names go on: it is put back first.
        let is_lost = |member: &Arc<Member>| member.name(name).is_some() && !member.names.is_empty();
        if released.is_some() || !memberships.world(|world| world.membership(record.id).is_some_and(is_lost)) {
            break released;
        }
        if tokio::time::Instant::now() >= deadline {
            let message = format!("the store has lost the record of {}, which is being put back", record.names_text());
            return Err(ControlError::new(ErrorCode::StoreUnavailable, message, "try again in a moment").into());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    let leaving = match released {
        Some(Released::Name(written)) => {
            memberships.journal().note_names(&written, None)?;
            memberships.names.wake(&Concerns::Networks(BTreeSet::from([record.network])));
            None
        }
        Some(Released::Membership(_)) => Some(leave(memberships, record)?),
        None => match memberships.world(|world| world.membership(record.id).cloned()) {
            // The store has lost it, and it ends all the same.
            Some(believed) if believed.name(name).is_some() && believed.names.is_empty() => {
                Some(end_with_claims(memberships, record).await?)
            }
            Some(_) | None => take_over_names(memberships, record).await?,
        },
    };
    let membership = memberships.journal().records().get(&record.id).is_none_or(|record| record.leaving);
    Ok(Ended { membership, leaving })
}

/// The end that this host makes of a membership or a name now.
fn now() -> End {
    End::by_its_host(super::now_unix_seconds())
}

/// Members of this host, and of this instance of it, of which it has no record: their records were lost, or they were being
/// claimed when an agent died, and no answer named them. Those of another instance are none of this agent's, until they are
/// adopted.
async fn settle_unrecorded(memberships: &Memberships) -> Result<()> {
    // To release a place that is kept waits for the store, with the claims, for which a container waits that comes back.
    let kept = if memberships.contact.fault().is_some() { memberships.kept.all() } else { Vec::new() };
    let unrecorded: Vec<Arc<Member>> = {
        let journal = memberships.journal();
        let is_meant = |member: &&Arc<Member>| {
            journal.at(member.network, member.address).is_none()
                && memberships.host.is_of_instance(member)
                && !kept.iter().any(|place| place.record.id == member.id)
        };
        memberships.world(|world| world.members_on(&memberships.host.config.host).filter(is_meant).cloned().collect())
    };
    if unrecorded.is_empty() {
        memberships.unrecorded.are_settled();
        return Ok(());
    }
    if !memberships.unrecorded.is_due(tokio::time::Instant::now()) {
        return Ok(());
    }
    let members: Vec<Member> = unrecorded.iter().map(|member| Member::clone(member)).collect();
    settle(memberships, &members).await
}

/// Settles memberships of this host that have no record here: one whose container is found gets it again, one of which nothing
/// is in the kernel ends, and one that is unclear stays as it is. The claims are held.
///
/// # Errors
/// When the kernel cannot be asked, or the store cannot be read or changed.
pub async fn settle(memberships: &Memberships, members: &[Member]) -> Result<()> {
    let found = recovery::look_for(memberships, members).await?;
    let mut unclear = Vec::new();
    for (member, found) in members.iter().zip(found) {
        match found {
            Found::Whole(record, key) => recovery::make_entry_again(memberships, *record, key.as_ref())?,
            Found::Nothing(bindings) => {
                let text = || format!("releasing {} in {}", member.container, member.network);
                release_one_unrecorded(memberships, member).await.with_context(text)?;
                recovery::remove_leftovers(memberships, member, &bindings).await.with_context(text)?;
            }
            Found::Unclear(why) => unclear.push(format!("{} ({}): {why}", member.container, member.address)),
        }
    }
    memberships.unrecorded.note(unclear);
    Ok(())
}

/// Releases a membership of this host that has no record here; does nothing to another one. What was seen of the store may be
/// older than the record of the same container's next membership: the store decides.
async fn release_one_unrecorded(memberships: &Memberships, seen: &Member) -> Result<()> {
    let stored = records::get_member(&*memberships.store, seen.network, &seen.container).await?;
    let is_recorded = |member: &Member| memberships.journal().at(member.network, member.address).is_some();
    let is_ours = |member: &Member| member.host == memberships.host.config.host && !is_recorded(member);
    if let Some(stored) = stored.filter(|stored| is_ours(&stored.record)) {
        let Memberships { store, world, .. } = memberships;
        tracing::info!(network = %seen.network, "{} has no entry in the journal, and no container: it ends", seen.container);
        claims::release_member(&**store, &stored.record, now(), &**world).await?;
    }
    Ok(())
}

/// What the store has of a membership of this host, whatever its oldest name is there; where it has lost it, what is believed.
///
/// # Errors
/// When the store cannot be read.
pub async fn stored(memberships: &Memberships, record: &Record) -> Result<Option<Member>> {
    let reading = || format!("reading {} in {}", record.container, record.network);
    let store = &*memberships.store;
    let is_it = |stored: &Stored<Member>| is_of(&stored.record, record, memberships);
    let mut found = records::get_member(store, record.network, &record.container).await.with_context(reading)?;
    if !found.as_ref().is_some_and(is_it) {
        found = records::member_at(store, record.network, record.address).await.with_context(reading)?;
    }
    let believed = || memberships.world(|world| world.membership(record.id).map(|member| Member::clone(member)));
    Ok(found.filter(is_it).map(|stored| stored.record).or_else(believed))
}

fn is_of(member: &Member, record: &Record, memberships: &Memberships) -> bool {
    member.address == record.address && member.host == memberships.host.config.host
}

/// Ends a membership on this host, whatever the store says of it.
///
/// # Errors
/// When the record cannot be changed.
pub fn leave(memberships: &Memberships, record: &Record) -> Result<Leaving> {
    memberships.journal().mark_leaving(record.id)?;
    memberships.workers.of(record.network).wake();
    let (memberships, network, netns) = (memberships.clone(), record.network, record.netns);
    // Not while the claims are held: a file system may not answer.
    Ok(Leaving(tokio::spawn(async move {
        // While names are still answered in the container.
        let problems = resolv_conf::after_change(&memberships, netns).await;
        memberships.names.wake(&Concerns::Networks(BTreeSet::from([network])));
        problems
    })))
}
