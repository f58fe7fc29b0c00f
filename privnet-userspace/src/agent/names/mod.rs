//! The DNS process as it should be: there, with a socket in every container of this host, and told every name.
//!
//! | module | what it owns |
//! |---|---|
//! | `bell` | who calls for a pass, and what the last one led to |
//! | `keeper` | pass after pass: process, sockets, names |
//! | `truth` | what should be told, from the world and the records |
//! | `ask`, `reason` | what the surfaces may ask; why a container is told what it is told |

mod ask;
mod bell;
mod keeper;
mod reason;
mod truth;

#[cfg(test)]
pub(super) use truth::tests;

use std::sync::Arc;
use std::time::Duration;

pub use bell::NamesBell;
pub use keeper::keep_names;

use super::housekeeping::end_membership;
use super::journal::Record;
use super::shared::Shared;
use crate::agent::error::ControlError;
use crate::ipam;
use crate::model::{Member, MemberState, Network, NetworkId};
use crate::store::claims;

/// How long an attach or a detach waits for the names; they follow later, or `privnet status` says why not.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait before a drain that could not be ended is tried again.
const DRAIN_RETRY: Duration = Duration::from_secs(1);
/// Names with fewer dots are looked for in the network first: `_http._tcp.1.web.ap-<uuid>` has four, so that what is meant
/// within the network is not asked outside of it.
const NDOTS: u8 = 5;

/// What to put into the `resolv.conf` of a container in `network`; nothing when this host answers no names.
#[must_use]
pub fn resolv_conf(shared: &Shared, network: NetworkId) -> Option<String> {
    let address = shared.config.names.as_ref()?.address;
    let apex = crate::names::of_network(network).to_string();
    let search = apex.trim_end_matches('.');
    Some(format!("# Written by privnet.\nnameserver {address}\nsearch {search}\noptions ndots:{NDOTS}\n"))
}

/// Waits until the member's container can ask, and the member's own name is known on this host, or patience ends.
pub async fn wait_until_told(shared: &Shared, record: &Record) {
    if shared.config.names.is_none() {
        return;
    }
    let mut reports = shared.names.reports();
    let told = reports.wait_for(|report| {
        let served = report.served.contains(&record.netns) || report.problems.contains_key(&Some(record.netns));
        (report.names(record) && served) || report.problems.contains_key(&None)
    });
    if tokio::time::timeout(PATIENCE, told).await.is_err() {
        tracing::warn!(network = %record.network, "{} is attached, and its names are not known yet", record.container);
    }
}

/// Withdraws a member's name everywhere, and waits until nobody can have it any more: as long as an answer may be kept, and
/// a moment for the other hosts to hear of it.
///
/// # Errors
/// When the store cannot be told; the member is as it was.
pub async fn drain(shared: &Shared, network: &Network, member: &Member, record: &Record) -> Result<(), ControlError> {
    claims::set_member_state(&*shared.store, member, MemberState::Draining).await?;
    if shared.config.names.is_some() {
        let mut reports = shared.names.reports();
        let withdrawn = reports.wait_for(|report| !report.names(record));
        let _ = tokio::time::timeout(PATIENCE, withdrawn).await;
    }
    tokio::time::sleep(until_forgotten(network)).await;
    Ok(())
}

/// Finishes the drains that an earlier agent began, and that nobody waits for any more. Draining members have no names; what
/// is left is to wait until nobody has them, and to end the membership.
pub async fn finish_drains(shared: Arc<Shared>) {
    let records: Vec<Record> = shared.journal().records().values().filter(|r| !r.leaving).cloned().collect();
    let begun = shared.world(|world| {
        let wait = |record: &Record| {
            let state = world.member(record.network, &record.container)?.state;
            (state == MemberState::Draining).then(|| world.networks().get(&record.network).map(until_forgotten))?
        };
        records.into_iter().filter_map(|record| Some((wait(&record)?, record))).collect::<Vec<_>>()
    });
    let finish = begun.into_iter().map(|(wait, record)| {
        let shared = &shared;
        async move {
            tracing::info!(network = %record.network, "finishing the drain of {}", record.container);
            tokio::time::sleep(wait).await;
            while let Err(error) = end_membership(shared, &record).await {
                tracing::warn!(network = %record.network, "cannot end the drain of {}: {error:#}", record.container);
                tokio::time::sleep(DRAIN_RETRY).await;
            }
        }
    });
    futures::future::join_all(finish).await;
}

/// How long a name that is withdrawn may be known still: as long as an answer may be kept, and a moment for the other hosts.
fn until_forgotten(network: &Network) -> Duration {
    Duration::from_secs(ipam::rest_seconds(network.names.ttl_seconds))
}

/// Waits until a member that left has no name on this host, and its container, if this was its last network, is served no
/// longer; or patience ends.
pub async fn wait_until_withdrawn(shared: &Shared, record: &Record) {
    if shared.config.names.is_none() {
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
        tracing::warn!(network = %record.network, "{} has left, and may have its name still", record.container);
    }
}
