//! That this host is there: what it tells the others of itself, under a lease, and that no other agent has its name.
//!
//! Two agents of one name would each take the other's members for leftovers of its own. So each agent has an identity, its
//! instance, in its state directory, and one that finds the name held by another does not take it. Whether the holder lives,
//! the agent asks it: it writes a question into the holder's presence, and an agent that finds a question in its presence
//! writes the presence anew, without it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::facts::{Host, HostFacts};
use super::machine;
use super::vtep::VtepClaim;
use crate::agent::backoff::Backoff;
use crate::agent::config::Config;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::agent::door::explain::{explain, problem};
use crate::agent::store_problems::{StoreProblem, StoreProblems};
use crate::agent::world::SharedWorld;
use crate::store::records::{Envelope, HostRecord, PresenceRecord};
use crate::store::{
    CommitError, Entry, Event, Expected, Fleet, Key, LeaseId, Listing, Store as _, StoreError, Transaction, keys,
    records,
};

/// How long a host is taken to be there after its agent was heard last: longer than a reboot, so that its members keep
/// their names meanwhile.
const TTL: Duration = Duration::from_secs(300);
/// How often the agent is heard.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(30);
/// How long the agent that has the name may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How often is looked for an answer.
const LOOK: Duration = Duration::from_millis(50);
/// How often an announcement is tried while another agent announces the same name.
const MAX_ATTEMPTS: u32 = 5;

/// How an agent comes to take the host's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    /// It starts. A state directory that was moved, or is a copy, may be in use elsewhere.
    Start {
        /// Whether it is not where it was.
        is_moved: bool,
    },
    /// It has the name, or had it.
    Again,
    /// An operator said that the name is this host's.
    Adoption {
        /// Whether the lease of another agent's presence is no reason against it.
        is_forced: bool,
    },
}

/// Tells the other hosts where this host's VTEP is, and takes the host's name for as long as the lease lives. The record has a
/// number above `seen`, the highest that was seen of it: the others take a lower one for what an older store says. Nothing is
/// told, and nothing returned, where an agent of another machine has the name and does not answer: only an operator knows
/// whether that machine is gone; nor where this agent was forgotten.
///
/// While members of another instance have the host's name, the address of their VTEP stays as that instance told it.
///
/// # Errors
/// Nothing was told. When another agent has the name, says so.
pub async fn announce(
    store: &Fleet,
    config: &Config,
    facts: &HostFacts,
    seen: u64,
    taking: Taking,
) -> Result<Option<LeaseId>> {
    let (host, own) = (&config.host, facts.instance.id());
    let mark = keys::instance_mark(own);
    if store.get(&mark).await.context("looking whether this host was forgotten")?.is_some() {
        return Ok(None);
    }
    let over = match holder(store, config, facts, taking).await? {
        Holder::Nobody => None,
        Holder::Own => Some(own),
        Holder::Gone(instance) => Some(instance),
        Holder::Silent => return Ok(None),
    };
    let lease = store.grant_lease(TTL).await.context("announcing this host in the store")?;
    let presence = PresenceRecord {
        instance: own,
        machine: facts.machine,
        boot: Some(facts.boot_id.clone()),
        fleet: Some(store.id()),
        answers: true,
        asked: None,
        since_unix_seconds: Some(crate::agent::now_unix_seconds()),
    };
    let mut attempts = 1;
    loop {
        let held = store.get(&keys::presence(host)).await.context("announcing this host in the store")?;
        let before = held.as_ref().map(records::read::<PresenceRecord>).transpose()?;
        let is_ours = |before: &PresenceRecord| [Some(own), over].contains(&Some(before.instance));
        if before.as_ref().is_some_and(|before| !is_ours(&before.record)) {
            return Err(name_is_held(config).into());
        }
        let heard = before.map_or_else(Envelope::first, |before| before.envelope.next());
        let told = store.get(&keys::host(host)).await.context("announcing this host in the store")?;
        let claim = VtepClaim::look(store, host, own, facts.vtep).await?;
        // The others act on a change of it; one that cannot be read is one of none.
        let before = told.as_ref().and_then(|entry| records::read::<HostRecord>(entry).ok());
        let is_kept = match &before {
            Some(before) if !matches!(taking, Taking::Adoption { .. }) => {
                is_anothers(&before.record, facts) && has_members_of_another(store, config, facts).await?
            }
            Some(_) | None => false,
        };
        let as_seen = |seen: Option<Entry>| seen.map_or(Expected::Absent, |entry| Expected::Revision(entry.revision));
        let mut transaction = Transaction::new()
            .require(keys::presence(host), as_seen(held))
            .require(keys::host(host), as_seen(told))
            .require(mark.clone(), Expected::Absent)
            .put_leased(keys::presence(host), records::encode(&presence, &heard), lease);
        if !is_kept {
            let record = HostRecord {
                name: host.clone(),
                vtep: facts.vtep,
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                applied_revision: before.as_ref().map_or(0, |before| before.record.applied_revision),
                clock_steps: before.as_ref().map_or(0, |before| before.record.clock_steps),
                instance: Some(own),
            };
            let envelope = before.map_or_else(Envelope::first, |before| before.envelope.next()).above(seen);
            transaction = transaction.put(keys::host(host), records::encode(&record, &envelope));
        }
        match store.commit(claim.made_by(transaction, lease)).await {
            Ok(_) => return Ok(Some(lease)),
            Err(CommitError::Conflict { .. }) if attempts < MAX_ATTEMPTS => attempts += 1,
            Err(error) => return Err(error).context("announcing this host in the store"),
        }
    }
}

