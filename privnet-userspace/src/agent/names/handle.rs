//! Who calls for the names to be told anew, and what the last pass led to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::agent::door::error::ControlError;
use crate::agent::host::journal::Record;
use crate::agent::world::Concerns;
use crate::dns::DnsProcess;
use crate::model::{ContainerRef, NetworkId};
use crate::names::{Catalogue, DnsClient};
use crate::netns::NetnsId;

/// Calls for the names to be told anew.
#[derive(Debug)]
pub struct NamesHandle {
    wake: Notify,
    dirty: Mutex<Dirty>,
    stale: AtomicBool,
    report: watch::Sender<NamesReport>,
}

/// What may have changed since the last pass.
#[derive(Debug, PartialEq, Eq)]
pub enum Dirty {
    /// These networks.
    Networks(BTreeSet<NetworkId>),
    /// All.
    Everything,
}

/// What a pass led to.
#[derive(Clone, Debug, Default)]
pub struct NamesReport {
    /// The process that serves.
    pub process: Option<DnsProcess>,
    /// What the process was told, and has acknowledged.
    pub told: Arc<Catalogue>,
    /// The containers that it serves, as it knows them.
    pub served: BTreeMap<NetnsId, DnsClient>,
    /// What went wrong, with a container or altogether.
    pub problems: BTreeMap<Option<NetnsId>, ControlError>,
}

impl NamesReport {
    /// Whether the process knows one of the member's names.
    #[must_use]
    pub fn names(&self, record: &Record, name: &ContainerRef) -> bool {
        let member = self.told.get(&record.network).and_then(|names| names.members.get(name));
        member.is_some_and(|member| member.address == record.address)
    }
}

impl NamesHandle {
    /// One that calls for everything.
    #[must_use]
    pub fn new() -> Self {
        Self {
            wake: Notify::new(),
            dirty: Mutex::new(Dirty::Everything),
            stale: AtomicBool::new(false),
            report: watch::Sender::new(NamesReport::default()),
        }
    }

    /// Asks for a pass over what changed.
    pub fn wake(&self, concerns: &Concerns) {
        {
            let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *dirty, concerns) {
                (_, Concerns::Nothing) => return,
                (Dirty::Everything, _) => {}
                (dirty, Concerns::Everything) => *dirty = Dirty::Everything,
                (Dirty::Networks(known), Concerns::Networks(more)) => known.extend(more),
            }
        }
        self.wake.notify_one();
    }

    /// Notes that the store is not followed: what is told may be old.
    pub fn mark_stale(&self) {
        self.stale.store(true, Ordering::Release);
    }

    /// Notes that the store is watched again.
    pub fn mark_current(&self) {
        self.stale.store(false, Ordering::Release);
    }

    /// Whether what the world says is known to be current.
    pub fn is_current(&self) -> bool {
        !self.stale.load(Ordering::Acquire)
    }

    /// Follows the reports.
    pub fn reports(&self) -> watch::Receiver<NamesReport> {
        self.report.subscribe()
    }

    /// The keeper's side: waits to be called.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The keeper's side: what may have changed.
    pub(super) fn take(&self) -> Dirty {
        let nothing = Dirty::Networks(BTreeSet::new());
        std::mem::replace(&mut *self.dirty.lock().unwrap_or_else(PoisonError::into_inner), nothing)
    }

    /// The keeper's side: tells what a pass led to.
    pub(super) fn publish(&self, report: NamesReport) {
        self.report.send_replace(report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_add_up_until_they_are_taken() {
        let id: NetworkId = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c".parse().expect("an id");
        let one = Concerns::Networks(BTreeSet::from([id]));
        let handle = NamesHandle::new();
        handle.wake(&one);
        assert_eq!(handle.take(), Dirty::Everything, "the first pass takes nothing for granted");
        handle.wake(&Concerns::Nothing);
        assert_eq!(handle.take(), Dirty::Networks(BTreeSet::new()));
        handle.wake(&one);
        handle.wake(&Concerns::Nothing);
        assert_eq!(handle.take(), Dirty::Networks(BTreeSet::from([id])));
        handle.wake(&one);
        handle.wake(&Concerns::Everything);
        handle.wake(&one);
        assert_eq!(handle.take(), Dirty::Everything);
    }
}
