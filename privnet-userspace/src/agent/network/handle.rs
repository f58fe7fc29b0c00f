//! The workers of this host's networks: wakes them, and follows what they report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
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
    observe: AtomicBool,
    unguarded: Mutex<BTreeSet<MemberId>>,
    report: watch::Sender<Report>,
}

/// What a worker's last pass led to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many passes there were.
    pub pass: u64,
    /// The members of this host that can send.
    pub ready: BTreeSet<MemberId>,
    /// The members of this host that cannot, and why.
    pub failed: BTreeMap<MemberId, ControlError>,
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
            observe: AtomicBool::new(true),
            unguarded: Mutex::default(),
            report: watch::Sender::new(Report::default()),
        }
    }

    /// Asks for a pass.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Asks for a pass that observes the kernel first.
    pub fn wake_and_observe(&self) {
        self.observe.store(true, Ordering::Release);
        self.wake();
    }

    /// Tells that an interface appeared in a member's app netns.
    pub fn interface_appeared(&self, member: MemberId) {
        self.unguarded.lock().unwrap_or_else(PoisonError::into_inner).insert(member);
        self.wake();
    }

    /// Follows the reports.
    pub fn reports(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    /// The worker's side: waits to be woken.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The worker's side: whether to observe the kernel first.
    pub(super) fn take_observe_request(&self) -> bool {
        self.observe.swap(false, Ordering::AcqRel)
    }

    /// The worker's side: in whose app netns interfaces appeared.
    pub(super) fn take_unguarded(&self) -> BTreeSet<MemberId> {
        std::mem::take(&mut *self.unguarded.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The worker's side: publishes what a pass led to.
    pub(super) fn publish(&self, report: Report) {
        self.report.send_replace(report);
    }
}
