//! Draining: a name is withdrawn first, and released when no client can know it any more; the last one with its membership.

use std::sync::Arc;
use std::time::Duration;

use super::wait::PATIENCE;
use crate::agent::door::error::ControlError;
use crate::agent::host::journal::Record;
use crate::agent::membership;
use crate::agent::shared::Memberships;
use crate::ipam;
use crate::model::{ContainerRef, MemberState, Network};
use crate::store::claims;

/// How long to wait before a drain that could not be ended is tried again.
const DRAIN_RETRY: Duration = Duration::from_secs(1);

/// Withdraws one of a member's names everywhere, and waits until no client can have it any more: as long as an answer may be
/// kept, and a moment for the other hosts to hear of it.
///
/// # Errors
/// When the store cannot be told; the member is as it was.
pub async fn drain(
    memberships: &Memberships,
    network: &Network,
    record: &Record,
    name: &ContainerRef,
) -> Result<(), ControlError> {
    let told = claims::drain_name(&*memberships.store, network.id, record.id, name).await?;
    if let Err(error) = memberships.journal().note_stored(&told) {
        tracing::warn!(network = %record.network, "the record of {name} is older than the store's: {error:#}");
    }
    if memberships.host.config.names.is_some() {
        let mut reports = memberships.names.reports();
        let withdrawn = reports.wait_for(|report| !report.names(record, name));
        let _ = tokio::time::timeout(PATIENCE, withdrawn).await;
    }
    tokio::time::sleep(until_forgotten(network)).await;
    Ok(())
}

/// Finishes the drains that an earlier agent began. Draining names lead to no address; what is left is to wait until no
/// client has them, and to release them.
pub async fn finish_drains(memberships: Arc<Memberships>) {
    let records: Vec<Record> = memberships.journal().records().values().filter(|r| !r.leaving).cloned().collect();
    let begun = memberships.world(|world| {
        let of_record = |record: Record| {
            let wait = world.networks().get(&record.network).map(until_forgotten);
            let member = world.membership(record.id);
            let names = member.into_iter().flat_map(|member| member.each_name());
            let draining = names.filter(|name| name.state == MemberState::Draining).map(|name| name.container.clone());
            let draining: Vec<ContainerRef> = draining.collect();
            draining.into_iter().filter_map(move |name| Some((wait?, record.clone(), name))).collect::<Vec<_>>()
        };
        records.into_iter().flat_map(of_record).collect::<Vec<_>>()
    });
    let finish = begun.into_iter().map(|(wait, record, name)| {
        let memberships = &memberships;
        async move {
            tracing::info!(network = %record.network, "finishing the drain of {name}");
            tokio::time::sleep(wait).await;
            while let Err(error) = membership::end_name(memberships, &record, &name).await {
                tracing::warn!(network = %record.network, "cannot end the drain of {name}: {error:#}");
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