/// The agent that has the host's name.
enum Holder {
    /// None.
    Nobody,
    /// This one, or the one that had this state directory before.
    Own,
    /// One of that instance, which is gone.
    Gone(Uuid),
    /// One of another machine, which does not answer.
    Silent,
}

/// Finds out which agent has the name, and whether it lives where that matters.
///
/// # Errors
/// When another agent has it.
async fn holder(store: &Fleet, config: &Config, facts: &HostFacts, taking: Taking) -> Result<Holder> {
    let reading = "looking whether this host's name is free";
    let Some(held) = store.get(&keys::presence(&config.host)).await.context(reading)? else {
        return Ok(Holder::Nobody);
    };
    let record = records::read::<PresenceRecord>(&held)?.record;
    let is_own = record.instance == facts.instance.id();
    let is_forgotten = async || store.get(&keys::instance_mark(record.instance)).await.map(|mark| mark.is_some());
    if !is_own && is_forgotten().await.context(reading)? {
        return Ok(Holder::Gone(record.instance));
    }
    let is_moved = match taking {
        Taking::Start { is_moved } => is_moved,
        Taking::Adoption { is_forced: true } => return Ok(Holder::Gone(record.instance)),
        Taking::Again | Taking::Adoption { is_forced: false } if is_own => return Ok(Holder::Own),
        Taking::Again | Taking::Adoption { is_forced: false } => return Err(name_is_held(config).into()),
    };
    let is_of_this_boot = record.boot.as_ref() == Some(&facts.boot_id);
    if is_own && (!record.answers || (is_of_this_boot && !is_moved)) {
        return Ok(Holder::Own);
    }
    // A build before does not answer.
    if !record.answers || answers(store, config).await? {
        return Err(name_is_held(config).into());
    }
    let is_here = record.machine.is_some() && record.machine == facts.machine;
    Ok(if is_own {
        Holder::Own
    } else if is_here {
        Holder::Gone(record.instance)
    } else {
        Holder::Silent
    })
}

/// Asks the agent that has the host's name whether it lives.
async fn answers(store: &Fleet, config: &Config) -> Result<bool> {
    let asking = || format!("asking the agent that has the name {}", config.host);
    let (key, question) = (keys::presence(&config.host), Uuid::new_v4());
    tracing::info!("an agent has the name of this host: it is asked, and has {} s to answer", ANSWER.as_secs());
    for _ in 0..MAX_ATTEMPTS {
        // One that has no lease is none of an agent.
        let Some(held) = store.get(&key).await.with_context(asking)? else { return Ok(false) };
        let (Some(lease), before) = (held.lease, records::read::<PresenceRecord>(&held)?) else { return Ok(false) };
        let asked =
            records::encode(&PresenceRecord { asked: Some(question), ..before.record }, &before.envelope.next());
        let ask = Transaction::new().require(key.clone(), Expected::Revision(held.revision)).put_leased(
            key.clone(),
            asked,
            lease,
        );
        match store.commit(ask).await {
            Ok(_) => break,
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error).with_context(asking),
        }
    }
    let deadline = Instant::now() + ANSWER;
    while Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
        let Some(held) = store.get(&key).await.with_context(asking)? else { return Ok(false) };
        if records::read::<PresenceRecord>(&held)?.record.asked != Some(question) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a host's record is that of another instance, at another address.
fn is_anothers(told: &HostRecord, facts: &HostFacts) -> bool {
    told.vtep != facts.vtep && told.instance.is_some_and(|instance| instance != facts.instance.id())
}

async fn has_members_of_another(store: &Fleet, config: &Config, facts: &HostFacts) -> Result<bool> {
    let members = store.list(&keys::all_members()).await.context("looking for members of this host's name")?;
    // One that cannot be read is one of none.
    let mut members = members.entries.iter().filter_map(|entry| records::member_from(entry).ok());
    let is_another = |instance| instance != facts.instance.id();
    Ok(members.any(|member| member.host == config.host && member.instance.is_some_and(is_another)))
}

/// This host's presence in the store, kept by renewing a lease.
pub struct Presence {
    host: Arc<Host>,
    store: Arc<Fleet>,
    problems: Arc<StoreProblems>,
    /// The image, which says what was seen of this host's record.
    world: Arc<SharedWorld>,
    /// Lives as long as this host is taken to be there; none before it was announced, and while another agent has its name.
    lease: tokio::sync::Mutex<Option<LeaseId>>,
    /// How the name is taken, until it was announced for the first time: the store could not be used when the agent started.
    unannounced: Mutex<Option<Taking>>,
    /// Notified when the others have been told that it is not.
    lost: Notify,
    /// Whether the store is known to have no presence of this host, whatever the lease says.
    is_lost: AtomicBool,
}

