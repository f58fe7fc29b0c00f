//! What the agent's tasks share, in parts. A task is handed the parts that it uses; only the door, where a request may ask
//! for anything, is handed all of them.
//!
//! Locks are taken in this order; none is waited for while one of a later line is held:
//! 1. [`Memberships::claims`] or the lease of the host's presence: held across calls to the store.
//! 2. [`Workers`], then the journal, then the world: held for reads and writes of memory and small files of the state
//!    directory, never across an await.
//! 3. All others (the [`ResolvConfs`], store problems, a handle's requests, a network's handles and programs): no other lock
//!    is taken meanwhile.

use std::ops::Deref;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::contact::Contact;
use super::door::error::ControlError;
use super::door::read_failures::ReadFailures;
use super::drops::Drops;
use super::host::facts::Host;
use super::host::journal::{Journal, SharedJournal};
use super::host::presence::Presence;
use super::hosts::GoneHosts;
use super::kept::Kept;
use super::names::handle::NamesHandle;
use super::names::resolv_conf::files::ResolvConfs;
use super::network::handle::Workers;
use super::network::resumption::Resumption;
use super::store_problems::StoreProblems;
use super::unrecorded::Unrecorded;
use super::world::{SharedWorld, World};
use crate::store::records::InstanceMark;
use crate::store::{Fleet, Store};

/// How long a change waits until this host has seen it in the store: a read that follows shows it.
pub const UNTIL_SEEN: Duration = Duration::from_secs(1);

/// The parts that a membership passes through from its claim to its end: for the tasks that may end one. A clone is the same
/// parts.
#[derive(Clone)]
pub struct Memberships {
    /// This host, as it is while the agent runs.
    pub host: Arc<Host>,
    /// The fleet that it belongs to.
    pub fleet: Arc<Fleet>,
    /// The fleet's store.
    pub store: Arc<dyn Store>,
    /// Whether the store answers.
    pub contact: Arc<Contact>,
    /// The store's image in memory.
    pub world: Arc<SharedWorld>,
    /// This host's records.
    pub journal: Arc<SharedJournal>,
    /// The workers of this host's networks.
    pub workers: Arc<Workers>,
    /// The sessions that devices which were made anew are to begin again.
    pub resumption: Arc<Resumption>,
    /// The names' task.
    pub names: Arc<NamesHandle>,
    /// The `resolv.conf` files of its containers.
    pub resolv_confs: Arc<ResolvConfs>,
    /// Serializes the claims of this host: index, address and record belong together.
    pub claims: Arc<tokio::sync::Mutex<()>>,
    /// The members of this host that have no entry in the journal.
    pub unrecorded: Arc<Unrecorded>,
    /// The places of members that ended here while the store was away.
    pub kept: Arc<Kept>,
    /// The frames that are dropped while somebody watches.
    pub drops: Arc<Drops>,
}

/// All parts of an agent, for the door: those of the memberships, and those that only views and metrics show.
pub struct Shared {
    /// Its own and those of the tasks that may end a membership.
    pub memberships: Arc<Memberships>,
    /// That this host is there, in the store.
    pub presence: Arc<Presence>,
    /// Since when other hosts are not heard.
    pub gone_hosts: Arc<GoneHosts>,
    /// What is wrong with the store, for status.
    pub store_problems: Arc<StoreProblems>,
    /// The reads of scrapes that failed.
    pub read_failures: ReadFailures,
}

impl Deref for Shared {
    type Target = Memberships;

    fn deref(&self) -> &Memberships {
        &self.memberships
    }
}

impl Shared {
    /// Takes the claims for a request; a store that does not answer ends the wait, since each request that waits would wait
    /// for those before it.
    ///
    /// # Errors
    /// Why the store does not answer.
    pub async fn claims_of_request(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, ControlError> {
        tokio::select! {
            biased;
            claims = self.claims.lock() => Ok(claims),
            fault = self.contact.away() => Err(fault),
        }
    }
}

impl Memberships {
    /// The records.
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock()
    }

    /// The mark of this agent, if the host was forgotten.
    #[must_use]
    pub fn mark(&self) -> Option<InstanceMark> {
        let own = self.host.facts.instance.id();
        self.world(|world| world.instance_mark(own).cloned())
    }

    /// A copy of what the store says, or a part of it.
    pub fn world<T>(&self, read: impl FnOnce(&World) -> T) -> T {
        self.world.read(read)
    }
}
