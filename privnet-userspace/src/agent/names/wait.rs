//! What an attach and a detach wait for, and what they tell the container about names.

use std::time::Duration;

use crate::agent::host::journal::Record;
use crate::agent::shared::Shared;
use crate::model::NetworkId;

/// How long an attach or a detach waits for the names; they follow later, or `privnet status` says why not.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Names with fewer dots are looked for in the network first: `_http._tcp.1.web.ap-<uuid>` has four, so that what is meant
/// within the network is not asked outside of it.
const NDOTS: u8 = 5;

/// What to put into the `resolv.conf` of a container in `network`; nothing when this host answers no names.
#[must_use]
pub fn resolv_conf(shared: &Shared, network: NetworkId) -> Option<String> {
    let address = shared.host.config.names.as_ref()?.address;
    let apex = crate::names::of_network(network).to_string();
    let search = apex.trim_end_matches('.');
    Some(format!("# Written by privnet.\nnameserver {address}\nsearch {search}\noptions ndots:{NDOTS}\n"))
}

/// Waits until the member's container can ask, and the member's own name is known on this host, or patience ends.
pub async fn wait_until_told(shared: &Shared, record: &Record) {
    if shared.host.config.names.is_none() {
        return;
    }
    let mut reports = shared.names.reports();
    let told = reports.wait_for(|report| {
        let served = report.served.contains(&record.netns) || report.problems.contains_key(&Some(record.netns));
        (report.names(record) && served) || report.problems.contains_key(&None)
    });
    if tokio::time::timeout(PATIENCE, told).await.is_err() {
        tracing::warn!(network = %record.network, "{} is attached, and the DNS process does not know its name yet", record.container);
    }
}

/// Waits until a member that left has no name on this host, and its container, if this was its last network, is served no
/// longer; or patience ends.
pub async fn wait_until_withdrawn(shared: &Shared, record: &Record) {
    if shared.host.config.names.is_none() {
        return;
    }
    let serves_others = {
        let journal = shared.journal();
        journal.records().values().any(|other| !other.leaving && other.netns == record.netns)
    };
    let mut reports = shared.names.reports();
    let withdrawn =
        reports.wait_for(|report| !report.names(record) && (serves_others || !report.served.contains(&record.netns)));
    if tokio::time::timeout(PATIENCE, withdrawn).await.is_err() {
        tracing::warn!(network = %record.network, "{} is detached, and the DNS process may still know its name", record.container);
    }
}
