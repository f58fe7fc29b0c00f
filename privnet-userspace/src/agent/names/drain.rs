//! Draining: a member's name is withdrawn first, and its membership ends when the name can be known to no client.

use std::sync::Arc;
use std::time::Duration;

use super::wait::PATIENCE;
use crate::agent::door::error::ControlError;
use crate::agent::host::journal::Record;
use crate::agent::membership;
use crate::agent::shared::Memberships;
use crate::ipam;
use crate::model::{Member, MemberState, Network};
use crate::store::claims;

/// How long to wait before a drain that could not be ended is tried again.
const DRAIN_RETRY: Duration = Duration::from_secs(1);

/// Withdraws a member's name everywhere, and waits until no client can have it any more: as long as an answer may be kept, and
/// a moment for the other hosts to hear of it.
///
/// # Errors
/// When the store cannot be told; the member is as it was.
pub async fn drain(
    memberships: &Memberships,
    network: &Network,
    member: &Member,
    record: &Record,
) -> Result<(), ControlError> {
    let told = claims::set_member_state(&*memberships.store, member, MemberState::Draining).await?;
    if let Err(error) = memberships.journal().note_stored(record.id, &told.records) {
        tracing::warn!(network = %record.network, "the record of {} is older than the store's: {error:#}", record.container);
    }
    if memberships.host.config.names.is_some() {
        let mut reports = memberships.names.reports();
        let withdrawn = reports.wait_for(|report| !report.names(record));
        let _ = tokio::time::timeout(PATIENCE, withdrawn).await;
    }
    tokio::time::sleep(until_forgotten(network)).await;
    Ok(())
}

/// Finishes the drains that an earlier agent began. Draining members have no names; what is left is to wait until no
/// client has them, and to end the membership.
pub async fn finish_drains(memberships: Arc<Memberships>) {
    let records: Vec<Record> = memberships.journal().records().values().filter(|r| !r.leaving).cloned().collect();
    let begun = memberships.world(|world| {
        let wait = |record: &Record| {
            let state = world.member(record.network, &record.container)?.state;
            (state == MemberState::Draining).then(|| world.networks().get(&record.network).map(until_forgotten))?
        };
        records.into_iter().filter_map(|record| Some((wait(&record)?, record))).collect::<Vec<_>>()
    });
    let finish = begun.into_iter().map(|(wait, record)| {
        let memberships = &memberships;
        async move {
            tracing::info!(network = %record.network, "finishing the drain of {}", record.container);
            tokio::time::sleep(wait).await;
            while let Err(error) = membership::end(memberships, &record).await {
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
