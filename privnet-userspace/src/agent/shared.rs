//! What the agent's tasks share: the host's facts, the store and its image, the records, and who is to be woken.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::{Notify, watch};

use super::config::Config;
use super::error::ControlError;
use super::facts::HostFacts;
use super::journal::{Journal, Record};
use super::names::NamesBell;
use super::scrape::ReadFailures;
use super::site::Room;
use super::world::World;
use crate::model::NetworkId;
use crate::store::{LeaseId, Store};
use crate::topology::{Intent, LocalMember};

/// What the agent's tasks share.
pub struct Shared {
    /// What the agent was started with.
    pub config: Config,
    /// What the host is like.
    pub facts: HostFacts,
    /// The host's own namespace, where the VTEPs' sockets are born.
    pub host: Room,
    /// The truth.
    pub store: Arc<dyn Store>,
    /// The truth's image in memory.
    pub world: RwLock<World>,
    /// This host's records. Whoever makes or removes a binding netns holds the lock while doing so.
    pub journal: Mutex<Journal>,
    /// One entry per network that this host has or had members in.
    pub workers: Mutex<BTreeMap<NetworkId, Arc<Bell>>>,
    /// Serializes the claims of this host: index, address and record belong together.
    pub claims: tokio::sync::Mutex<()>,
    /// Rung when a network without a worker needs one.
    pub hire: Notify,
    /// Calls for the names to be told anew, and says what was told.
    pub names: NamesBell,
    /// What is wrong with the store, for status.
    pub troubles: Mutex<BTreeMap<Trouble, String>>,
    /// Lives as long as this host is taken to be there.
    pub lease: tokio::sync::Mutex<LeaseId>,
    /// Rung when the others have been told that it is not.
    pub taken_for_gone: Notify,
    /// The reads of scrapes that failed.
    pub(super) read_failures: ReadFailures,
}

impl Shared {
    /// The records, whoever panicked while holding them: each change to them is one assignment.
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of what the store says, or a part of it.
    pub fn world<T>(&self, read: impl FnOnce(&World) -> T) -> T {
        read(&self.world.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says what is wrong with the store, or that it is not any more.
    pub fn set_trouble(&self, trouble: Trouble, text: Option<String>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match text {
            Some(text) => drop(troubles.insert(trouble, text)),
            None => drop(troubles.remove(&trouble)),
        }
    }

    /// What is wrong with the store, one line each.
    pub fn troubles(&self) -> Vec<String> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.values().map(|trouble| format!("store: {trouble}")).collect()
    }

    /// The bell of a network's worker; made, and a worker called for, when there is none.
    pub fn bell(&self, network: NetworkId) -> Arc<Bell> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let bell = workers.entry(network).or_insert_with(|| {
            self.hire.notify_one();
            Arc::new(Bell::new())
        });
        Arc::clone(bell)
    }

    /// Forgets the bell of a network whose worker has ended, unless somebody has called it again.
    pub fn let_go(&self, network: NetworkId) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever attaches writes the record first and looks for the bell then: it finds this one, or makes another.
        let needed = self.journal().records().keys().any(|(other, _)| *other == network);
        if !needed {
            workers.remove(&network);
        }
    }

    /// All bells, by network.
    pub fn bells(&self) -> BTreeMap<NetworkId, Arc<Bell>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What this host must have for a network, and its records of it; no intent when the network does not exist.
    pub fn intent(&self, network: NetworkId) -> (Option<Intent>, Vec<Record>) {
        let records: Vec<Record> = {
            let journal = self.journal();
            journal.records().values().filter(|record| record.network == network).cloned().collect()
        };
        let (found, mut members, mut departed, vteps, clock_steps) = self.world(|world| {
            let found = world.networks().get(&network).cloned();
            (found, world.members(network), world.departed(network), world.vteps(), world.clock_steps())
        });
        let Some(found) = found else { return (None, records) };
        let is_local = |record: &&Record| {
            !record.leaving
                && members
                    .get(&record.address)
                    .is_some_and(|member| member.container == record.container && member.host == self.config.host)
        };
        let local: BTreeMap<Ipv4Addr, LocalMember> = records
            .iter()
            .filter(is_local)
            .map(|record| (record.address, LocalMember { index: record.index }))
            .collect();
        // One that leaves by our own hand has left before the store's own word of it comes round.
        let leaving = records.iter().filter(|record| record.leaving).map(|record| record.address);
        departed.extend(leaving);
        // A member of ours without a record is being claimed, or was left by a crash: nobody can reach it.
        members.retain(|address, member| member.host != self.config.host || local.contains_key(address));
        let intent = Intent {
            network: found,
            host: self.config.host.clone(),
            vtep: self.facts.vtep,
            mtu: self.facts.mtu,
            datapath: self.facts.datapath,
            members,
            departed,
            local,
            vteps,
            clock_steps,
        };
        (Some(intent), records)
    }
}

/// What can be wrong with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// It is not followed.
    Following,
    /// The others may take this host for gone.
    Presence,
}

/// Calls one network's worker and hears what it did.
pub struct Bell {
    ring: Notify,
    look: AtomicBool,
    unguarded: Mutex<BTreeSet<Ipv4Addr>>,
    report: watch::Sender<Report>,
}

/// What a worker's last pass led to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many passes there were.
    pub pass: u64,
    /// The members of this host that can send.
    pub ready: BTreeSet<Ipv4Addr>,
    /// The members of this host that cannot, and why.
    pub failed: BTreeMap<Ipv4Addr, ControlError>,
    /// What went wrong otherwise.
    pub problems: Vec<String>,
    /// The members whose records remain.
    pub records: BTreeSet<Ipv4Addr>,
    /// When it ended, in seconds since 1970-01-01 UTC.
    pub ended_unix_seconds: u64,
}

impl Bell {
    fn new() -> Self {
        Self {
            ring: Notify::new(),
            // The first pass takes nothing for granted.
            look: AtomicBool::new(true),
            unguarded: Mutex::default(),
            report: watch::Sender::new(Report::default()),
        }
    }

    /// Asks for a pass.
    pub fn ring(&self) {
        self.ring.notify_one();
    }

    /// Asks for a pass that looks at the kernel first.
    pub fn ring_and_look(&self) {
        self.look.store(true, Ordering::Release);
        self.ring();
    }

    /// Tells that an interface appeared in a member's app netns.
    pub fn interface_appeared(&self, member: Ipv4Addr) {
        self.unguarded.lock().unwrap_or_else(PoisonError::into_inner).insert(member);
        self.ring();
    }

    /// Follows the reports.
    pub fn reports(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    /// The worker's side: waits to be called.
    pub(super) async fn called(&self) {
        self.ring.notified().await;
    }

    /// The worker's side: whether to look at the kernel first.
    pub(super) fn take_look(&self) -> bool {
        self.look.swap(false, Ordering::AcqRel)
    }

    /// The worker's side: in whose app netns interfaces appeared.
    pub(super) fn take_unguarded(&self) -> BTreeSet<Ipv4Addr> {
        std::mem::take(&mut *self.unguarded.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The worker's side: tells what a pass led to.
    pub(super) fn tell(&self, report: Report) {
        self.report.send_replace(report);
    }
}
