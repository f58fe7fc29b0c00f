//! What an attach and a detach wait for, and what they tell the container about names.

use std::time::Duration;

use super::desired;
use super::search::Search;
use crate::agent::host::journal::Record;
use crate::agent::shared::Memberships;
use crate::agent::world::World;
use crate::model::{ContainerRef, NetworkId, NetworkName};
use crate::netns::NetnsId;

/// How long an attach or a detach waits for the names; they follow later, or `privnet status` says why not.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The search list of the container with this namespace.
#[must_use]
pub fn search(shared: &Memberships, netns: NetnsId) -> Search {
    let networks = desired::networks(shared.journal().records().values(), netns);
    let named = |world: &World| -> Vec<(NetworkId, Option<NetworkName>)> {
        networks.iter().map(|id| (*id, world.networks().get(id).map(|network| network.name.clone()))).collect()
    };
    Search::of(&shared.world(named))
}

/// What to put into the `resolv.conf` of the container with this namespace; nothing when this host answers no names.
#[must_use]
pub fn resolv_conf(shared: &Memberships, netns: NetnsId) -> Option<String> {
    let address = shared.host.config.names.as_ref()?.address;
    Some(search(shared, netns).resolv_conf(address))
}

/// Waits until the member's container can ask, and one of the member's names is known on this host, or patience ends.
pub async fn wait_until_told(shared: &Memberships, record: &Record, name: &ContainerRef) {
    if shared.host.config.names.is_none() {
        return;
    }
    let mut reports = shared.names.reports();
    let told = reports.wait_for(|report| {
        let served = report.served.contains_key(&record.netns) || report.problems.contains_key(&Some(record.netns));
        (report.names(record, name) && served) || report.problems.contains_key(&None)
    });
    if tokio::time::timeout(PATIENCE, told).await.is_err() {
        tracing::warn!(network = %record.network, "{name} is attached, and the DNS process does not know its name yet");
    }
}

/// Waits until a member has lost a name on this host, and its container, if this was the last one in its last network, is
/// served no longer; or patience ends.
pub async fn wait_until_withdrawn(shared: &Memberships, record: &Record, name: &ContainerRef) {
    if shared.host.config.names.is_none() {
        return;
    }
    let serves_others = {
        let journal = shared.journal();
        journal.records().values().any(|other| !other.leaving && other.netns == record.netns)
    };
    let mut reports = shared.names.reports();
    let withdrawn = reports.wait_for(|report| {
        !report.names(record, name) && (serves_others || !report.served.contains_key(&record.netns))
    });
    if tokio::time::timeout(PATIENCE, withdrawn).await.is_err() {
        tracing::warn!(network = %record.network, "{name} is detached, and the DNS process may still know its name");
    }
}
