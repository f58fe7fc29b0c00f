//! An attach while the store is away: what this host knows is enough for a place that is its own already. The membership that a
//! namespace has stays, and one that ended meanwhile is its container's again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::claim::{self, Claimed, Made, free_index, membership_of, record_member};
use super::difference;
use super::error::ControlError;
use super::gone::wait_until_gone;
use super::overlap::check_own_interfaces;
use super::target::TargetNetns;
use super::wish::MemberWish;
use crate::agent::host::journal::{DEVICE, Handover, Record};
use crate::agent::kept::Place;
use crate::agent::shared::Shared;
use crate::model::{Member, NameOf, Network};

/// Finds what an attach means among the places of this host; nothing where it is to have a new one, which only the store gives.
///
/// # Errors
/// The membership that is there is not as it was asked for, or cannot be recorded.
pub(super) async fn claim(
    shared: &Shared,
    network: &Network,
    wanted: &MemberWish,
    found: &TargetNetns,
) -> Result<Option<Claimed>, ControlError> {
    // Another request may hold the claims for as long as the store is waited for.
    if shared.kept.all().is_empty() && membership_of(shared, network.id, found).is_none() {
        return Ok(None);
    }
    let is_meant = |place: &Place| place.record.network == network.id && is_place_of(&place.record, wanted, found);
    let in_journal = |place: Place| shared.journal().records().get(&place.record.id).cloned();
    // What it had may still be being removed, which goes by the claims too.
    if let Some(leaving) = shared.kept.all().into_iter().filter(is_meant).find_map(in_journal) {
        wait_until_gone(shared, &leaving).await?;
    }
    let _claims = shared.claims.lock().await;
    let membership = membership_of(shared, network.id, found);
    found.refuse_other(membership.as_ref())?;
    match membership {
        Some(record) if record.leaving => Ok(None),
        Some(record) => standing(shared, network, record, wanted),
        None => come_back(shared, network, wanted, found).await,
    }
}

/// The membership that the namespace has, where it has this name.
fn standing(
    shared: &Shared,
    network: &Network,
    record: Record,
    wanted: &MemberWish,
) -> Result<Option<Claimed>, ControlError> {
    let Some(member) = shared.world(|world| world.membership(record.id).cloned()) else { return Ok(None) };
    let is_wanted = |name: &NameOf<'_>| name.container.app == wanted.app.id && name.container.kind == wanted.kind;
    let Some(stands) = member.each_name().find(is_wanted) else { return Ok(None) };
    difference::refuse_address(network, &member, wanted)?;
    difference::refuse_attachment(network, &record, wanted)?;
    difference::refuse_name(network, &stands, wanted)?;
    let name = stands.container.clone();
    Ok(Some(Claimed { record, name, made: Made::Nothing }))
}

/// Gives the namespace the place of a member that ended while the store was away: its address, name and key.
async fn come_back(
    shared: &Shared,
    network: &Network,
    wanted: &MemberWish,
    found: &TargetNetns,
) -> Result<Option<Claimed>, ControlError> {
    let is_meant = |record: &Record| {
        record.network == network.id && is_place_of(record, wanted, found) && is_ours_still(shared, record)
    };
    let place = shared.kept.all().into_iter().find(|place| is_meant(&place.record));
    let Some(Place { record: old, key }) = place else { return Ok(None) };
    claim::check_overlap(shared, network, found)?;
    check_own_interfaces(shared, network, &found.netns).await?;
    let interface = wanted.attachment.as_ref().and_then(|attachment| attachment.interface.clone());
    // Its port goes by its number, and is in the store.
    if free_index(shared, found, interface.as_ref()).await? != old.index {
        return Ok(None);
    }
    let record = Record {
        slot: None,
        binding: None,
        netns_path: found.path.clone(),
        netns: found.netns.id(),
        netns_cookie: Some(found.netns.cookie().await?),
        boot_id: shared.host.facts.boot_id.clone(),
        leaving: false,
        resolv_conf: wanted.resolv_conf.clone(),
        clock_steps: BTreeMap::new(),
        // It asked for what the other one asked for; its name tells.
        handover: found.handover.clone().map(|handover| Handover { is_on_trust: true, ..handover }),
        interface,
        attachment: wanted.attachment.as_ref().map(|attachment| attachment.name.clone()),
        ..old
    };
    let record = record_member(shared, record, &key)?;
    shared.kept.forget(record.id);
    let name = record.container.clone();
    tracing::info!(network = %network.name, "{name} ({}) is back, and the store is away", record.address);
    Ok(Some(Claimed { record, name, made: Made::Membership }))
}

/// Whether nothing is known of an end of it: what other hosts see of it is as it was.
fn is_ours_still(shared: &Shared, record: &Record) -> bool {
    let is_it = |member: &Arc<Member>| member.address == record.address && shared.host.is_of_instance(member);
    shared.world(|world| world.membership(record.id).is_some_and(is_it))
}

/// Whether the container that is attached is the one whose place it was. One whose device is handed over tells its name later,
/// and is held against the place's then: it asks for what the other one asked for.
fn is_place_of(record: &Record, wanted: &MemberWish, found: &TargetNetns) -> bool {
    let is_named_so = || {
        let name = &record.container;
        name.app == wanted.app.id
            && name.kind == wanted.kind
            && wanted.number.is_none_or(|number| number == name.number)
    };
    let is_it = match (&record.handover, &found.handover) {
        (Some(old), Some(new)) => found.may_come_back && wishes(old) == wishes(new),
        (None, None) => is_named_so(),
        (Some(_), None) | (None, Some(_)) => false,
    };
    is_it && record.names.is_empty() && wanted.address.is_none_or(|address| address == record.address)
}

/// What was asked for with a device, without what is another one for each.
fn wishes(handover: &Handover) -> BTreeMap<&str, &str> {
    handover.wishes.iter().map(|(key, value)| (&**key, &**value)).filter(|(key, _)| *key != DEVICE).collect()
}