impl Presence {
    /// The presence under a lease that [`announce`] took, or one that is `unannounced` yet.
    pub fn new(
        host: Arc<Host>,
        store: Arc<Fleet>,
        problems: Arc<StoreProblems>,
        world: Arc<SharedWorld>,
        lease: Option<LeaseId>,
        unannounced: Option<Taking>,
    ) -> Self {
        let (lease, lost, is_lost) = (tokio::sync::Mutex::new(lease), Notify::new(), AtomicBool::new(false));
        Self { host, store, problems, world, lease, unannounced: Mutex::new(unannounced), lost, is_lost }
    }

    /// Lets the others hear that this host is there; takes its name again when it was away for too long.
    ///
    /// # Errors
    /// When the store does not answer, is another one, or another agent has taken the name.
    pub async fn renew(&self) -> Result<()> {
        let mut lease = self.lease.lock().await;
        // A presence that was deleted is written again, also where its lease lives.
        if let Some(lease) = lease.filter(|_| !self.is_lost.load(Ordering::Acquire)) {
            match self.store.keep_lease_alive(lease).await {
                Ok(()) => return Ok(()),
                Err(StoreError::LeaseNotFound(_)) => {}
                Err(error) => return Err(error).context("renewing the presence of this host"),
            }
        }
        let taking = self.unannounced.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(Taking::Again);
        self.write(&mut lease, taking).await
    }

    /// Writes the presence. What is lost from then on is lost again.
    async fn write(&self, lease: &mut Option<LeaseId>, taking: Taking) -> Result<()> {
        self.is_lost.store(false, Ordering::Release);
        let announced = self.announce(taking).await.and_then(|announced| {
            *lease = announced;
            self.is_announced(taking)
        });
        if announced.is_err() {
            self.is_lost.store(true, Ordering::Release);
        }
        announced
    }

    /// Takes the host's name by an operator's word.
    ///
    /// # Errors
    /// When another agent's lease lives and that is not forced, or the store does not answer.
    pub async fn adopt(&self, is_forced: bool) -> Result<()> {
        let mut lease = self.lease.lock().await;
        let taking = Taking::Adoption { is_forced };
        self.write(&mut lease, taking).await
    }

    /// Refuses where another agent has this host's name, which was not forgotten.
    ///
    /// # Errors
    /// That, or the store does not answer.
    pub async fn refuse_another(&self) -> Result<()> {
        holder(&self.store, &self.host.config, &self.host.facts, Taking::Again).await.map(drop)
    }

    fn is_announced(&self, taking: Taking) -> Result<()> {
        if let Taking::Start { is_moved: true } = taking {
            let Host { config, state_dir, facts, .. } = &*self.host;
            machine::note(&config.state_dir, state_dir, facts.machine)?;
        }
        *self.unannounced.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    async fn announce(&self, taking: Taking) -> Result<Option<LeaseId>> {
        let seen = self.world.belief(|belief| belief.serial(&keys::host(&self.host.config.host)));
        announce(&self.store, &self.host.config, &self.host.facts, seen, taking).await
    }

    /// What is this host's under the lease: its presence, and the claim of its VTEP address.
    fn leased(&self) -> [Key; 2] {
        [keys::presence(&self.host.config.host), keys::vtep(self.host.facts.vtep)]
    }

    /// Follows what the store says of this host's presence: one that is gone is written again, and so is one in which another
    /// agent asks. Another agent's is none of this one, whatever the lease says. With the presence goes the VTEP's claim.
    pub fn follow(&self, changes: &[Event]) {
        let leased = self.leased();
        let is_to_be_written = |change: &Event| match change {
            Event::Delete { key, .. } => leased.contains(key),
            Event::Put { key, value, .. } if *key == leased[0] => records::decode::<PresenceRecord>(key, value)
                .is_ok_and(|record| record.asked.is_some() || record.instance != self.host.facts.instance.id()),
            Event::Put { .. } | Event::Resync(_) => false,
        };
        if changes.iter().any(is_to_be_written) {
            self.was_lost();
        }
    }

    /// Compares a reading of the whole store: the loss may have come while no watch told of it.
    pub fn compare(&self, listing: &Listing) {
        let is_missing = |key: &Key| !listing.entries.iter().any(|entry| entry.key == *key);
        if self.leased().iter().any(is_missing) {
            self.was_lost();
        }
    }

    /// Notes that the store has no presence of this host: the next renewal comes at once.
    fn was_lost(&self) {
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
            "give one of them another --host; if the other one's machine is gone for good, `privnet host adopt --force` on \
             this host takes the name over, or {} s after the end of its agent",
            TTL.as_secs()
        ),
    )
}
