//! An agent that was forgotten, and that an operator takes back on this host: it gets another instance, under which its members
//! go on whose containers run.
//!
//! Until then its members have ended for all other hosts. What is in the kernel stays as it is, nothing is attached or detached,
//! and the agent tells the store nothing of itself.

use anyhow::{Context as _, Result};

use super::host::instance::Instance;
use super::host::journal::Record;
use super::membership::leave;
use super::shared::Memberships;
use super::world::World;
use crate::model::Member;
use crate::store::claims;
use crate::store::records::{self, InstanceMark, Stored};
use crate::store::{Entry, Key, Revision, keys};

/// What taking the agent back leads to.
pub struct Revival {
    /// The mark of its instance.
    mark: InstanceMark,
    /// The members that may go on, with what the store had of them.
    may_go_on: Vec<(Record, Stored<Member>)>,
    /// The members whose containers run and which cannot go on: their address or a name was given out meanwhile.
    pub replaced: Vec<Record>,
}

/// What became of the members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revived {
    /// How many go on.
    pub kept: usize,
    /// How many ended here too.
    pub ended: usize,
}

/// Looks what would become of the members of an agent that was forgotten; nothing where it was not. The claims are held.
#[must_use]
pub fn look(memberships: &Memberships) -> Option<Revival> {
    let mark = memberships.mark()?;
    let boot = &memberships.host.facts.boot_id;
    let records: Vec<Record> = memberships.journal().records().values().cloned().collect();
    let living = records.into_iter().filter(|record| !record.leaving && record.is_alive(boot));
    let mut revival = Revival { mark, may_go_on: Vec::new(), replaced: Vec::new() };
    for record in living {
        let stored = member_of(&record).filter(|stored| memberships.world(|world| is_free(world, &stored.record)));
        match stored {
            Some(stored) => revival.may_go_on.push((record, stored)),
            None => revival.replaced.push(record),
        }
    }
    Some(revival)
}

/// What the store had of a membership, as the journal has it.
fn member_of(record: &Record) -> Option<Stored<Member>> {
    let key: Key = keys::member(record.network, &record.container);
    let value = record.stored.get(key.as_str())?.as_bytes().into();
    records::read(&Entry { key, value, revision: Revision::default(), lease: None }).ok()
}

/// Whether a member's address and names are its own still, as far as is known.
pub(super) fn is_free(world: &World, member: &Member) -> bool {
    let is_others = |other: &Member| other.id != member.id;
    let row = world.row(member.network, member.address).map(|row| &row.record);
    let address_is_free = row.is_none_or(|row| row.member.is_none_or(|id| id == member.id));
    let mut others = world.members(member.network).filter(|other| is_others(other));
    let has_one_of = |other: &Member| member.each_name().any(|name| other.name(name.container).is_some());
    world.networks().contains_key(&member.network) && address_is_free && !others.any(|other| has_one_of(other))
}

/// Takes the agent back: its members go on under the next instance, then it is the agent's. Stopped anywhere, the agent is the
/// forgotten one still, and the next attempt goes on. The claims are held.
///
/// # Errors
/// When a record of the journal or of the store, or the identity, cannot be written.
pub async fn carry_out(memberships: &Memberships, revival: Revival) -> Result<Revived> {
    let Memberships { host, store, .. } = memberships;
    let state_dir = &host.config.state_dir;
    let next = Instance::next(state_dir)?;
    // After the mark, also where the clocks of the hosts differ: the mark ends what was attached before it.
    let attached = super::now_unix_seconds().max(revival.mark.at_unix_seconds.saturating_add(1));
    let mut revived = Revived::default();
    let mut over = revival.replaced;
    for (record, stored) in revival.may_go_on {
        let text = || format!("taking back {} in {}", record.names_text(), record.network);
        match claims::revive_member(&**store, &stored, next, attached, &revival.mark).await.with_context(text)? {
            Some(written) => {
                memberships.journal().note_stored(&written).with_context(text)?;
                revived.kept += 1;
            }
            None => over.push(record),
        }
    }
    for record in over {
        tracing::info!(
            network = %record.network,
            "{} ({}) ended when the host was forgotten, and its place was given out: it ends here too",
            record.names_text(),
            record.address
        );
        drop(leave(memberships, &record)?);
        revived.ended += 1;
    }
    host.facts.instance.take_next(state_dir, next)?;
    for handle in memberships.workers.all().values() {
        let _ = handle.wake_and_observe();
    }
    tracing::info!("this host was forgotten at host {}, and is taken back: its agent is {next} now", revival.mark.by);
    Ok(revived)
}
