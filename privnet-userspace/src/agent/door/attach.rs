//! One attach from end to end: check, claim, record, wait for the worker; undo when it fails.
//!
//! A namespace has one membership in a network. The same app and type is the membership that is there, and another one is a
//! further name of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::claim::{Claimed, Made, claim_or_existing};
use super::error::{ControlError, ErrorCode};
use super::explain::explain;
use super::gone::wait_for_one_try;
use super::problems::of_member;
use super::target::{TargetNetns, find};
use super::views::{Attach, Attached, MemberRef, ResolvConfFile};
use super::wish::MemberWish;
use super::without_store;
use crate::agent::host::journal::{Record, Stage};
use crate::agent::membership;
use crate::agent::names;
use crate::agent::shared::{Shared, UNTIL_SEEN};
use crate::agent::world::{Concerns, World};
use crate::model::ids::ContainerNumber;
use crate::model::{App, AppName, ContainerRef, ContainerType, MemberState, Network, NetworkId, Port};

/// How long an attach waits for its member to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes a container a member; returns when it can send.
///
/// # Errors
/// Nothing of the member is left, or is being removed.
pub(in crate::agent) async fn attach(
    shared: &Shared,
    network: &Network,
    request: Attach,
) -> Result<Attached, ControlError> {
    attach_at(shared, network, request, None).await
}

/// As [`attach`]; with `found`, for that namespace, which was looked at.
///
/// # Errors
/// As [`attach`].
pub(in crate::agent) async fn attach_at(
    shared: &Shared,
    network: &Network,
    request: Attach,
    found: Option<TargetNetns>,
) -> Result<Attached, ControlError> {
    let app: App = request.app.parse()?;
    let kind = request.kind.as_deref().map_or_else(|| Ok(ContainerType::web()), str::parse)?;
    let number = request.number.map(ContainerNumber::try_from).transpose()?;
    if shared.host.facts.mtu.wireguard < network.mtu {
        return Err(ControlError::new(
            ErrorCode::MtuTooSmall,
            format!(
                "network {} has MTU {}, and the underlay of this host, {}, leaves only {}",
                network.name, network.mtu, shared.host.facts.mtu.underlay, shared.host.facts.mtu.wireguard
            ),
            "raise the underlay's MTU, or create the network on the host with the smallest one",
        ));
    }
    let found = match found {
        Some(found) => found,
        None => find(shared, &request.target)?,
    };
    let ports = request.ports.iter().map(|port| port.parse()).collect::<Result<BTreeSet<Port>, _>>()?;
    let Attach { address, resolv_conf, attachment, .. } = request;
    let wanted = MemberWish { app, kind, number, address, ports, resolv_conf, attachment };
    let claimed = match claim_in_time(shared, network, &wanted, &found).await {
        Err(away) if away.code == ErrorCode::StoreUnavailable => {
            without_store::claim(shared, network, &wanted, &found).await?.ok_or(away)?
        }
        claimed => claimed?,
    };
    drop(found);
    let Claimed { record, name, made } = &claimed;
    // Its sockets are opened while its interfaces are made.
    shared.names.wake(&Concerns::Networks(BTreeSet::from([network.id])));
    let handle = shared.workers.of(network.id);
    let first_pass = if *made == Made::Membership {
        // What an earlier pass said of this address, it said of an earlier holder.
        let earlier = handle.reports().borrow().pass;
        handle.wake();
        earlier + 1
    } else {
        0
    };
    if let Err(error) = wait_until_ready(shared, record, first_pass).await {
        match made {
            Made::Nothing => {}
            Made::Name => {
                membership::end_name(shared, record, name).await.map_err(|undo| explain(&undo))?;
            }
            Made::Membership => {
                drop(membership::end_here(shared, record).await.map_err(|undo| explain(&undo))?);
                // Why it could not be attached says more than what is still in the way of its end, and is often the same.
                wait_for_one_try(shared, record).await;
            }
        }
        return Err(error);
    }
    attached(shared, claimed, wanted.app.name, wanted.resolv_conf.as_ref()).await
}

