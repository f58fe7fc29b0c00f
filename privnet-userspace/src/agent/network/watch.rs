//! Watchers in the namespaces of one network: an interface that appears or goes wakes the worker in milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::handle::WorkerHandle;
use super::local::LocalNetwork;
use crate::agent::host::journal::{Record, SharedJournal};
use crate::link::{LinkEvent, LinkWatch, Links};
use crate::model::{MemberId, NetworkId};
use crate::netns::{Netns, NetnsId};
use crate::topology::ownership::{self, MemberLink};
use crate::topology::{Key, Plan};

/// The watchers of one network: one per member of this host, and one in the network netns.
pub struct Watchers {
    handle: Arc<WorkerHandle>,
    members: BTreeMap<MemberId, JoinHandle<()>>,
    netns: Option<(NetnsId, JoinHandle<()>)>,
}

impl Watchers {
    /// None yet; they will wake the worker of `handle`.
    pub const fn new(handle: Arc<WorkerHandle>) -> Self {
        Self { handle, members: BTreeMap::new(), netns: None }
    }

    /// Ends the watchers of members that left, and starts those of members that stay and have none.
    pub async fn update(&mut self, net: &LocalNetwork, plan: &Plan) {
        let stays = |member: &MemberId| plan.contains(Key::Guard(*member));
        self.members.retain(|member, watcher| {
            let is_needed = stays(member) && !watcher.is_finished();
            if !is_needed {
                watcher.abort();
            }
            is_needed
        });
        for record in net.records.values() {
            if !stays(&record.id) || self.members.contains_key(&record.id) {
                continue;
            }
            if let Ok(netns) = Netns::open(record.best_path(&net.host.facts.boot_id)) {
                let watcher = tokio::spawn(watch_app_netns(netns, record.clone(), Arc::clone(&self.handle)));
                self.members.insert(record.id, watcher);
            }
        }
        self.update_netns(net, plan).await;
    }

    async fn update_netns(&mut self, net: &LocalNetwork, plan: &Plan) {
        let netns = if plan.is_empty() { None } else { net.netns().await.ok().flatten() };
        let id = netns.as_ref().map(|netns| netns.netns.id());
        if let Some((watched, watcher)) = self.netns.take() {
            if Some(watched) == id && !watcher.is_finished() {
                self.netns = Some((watched, watcher));
                return;
            }
            watcher.abort();
        }
        match netns {
            Some(netns) => {
                let (journal, handle) = (Arc::clone(&net.journal), Arc::clone(&self.handle));
                let watcher = tokio::spawn(watch_network_netns(netns.netns.clone(), net.network, journal, handle));
                self.netns = Some((netns.netns.id(), watcher));
            }
            None => net.forget_netns(),
        }
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        for watcher in self.members.values().chain(self.netns.iter().map(|(_, watcher)| watcher)) {
            watcher.abort();
        }
    }
}

/// Wakes the worker when an interface appears in a member's app netns, or its WireGuard interface goes.
async fn watch_app_netns(netns: Netns, record: Record, handle: Arc<WorkerHandle>) {
    let Ok(mut watch) = LinkWatch::open(&netns).await else { return };
    let Ok(links) = Links::open(&netns).await else { return };
    // What came before the watch was opened was seen by the pass, or is seen here.
    let Ok(known) = links.links().await else { return };
    let mut known: BTreeSet<u32> = known.into_iter().map(|link| link.index).collect();
    drop((netns, links));
    let own = ownership::wireguard_interface(record.index);
    handle.interface_appeared(record.id);
    while let Some(event) = watch.next().await {
        match event {
            LinkEvent::Changed(link) if known.insert(link.index) => handle.interface_appeared(record.id),
            LinkEvent::Changed(_) => {}
            LinkEvent::Gone { index, name } => {
                known.remove(&index);
                if name == own.as_str() {
                    handle.wake_and_observe();
                }
            }
            LinkEvent::Lost => handle.wake_and_observe(),
        }
    }
}

/// Wakes the worker when a link goes from a network netns that should be there.
async fn watch_network_netns(netns: Netns, network: NetworkId, journal: Arc<SharedJournal>, handle: Arc<WorkerHandle>) {
    let Ok(mut watch) = LinkWatch::open(&netns).await else { return };
    drop(netns);
    while let Some(event) = watch.next().await {
        let missed = match event {
            LinkEvent::Changed(_) => false,
            // The veth of a member that left goes by our own hand.
            LinkEvent::Gone { name, .. } => MemberLink::parse(&name).is_none_or(|link| {
                let stays = |record: &Record| record.network == network && record.link() == link && !record.leaving;
                journal.lock().records().values().any(stays)
            }),
            LinkEvent::Lost => true,
        };
        if missed {
            handle.wake_and_observe();
        }
    }
}
