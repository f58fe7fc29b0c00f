//! The workers of this host's networks: wakes them, and follows what they report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::agent::door::error::ControlError;
use crate::agent::host::journal::SharedJournal;
use crate::agent::world::Concerns;
use crate::model::{MemberId, NetworkId};

/// One handle per network that this host has or had members in.
#[derive(Default)]
pub struct Workers {
    handles: Mutex<BTreeMap<NetworkId, Arc<WorkerHandle>>>,
    /// Notified when a network has a handle and no worker.
    needed: Notify,
}

/// Wakes one network's worker, and follows its reports.
pub struct WorkerHandle {
    wake: Notify,
    doubts: Mutex<Doubts>,
    /// How many observations of everything were asked for.
    asked: AtomicU64,
    report: watch::Sender<Report>,
    /// Held while a pass is made.
    turn: tokio::sync::Mutex<()>,
}

/// What of the last observation may not be so any more: a pass observes it anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    /// Everything.
    pub everything: bool,
    /// What belongs to the network, or to no member of this host.
    pub network: bool,
    /// What belongs to these members.
    pub members: BTreeSet<MemberId>,
    /// In these members' app netns an interface appeared, which is not guarded.
    pub unguarded: BTreeSet<MemberId>,
    /// These members' WireGuard devices went down: the kernel's lost its sessions, also when it is up again.
    pub interrupted: BTreeSet<MemberId>,
}

/// What of a member's container is in the way of what is promised, or will surprise its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What, why, and what to do.
    pub error: ControlError,
    /// Whether all that is promised works nevertheless.
    pub is_warning: bool,
}

/// What a worker's last pass led to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many passes there were.
    pub pass: u64,
    /// The latest request for an observation that it came after.
    pub answered: u64,
    /// The members of this host that can send.
    pub ready: BTreeSet<MemberId>,
    /// The members of this host that cannot, and why.
    pub failed: BTreeMap<MemberId, ControlError>,
    /// What of the containers of members of this host is in the way, which only their owners change.
    pub in_the_way: BTreeMap<MemberId, Fault>,
    /// What went wrong otherwise.
    pub problems: Vec<String>,
    /// The members whose records remain.
    pub records: BTreeSet<MemberId>,
    /// When it ended, in seconds since 1970-01-01 UTC.
    pub ended_unix_seconds: u64,
}

impl Workers {
    /// The handle of a network's worker; made, and a worker started, when there is none.
    pub fn of(&self, network: NetworkId) -> Arc<WorkerHandle> {
        let mut handles = self.lock();
        let handle = handles.entry(network).or_insert_with(|| {
            self.needed.notify_one();
            Arc::new(WorkerHandle::new())
        });
        Arc::clone(handle)
    }

    /// All handles, by network.
    pub fn all(&self) -> BTreeMap<NetworkId, Arc<WorkerHandle>> {
        self.lock().clone()
    }

    /// Wakes the workers that a change concerns.
    pub fn wake(&self, concerns: &Concerns) {
        let is_concerned = |network: &NetworkId| match concerns {
            Concerns::Nothing => false,
            Concerns::Networks(networks) => networks.contains(network),
            Concerns::Everything => true,
        };
        self.all().iter().filter(|(network, _)| is_concerned(network)).for_each(|(_, handle)| handle.wake());
    }

    /// The supervisor's side: waits until a network has a handle and no worker.
    pub(super) async fn needed(&self) {
        self.needed.notified().await;
    }

    /// The supervisor's side: forgets a network whose worker has ended, unless it has members again.
    pub(super) fn forget(&self, network: NetworkId, journal: &SharedJournal) {
        let mut handles = self.lock();
        // An attach writes the record first and asks for the handle then: it finds this one, or makes another.
        let needed = journal.lock().records().values().any(|record| record.network == network);
        if !needed {
            handles.remove(&network);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NetworkId, Arc<WorkerHandle>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkerHandle {
    fn new() -> Self {
        Self {
            wake: Notify::new(),
            // The first pass takes nothing for granted.
            doubts: Mutex::new(Doubts { everything: true, ..Doubts::default() }),
            asked: AtomicU64::new(0),
            report: watch::Sender::new(Report::default()),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Asks for a pass.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Asks for a pass that observes the kernel first; returns the number of the request, see [`Report::answered`].
    pub fn wake_and_observe(&self) -> u64 {
        self.ask(Doubts { everything: true, ..Doubts::default() })
    }

    /// Asks for a pass that observes one member first, by what its record says now; returns the number of the request, see
    /// [`Report::answered`].
    pub fn wake_and_observe_member(&self, member: MemberId) -> u64 {
        self.ask(Doubts { members: [member].into(), ..Doubts::default() })
    }

    fn ask(&self, doubts: Doubts) -> u64 {
        self.wake_and_doubt(doubts);
        self.asked.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Asks for a pass that first observes anew what is doubted.
    pub fn wake_and_doubt(&self, doubts: Doubts) {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner).add(doubts);
        self.wake();
    }

    /// Follows the reports.
    pub fn reports(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    /// Waits for the end of a pass that is under way: the next one goes by what the records say now.
    pub async fn between_passes(&self) {
        drop(self.turn.lock().await);
    }

    /// The worker's side: begins a pass, which ends when this is dropped.
    pub(super) async fn begin_pass(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The worker's side: waits to be woken.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The worker's side: what to observe anew, and which request that answers.
    pub(super) fn take_doubts(&self) -> (Doubts, u64) {
        // First, for a request doubts before it is counted.
        let asked = self.asked.load(Ordering::Acquire);
        (std::mem::take(&mut *self.doubts.lock().unwrap_or_else(PoisonError::into_inner)), asked)
    }

    /// The worker's side: publishes what a pass led to.
    pub(super) fn publish(&self, report: Report) {
        self.report.send_replace(report);
    }
}

impl Doubts {
    /// Whether something is to be observed.
    pub fn exist(&self) -> bool {
        self.everything || self.network || !self.members.is_empty()
    }

    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.everything |= other.everything;
        self.network |= other.network;
        self.members.extend(other.members);
        self.unguarded.extend(other.unguarded);
        self.interrupted.extend(other.interrupted);
    }
}
