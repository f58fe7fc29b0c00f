//! What the reads answer: from the store's image, so that they never wait for the store.
//!
//! This host's own changes are in the image before they are answered; those of other hosts as soon as it has followed them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::attach::hostname;
use super::error::{ControlError, ErrorCode};
use super::views::{HostState, HostView, MemberRef, MemberView, NameView, NetworkView};
use crate::agent::shared::Shared;
use crate::agent::world::World;
use crate::ipam;
use crate::model::{Member, NameOf, Network, NetworkId, NetworkName};
use crate::store::records::{self, HostRecord};

/// How long a read asks the store for a network that its image does not have: another host may just have created it.
const LOOK: Duration = Duration::from_millis(40);

/// All networks, by name.
pub fn networks(shared: &Shared) -> Vec<NetworkView> {
    let age = store_age_seconds(shared);
    let mut views: Vec<NetworkView> = shared.world(|world| {
        let view = |network: &Network| network_view(network.clone(), world.members(network.id).count(), age);
        world.networks().values().map(view).collect()
    });
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}

/// One network.
pub async fn network(shared: &Shared, id_or_name: &str) -> Result<NetworkView, ControlError> {
    let network = look_for_network(shared, id_or_name).await?;
    let used = shared.world(|world| world.members(network.id).count());
    Ok(network_view(network, used, store_age_seconds(shared)))
}

/// The members of one network or of all, by network, app, type and number.
pub async fn members(shared: &Shared, network: Option<&str>) -> Result<Vec<MemberView>, ControlError> {
    let networks: BTreeMap<NetworkId, Network> = match network {
        Some(network) => {
            BTreeMap::from([look_for_network(shared, network).await.map(|network| (network.id, network))?])
        }
        None => shared.world(|world| world.networks().clone()),
    };
    let mut views: Vec<MemberView> = Vec::new();
    for network in networks.values() {
        let members: Vec<_> = shared.world(|world| world.members(network.id).cloned().collect());
        views.extend(members.iter().map(|member| member_view(shared, network, member)));
    }
    let order = |MemberView { network_name, member, .. }: &MemberView| {
        (network_name.clone(), member.app, member.kind.clone(), member.number)
    };
    views.sort_by_key(order);
    Ok(views)
}

/// The hosts that share the store, by name.
pub fn hosts(shared: &Shared) -> Vec<HostView> {
    let (age, own) = (store_age_seconds(shared), &shared.host.config.host);
    let own_instance = (own, shared.host.facts.instance.id());
    shared.world(|world| {
        let applied = world.applied().0;
        let view = |host: &HostRecord| {
            let is_gone = world.is_gone(&host.name);
            let its = if host.name == *own { applied } else { host.applied_revision };
            let its = Some(its).filter(|revision| *revision > 0);
            HostView {
                name: host.name.clone(),
                vtep: host.vtep,
                version: host.agent_version.clone(),
                members: world.members_on(&host.name).count(),
                state: if is_gone { HostState::Unreachable } else { HostState::Present },
                unreachable_since_unix_seconds: shared.gone_hosts.since(&host.name).filter(|_| is_gone),
                lease_since_unix_seconds: world.lease_since(&host.name),
                applied_revision: its,
                lag: its.map(|its| applied.saturating_sub(its)),
                members_unadopted: world.unadopted(&host.name, own_instance),
                draining: world.is_draining(&host.name),
                store_age_seconds: age,
            }
        };
        world.hosts().map(view).collect()
    })
}

/// The network that a read means.
///
/// # Errors
/// When there is none, as far as is known.
pub async fn look_for_network(shared: &Shared, id_or_name: &str) -> Result<Network, ControlError> {
    if let Some(known) = known_network(shared, id_or_name)? {
        return Ok(known);
    }
    if let Ok(Ok(Some(network))) = timeout(LOOK, stored_network(shared, id_or_name)).await {
        return Ok(network);
    }
    Err(no_network(shared, id_or_name))
}

/// The network that a change means: the store is asked for one that is not known.
///
/// # Errors
/// When there is none, or the store does not answer.
pub async fn find_network(shared: &Shared, id_or_name: &str) -> Result<Network, ControlError> {
    if let Some(known) = known_network(shared, id_or_name)? {
        return Ok(known);
    }
    stored_network(shared, id_or_name).await?.ok_or_else(|| no_network(shared, id_or_name))
}

fn known_network(shared: &Shared, id_or_name: &str) -> Result<Option<Network>, ControlError> {
    let by_name = |world: &World, name: &NetworkName| world.network_named(name).cloned();
    match (NetworkId::typed(id_or_name), id_or_name.parse::<NetworkName>()) {
        (Ok(id), _) => Ok(shared.world(|world| world.networks().get(&id).cloned())),
        (Err(_), Ok(name)) => Ok(shared.world(|world| by_name(world, &name))),
        (Err(_), Err(error)) => Err(error.into()),
    }
}

async fn stored_network(shared: &Shared, id_or_name: &str) -> Result<Option<Network>, ControlError> {
    let store = &*shared.store;
    let found = match (NetworkId::typed(id_or_name), id_or_name.parse::<NetworkName>()) {
        (Ok(id), _) => records::get_network(store, id).await?,
        (Err(_), Ok(name)) => records::find_network(store, &name).await?,
        (Err(_), Err(error)) => return Err(error.into()),
    };
    Ok(found.map(|stored| stored.record))
}

fn no_network(shared: &Shared, id_or_name: &str) -> ControlError {
    let (message, remedy) = match store_age_seconds(shared) {
        None => (format!("network {id_or_name} does not exist"), "`privnet network list` shows those that do"),
        Some(age) => (
            format!("network {id_or_name} did not exist {age} s ago, when the store answered last"),
            "`privnet network list` shows those that did; `privnet status` shows what the store says",
        ),
    };
    ControlError::new(ErrorCode::NetworkNotFound, message, remedy)
}

/// How old what is known of the store is, in seconds; nothing while it is current.
pub fn store_age_seconds(shared: &Shared) -> Option<u64> {
    shared.contact.age(Instant::now()).map(|age| age.as_secs())
}

fn member_view(shared: &Shared, network: &Network, member: &Member) -> MemberView {
    let record = shared.journal().at(network.id, member.address).cloned();
    let own = record.filter(|record| record.id == member.id && !record.leaving);
    let member_ref = |name: &NameOf<'_>| MemberRef {
        app: name.container.app,
        app_name: name.app_name.cloned(),
        kind: name.container.kind.clone(),
        number: name.container.number,
        address: member.address,
        hostname: hostname(network.id, name.container),
    };
    let name_view =
        |name: NameOf<'_>| NameView { name: member_ref(&name), state: name.state, ports: name.ports.clone() };
    MemberView {
        names: member.each_name().map(name_view).collect(),
        network: network.id,
        network_name: network.name.clone(),
        member: member_ref(&member.oldest_name()),
        public_key: member.public_key,
        host: member.host.clone(),
        state: member.state,
        interface: own.map(|record| record.interface()),
        unreachable_since_unix_seconds: shared.gone_hosts.since(&member.host),
        store_age_seconds: store_age_seconds(shared),
    }
}

/// A network as it is shown.
pub fn network_view(network: Network, members: usize, store_age_seconds: Option<u64>) -> NetworkView {
    NetworkView {
        id: network.id,
        name: network.name,
        vni: network.vni.get(),
        subnet: network.subnet,
        mtu: network.mtu,
        created_unix_seconds: network.created_unix_seconds,
        addresses_used: members as u64,
        addresses_max: ipam::capacity(network.subnet).into(),
        names: network.names,
        store_age_seconds,
    }
}
