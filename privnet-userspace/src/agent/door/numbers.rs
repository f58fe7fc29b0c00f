//! The numbers of containers as an attach finds them: given out elsewhere, and held by containers that are gone.

use std::collections::BTreeSet;

use super::error::{ControlError, ErrorCode};
use super::explain::explain;
use super::target::TargetNetns;
use super::wish::MemberWish;
use crate::agent::host::journal::Record;
use crate::agent::membership;
use crate::agent::shared::{Shared, UNTIL_SEEN};
use crate::agent::world::World;
use crate::model::{ContainerRef, NetworkId};
use crate::store::claims::NameWish;

/// The name that an attach asks for, with the numbers that are given out for its app and type: to its own namespace, and to
/// others, of this host in the same network as well, since what was seen of the store may be older than the records.
pub(super) fn name_wish(shared: &Shared, network: NetworkId, wanted: &MemberWish, found: &TargetNetns) -> NameWish {
    let mut elsewhere = shared.world(|world| world.numbers_elsewhere(network, wanted.app.id, &wanted.kind));
    let mut own = BTreeSet::new();
    for record in shared.journal().records().values().filter(|record| !record.leaving) {
        let names = record.each_name().map(|(name, _)| name);
        let numbers =
            names.filter(|name| name.app == wanted.app.id && name.kind == wanted.kind).map(|name| name.number);
        if record.netns == found.netns.id() { own.extend(numbers) } else { elsewhere.extend(numbers) }
    }
    NameWish {
        app: wanted.app.id,
        app_name: wanted.app.name.clone(),
        kind: wanted.kind.clone(),
        number: wanted.number,
        own,
        elsewhere,
        ports: wanted.ports.clone(),
    }
}

/// Ends what containers of this host hold that are gone and that the attach may ask for: names of its app and type, and its
/// address. The agent would end them within a second; by then the attach would have chosen the next number.
pub(super) async fn free_dead(
    shared: &Shared,
    network: NetworkId,
    wanted: &MemberWish,
    found: &TargetNetns,
) -> Result<(), ControlError> {
    let boot_id = &shared.host.facts.boot_id;
    let is_wanted = |name: &ContainerRef| name.app == wanted.app.id && name.kind == wanted.kind;
    let others: Vec<Record> = {
        let journal = shared.journal();
        let is_other = |record: &&Record| {
            let holds = record.each_name().any(|(name, _)| is_wanted(name))
                || (record.network == network && wanted.address == Some(record.address));
            !record.leaving && record.netns != found.netns.id() && holds
        };
        journal.records().values().filter(is_other).cloned().collect()
    };
    for record in others {
        let is_alive = record.is_alive(boot_id);
        let mut dead = if is_alive { record.dead_names() } else { Vec::new() };
        dead.retain(is_wanted);
        if !is_alive {
            membership::end_with_claims(shared, &record).await.map_err(|error| explain(&error))?;
        }
        for name in &dead {
            membership::end_name_with_claims(shared, &record, name).await.map_err(|error| explain(&error))?;
        }
        if !is_alive || !dead.is_empty() {
            // The number and the address are chosen from what is seen.
            let is_free = |world: &World| {
                let known = world.membership(record.id);
                known.is_none_or(|known| is_alive && dead.iter().all(|name| known.name(name).is_none()))
            };
            shared.world.wait_until(UNTIL_SEEN, is_free).await;
        }
    }
    Ok(())
}

/// Refuses a number that was asked for and that a container of this host has in another namespace.
pub(super) fn refuse_taken_number(
    shared: &Shared,
    wanted: &MemberWish,
    found: &TargetNetns,
) -> Result<(), ControlError> {
    let Some(number) = wanted.number else { return Ok(()) };
    let container = ContainerRef { app: wanted.app.id, kind: wanted.kind.clone(), number };
    let journal = shared.journal();
    let others = journal.records().values().filter(|record| !record.leaving && record.netns != found.netns.id());
    let holder = others
        .flat_map(|record| record.each_name().map(move |name| (record, name)))
        .find(|(_, (name, _))| **name == container);
    let Some((record, (_, path))) = holder else { return Ok(()) };
    Err(ControlError::new(
        ErrorCode::MemberExists,
        format!("container {container} is attached to {} in another namespace, {}", record.network, path.display()),
        "choose another number, or detach that container first",
    ))
}
