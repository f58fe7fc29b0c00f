//! What container runtimes attached: found and ended by the names that they have for it.

use super::attach::hostname;
use super::error::ControlError;
use super::explain::explain;
use super::gone::wait_until_gone;
use super::problems::of_member;
use super::views::{AttachmentView, Detached, MemberRef, ProblemView};
use crate::agent::host::journal::Record;
use crate::agent::membership;
use crate::agent::names;
use crate::agent::shared::{Shared, UNTIL_SEEN};
use crate::agent::world::World;
use crate::model::AttachmentName;

/// All of this host, by name.
pub fn list(shared: &Shared) -> Vec<AttachmentView> {
    let mut views: Vec<AttachmentView> =
        records(shared).iter().filter(|record| !record.leaving).filter_map(|record| view(shared, record)).collect();
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}

/// Ends one, and waits until nothing of it remains on this host. The store may be away.
///
/// # Errors
/// When a record cannot be changed, or not all is gone in time; nothing is left undone because of that.
pub async fn end(shared: &Shared, name: &AttachmentName) -> Result<Detached, ControlError> {
    shared.host.state_dir.check_writable()?;
    let mut meant = records(shared);
    meant.retain(|record| record.attachment.as_ref() == Some(name));
    let (mut ended, mut failed) = (Detached::default(), None);
    for record in &meant {
        ended.detached |= !record.leaving;
        match end_one(shared, record).await {
            Ok(problems) => ended.problems.extend(problems),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(ended), Err)
}

async fn end_one(shared: &Shared, record: &Record) -> Result<Vec<ProblemView>, ControlError> {
    let mut problems = Vec::new();
    if !record.leaving {
        let leaving = membership::end_here(shared, record).await.map_err(|error| explain(&error))?;
        problems = leaving.problems().await;
    }
    wait_until_gone(shared, record).await?;
    for (name, _) in record.each_name() {
        names::wait::wait_until_withdrawn(shared, record, name).await;
    }
    // The next attach chooses from what is seen: its number and address are free there too.
    let is_seen = |world: &World| world.membership(record.id).is_none();
    tokio::select! {
        () = shared.world.wait_until(UNTIL_SEEN, is_seen) => {}
        _ = shared.contact.away() => {}
    }
    if !record.leaving {
        tracing::info!(network = %record.network, "{} ({}) was ended by its runtime", record.names_text(), record.address);
    }
    Ok(problems)
}

fn records(shared: &Shared) -> Vec<Record> {
    shared.journal().records().values().filter(|record| record.attachment.is_some()).cloned().collect()
}

fn view(shared: &Shared, record: &Record) -> Option<AttachmentView> {
    let report = shared.workers.of(record.network).reports().borrow().clone();
    let failed = report.failed.get(&record.id).cloned();
    let failed =
        failed.map(|error| ProblemView { what: record.names_text(), why: error.message, remedy: error.remedy });
    let app_name = |world: &World| world.membership(record.id)?.name(&record.container)?.app_name.cloned();
    let network_name = |world: &World| world.networks().get(&record.network).map(|network| network.name.clone());
    Some(AttachmentView {
        name: record.attachment.clone()?,
        network: record.network,
        network_name: shared.world(network_name),
        member: MemberRef {
            app: record.container.app,
            app_name: shared.world(app_name),
            kind: record.container.kind.clone(),
            number: record.container.number,
            address: record.address,
            hostname: hostname(record.network, &record.container),
        },
        interface: record.interface(),
        ready: report.ready.contains(&record.id),
        problems: failed.into_iter().chain(of_member(shared, record)).collect(),
    })
}