/// Claims a place, for which another program waits or not.
async fn claim_in_time(
    shared: &Shared,
    network: &Network,
    wanted: &MemberWish,
    found: &TargetNetns,
) -> Result<Claimed, ControlError> {
    if found.handover.is_some() && found.may_come_back {
        // The store was asked a moment ago.
        return Err(ControlError::new(
            ErrorCode::StoreUnavailable,
            "this host knows no place of such a container, and the store, which gives new ones, does not answer",
            "see `privnet status`, and try again once it answers",
        ));
    }
    let claiming = claim_or_existing(shared, network, wanted, found);
    if found.is_handed_over() { shared.contact.in_time(claiming).await? } else { claiming.await }
}

/// The full domain name of a container in a network.
pub(in crate::agent) fn hostname(network: NetworkId, container: &ContainerRef) -> String {
    crate::names::of_member(network, container).to_string().trim_end_matches('.').to_owned()
}

/// Waits for what a pass, of this number or a later one, says of the member.
async fn wait_until_ready(shared: &Shared, record: &Record, pass: u64) -> Result<(), ControlError> {
    let mut reports = shared.workers.of(record.network).reports();
    let outcome = reports.wait_for(|report| {
        let told = report.ready.contains(&record.id) || report.failed.contains_key(&record.id);
        report.pass >= pass && told
    });
    match tokio::time::timeout(PATIENCE, outcome).await {
        Ok(Ok(report)) => report.failed.get(&record.id).cloned().map_or(Ok(()), Err),
        Ok(Err(_)) => Err(ControlError::new(ErrorCode::Internal, "the agent is stopping", "try again once it runs")),
        Err(_) => Err(ControlError::new(
            ErrorCode::Timeout,
            format!("{} was not ready within {} s", record.names_text(), PATIENCE.as_secs()),
            "see the problems in `privnet status`, and try again",
        )),
    }
}

/// Waits until a read shows the member, and its container is told its name.
async fn wait_until_known(shared: &Shared, record: &Record, name: &ContainerRef) {
    let is_seen = |world: &World| {
        let known = world.membership(record.id).and_then(|member| Some(member.name(name)?.state));
        known.is_some_and(|state| state >= MemberState::Ready)
    };
    shared.world.wait_until(UNTIL_SEEN, is_seen).await;
    names::wait::wait_until_told(shared, record, name).await;
}

/// Lets the container have its names, and says what it has.
async fn attached(
    shared: &Shared,
    claimed: Claimed,
    app_name: Option<AppName>,
    file: Option<&ResolvConfFile>,
) -> Result<Attached, ControlError> {
    let Claimed { record, name, made } = claimed;
    // Nothing in a namespace of ours asks for names.
    let is_ours = record.handover.as_ref().is_some_and(|handover| handover.stage == Stage::Made);
    if !is_ours {
        tokio::select! {
            () = wait_until_known(shared, &record, &name) => {}
            // What the others are told waits for the store, and what was asked for is done.
            _ = shared.contact.away() => {}
        }
    }
    let mut problems = names::resolv_conf::after_attach(shared, &record, file).await;
    problems.extend(of_member(shared, &record));
    // Another attach or detach may have given it another oldest name meanwhile.
    let record = shared.journal().records().get(&record.id).cloned().unwrap_or(record);
    let network = record.network;
    let app_name = app_name.or_else(|| {
        let stored = |world: &World| world.membership(record.id)?.name(&name)?.app_name.cloned();
        shared.world(stored)
    });
    if made != Made::Nothing {
        tracing::info!(network = %record.network, "attached {name} ({})", record.address);
    }
    let ContainerRef { app, kind, number } = name;
    let hostname = hostname(network, &record.container);
    let env = BTreeMap::from([
        ("PRIVNET_NETWORK_ID".to_owned(), network.to_string()),
        ("PRIVNET_APPLICATION_ID".to_owned(), app.to_string()),
        ("PRIVNET_HOSTNAME".to_owned(), hostname.clone()),
        ("PRIVNET_ADDRESS".to_owned(), record.address.to_string()),
    ]);
    let interface = record.interface();
    let ready = shared.workers.of(network).reports().borrow().ready.contains(&record.id);
    let resolv_conf = names::wait::resolv_conf(shared, record.netns);
    let member = MemberRef { app, app_name, kind, number, address: record.address, hostname };
    Ok(Attached { network, member, interface, ready, env, resolv_conf, problems })
}
