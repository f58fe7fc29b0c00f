//! What an operator ends without its host: a network with its members, and a member of a host that is away.

use super::error::{ControlError, ErrorCode};
use super::reads::find_network;
use super::views::{Detached, EndNetwork, EndedNetwork};
use crate::agent::shared::{Shared, UNTIL_SEEN};
use crate::agent::world::World;
use crate::model::{AppId, ContainerRef, ContainerType, Member, Network, counted};
use crate::store::claims::{self, End, Released};
use crate::store::records::{EndedBy, NetworkMark};

/// How many members end without a confirmation.
pub(super) const ENDS_UNASKED: usize = 5;

/// Ends a network with its members, by a mark that each host obeys when it sees it.
pub(super) async fn end_network(shared: &Shared, request: EndNetwork) -> Result<EndedNetwork, ControlError> {
    let network = find_network(shared, &request.network).await?;
    let (id, name) = (network.id, &network.name);
    let members = claims::members_of_network(&*shared.store, id, &*shared.world).await?;
    let count = members.len();
    if count > ENDS_UNASKED && !request.yes {
        return Err(ControlError::new(
            ErrorCode::NetworkNotEmpty,
            format!("{} of network {name} would end: {}", counted(count, "member"), claims::some_of(&members)),
            "repeat it with --yes to end them all",
        ));
    }
    let by = shared.host.config.host.clone();
    let mark = NetworkMark { network: id, name: name.clone(), by, at_unix_seconds: crate::agent::now_unix_seconds() };
    claims::end_network(&*shared.store, &network, &mark).await?;
    shared.world.wait_until(UNTIL_SEEN, |world: &World| !world.networks().contains_key(&id)).await;
    tracing::info!(network = %name, "deleted {id} with its members: {count}");
    Ok(EndedNetwork { members_ended: count as u64 })
}

/// Ends a member of another host, if that one is away.
pub(super) async fn detach_elsewhere(
    shared: &Shared,
    network: &Network,
    member: &Member,
    name: &ContainerRef,
    is_forced: bool,
) -> Result<Detached, ControlError> {
    let host = &member.host;
    let is_there = shared.world(|world| world.is_heard(host));
    if is_there || !is_forced {
        let message = format!("{name} is on host {host}");
        let (message, remedy) = if is_there {
            (message, format!("detach it on host {host}"))
        } else {
            (format!("{message}, which is away"), "`--force` ends it; its host obeys when it is back".to_owned())
        };
        return Err(ControlError::new(ErrorCode::InvalidArgument, message, remedy));
    }
    let end = End { by: EndedBy::Operator, at_unix_seconds: crate::agent::now_unix_seconds() };
    let (store, world) = (&*shared.store, &*shared.world);
    let released = claims::release_name(store, network.id, member.id, name, end, world).await?;
    let detached = match released {
        Some(Released::Name(_) | Released::Membership(_)) => true,
        // The store has lost its record.
        None => claims::release_member(store, member, end, world).await?.is_some(),
    };
    let left = |world: &World| world.membership(member.id).is_none_or(|known| known.name(name).is_none());
    shared.world.wait_until(UNTIL_SEEN, left).await;
    tracing::info!(network = %network.name, "detached {name} ({}) of host {host}, which is away", member.address);
    Ok(Detached { detached, problems: Vec::new() })
}

/// Refuses a detach without a number that finds nothing on this host, where other hosts have such members.
pub(super) fn refuse_elsewhere(
    shared: &Shared,
    network: &Network,
    app: AppId,
    kind: &ContainerType,
) -> Result<(), ControlError> {
    let elsewhere: Vec<String> = shared.world(|world| {
        let names = world.members(network.id).flat_map(|member| member.each_name().map(|name| (name, &member.host)));
        let meant = names.filter(|(name, _)| name.container.app == app && name.container.kind == *kind);
        meant.map(|(name, host)| format!("number {} on host {host}", name.container.number)).collect()
    });
    if elsewhere.is_empty() {
        return Ok(());
    }
    Err(ControlError::new(
        ErrorCode::InvalidArgument,
        format!("{kind} of {app} in {} is not on this host: {}", network.name, elsewhere.join(", ")),
        "detach it there; `--number N --force` ends it where that host is away",
    ))
}
