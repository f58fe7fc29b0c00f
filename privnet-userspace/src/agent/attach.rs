//! One attach from end to end: check, claim, record, wait for the worker; undo when it fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngCore as _;

use super::error::{ControlError, ErrorCode};
use super::explain::explain;
use super::housekeeping::{end_membership, is_alive};
use super::journal::Record;
use super::names;
use super::shared::Shared;
use super::target::{Found, find};
use super::views::{Attach, Attached};
use super::world::Concerns;
use crate::ipam;
use crate::link::Links;
use crate::model::ids::ContainerNumber;
use crate::model::{AppId, ContainerRef, ContainerType, Member, MemberId, Network, NetworkId, Port, PrivateKey};
use crate::store::claims::{self, End, MemberClaim, MemberError};
use crate::topology::ownership;

/// How long an attach waits for its member to be ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often an attach waits for an address that is still being taken down.
const MAX_ATTEMPTS: u32 = 3;

/// Makes a container a member; returns when it can send.
///
/// # Errors
/// Nothing of the member is left, or is being removed.
pub(super) async fn attach(shared: &Shared, network: &Network, request: Attach) -> Result<Attached, ControlError> {
    let app: AppId = request.app.parse()?;
    let kind = request.kind.as_deref().map_or_else(|| Ok(ContainerType::web()), str::parse)?;
    let number = request.number.map(ContainerNumber::try_from).transpose()?;
    if shared.facts.mtu.wireguard < network.mtu {
        return Err(ControlError::new(
            ErrorCode::MtuTooSmall,
            format!(
                "network {} has MTU {}, and the underlay of this host, {}, leaves only {}",
                network.name, network.mtu, shared.facts.mtu.underlay, shared.facts.mtu.wireguard
            ),
            "raise the underlay's MTU, or create the network on the host with the smallest one",
        ));
    }
    let found = find(shared, &request.target)?;
    let ports = request.ports.iter().map(|port| port.parse()).collect::<Result<BTreeSet<Port>, _>>()?;
    let wanted = MemberWish { app, kind, number, address: request.address, ports };
    let record = match claim_or_find(shared, network, &wanted, &found).await? {
        Place::Standing(record) => {
            wait_until_ready(shared, &record, 0).await?;
            names::wait_until_told(shared, &record).await;
            return attached(shared, network.id, &record);
        }
        Place::Claimed(record) => record,
    };
    drop(found);
    // Its sockets are opened while its interfaces are made.
    shared.names.ring(&Concerns::Networks(BTreeSet::from([network.id])));
    let bell = shared.bell(network.id);
    // What an earlier pass said of this address, it said of an earlier holder.
    let earlier = bell.reports().borrow().pass;
    bell.ring();
    match wait_until_ready(shared, &record, earlier + 1).await {
        Ok(()) => {
            names::wait_until_told(shared, &record).await;
            attached(shared, network.id, &record)
        }
        Err(error) => {
            end_membership(shared, &record).await.map_err(|undo| explain(&undo))?;
            // Why it could not be attached says more than what is still in the way of its end.
            let _ = wait_until_gone(shared, &record).await;
            Err(error)
        }
    }
}

/// Waits until nothing of a member that left remains on this host.
///
/// # Errors
/// [`ErrorCode::Timeout`] when patience ended before, with what is in the way. The agent goes on trying.
pub(super) async fn wait_until_gone(shared: &Shared, record: &Record) -> Result<(), ControlError> {
    let mut reports = shared.bell(record.network).reports();
    let gone = async {
        while shared.journal().records().contains_key(&(record.network, record.address)) {
            if reports.changed().await.is_err() {
                break;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, gone).await.is_ok() {
        return Ok(());
    }
    let problems = shared.bell(record.network).reports().borrow().problems.join("; ");
    let why = if problems.is_empty() { "it takes long".to_owned() } else { problems };
    Err(ControlError::new(
        ErrorCode::Timeout,
        format!(
            "{} is no member any more, but after {} s not everything of it is removed from this host: {why}",
            record.container,
            PATIENCE.as_secs()
        ),
        "the agent goes on trying: `privnet status` says what is in the way; ending the container removes it",
    ))
}

/// The full domain name of a container in a network.
pub(super) fn hostname(network: NetworkId, container: &ContainerRef) -> String {
    crate::names::of_member(network, container).to_string().trim_end_matches('.').to_owned()
}

/// Where a member is.
enum Place {
    /// It was attached before.
    Standing(Record),
    /// Its place is claimed, and nothing is built.
    Claimed(Record),
}

/// Why a place could not be claimed.
enum Obstacle {
    /// This host is still taking down the address's earlier holder.
    StillLeaving(Box<Record>),
    /// Everything else.
    Error(ControlError),
}

impl From<Obstacle> for ControlError {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::Error(error) => error,
            Obstacle::StillLeaving(earlier) => Self::new(
                ErrorCode::AddressTaken,
                format!("address {} is still being taken down for {}", earlier.address, earlier.container),
                "try again in a moment, or choose another address",
            ),
        }
    }
}

impl From<ControlError> for Obstacle {
    fn from(error: ControlError) -> Self {
        Self::Error(error)
    }
}

impl From<MemberError> for Obstacle {
    fn from(error: MemberError) -> Self {
        Self::Error(error.into())
    }
}

struct MemberWish {
    app: AppId,
    kind: ContainerType,
    number: Option<ContainerNumber>,
    address: Option<std::net::Ipv4Addr>,
    ports: BTreeSet<Port>,
}

/// The record of the member when the same container stands attached in the same namespace: attaching again is no error.
///
/// A member whose namespace has died makes room.
async fn standing(
    shared: &Shared,
    network: NetworkId,
    wanted: &MemberWish,
    found: &Found,
) -> Result<Option<Record>, ControlError> {
    let records: Vec<Record> = shared.journal().records().values().filter(|record| !record.leaving).cloned().collect();
    let Some(number) = wanted.number else { return Ok(None) };
    let container = ContainerRef { app: wanted.app, kind: wanted.kind.clone(), number };
    for record in records.iter().filter(|record| record.container == container) {
        let alive = is_alive(record, &shared.facts.boot_id);
        if alive && record.netns != found.netns.id() {
            return Err(ControlError::new(
                ErrorCode::MemberExists,
                format!(
                    "container {container} is attached to {} in another namespace, {}",
                    record.network,
                    record.netns_path.display()
                ),
                "choose another number, or detach that container first",
            ));
        }
        let same_address = wanted.address.is_none_or(|address| address == record.address);
        if alive && record.network == network && same_address {
            return Ok(Some(record.clone()));
        }
        if !alive {
            // Its housekeeping would come within a second; the lock is ours, so it is done here.
            claims::release_member(
                &*shared.store,
                record.network,
                &record.container,
                End::by_its_host(super::now_unix_seconds()),
            )
            .await?;
            shared.journal().mark_leaving((record.network, record.address)).map_err(|error| explain(&error))?;
            shared.bell(record.network).ring();
        }
    }
    Ok(None)
}

/// Finds the member where it stands, or claims its place; waits for an earlier holder of the address to be taken down.
async fn claim_or_find(
    shared: &Shared,
    network: &Network,
    wanted: &MemberWish,
    found: &Found,
) -> Result<Place, ControlError> {
    let mut attempts = 0;
    loop {
        let claims = shared.claims.lock().await;
        if let Some(record) = standing(shared, network.id, wanted, found).await? {
            return Ok(Place::Standing(record));
        }
        match claim(shared, network, wanted, found).await {
            Ok(record) => return Ok(Place::Claimed(record)),
            Err(Obstacle::StillLeaving(earlier)) if attempts < MAX_ATTEMPTS => {
                drop(claims);
                if wait_until_gone(shared, &earlier).await.is_err() {
                    return Err(Obstacle::StillLeaving(earlier).into());
                }
                attempts += 1;
            }
            Err(obstacle) => return Err(obstacle.into()),
        }
    }
}

/// Claims the member in the store and records it.
async fn claim(shared: &Shared, network: &Network, wanted: &MemberWish, found: &Found) -> Result<Record, Obstacle> {
    check_overlap(shared, network, found)?;
    let index = free_index(shared, found).await?;
    let netns_cookie = found.netns.cookie().await.map_err(|error| explain(&error.into()))?;
    let key = new_key();
    let claim = MemberClaim {
        id: MemberId::random(&mut rand::rng()),
        network: network.id,
        app: wanted.app,
        app_name: None,
        kind: wanted.kind.clone(),
        number: wanted.number,
        address: wanted.address,
        host: shared.config.host.clone(),
        public_key: key.public_key(),
        wireguard_port: ownership::wireguard_port(index),
        ports: wanted.ports.clone(),
        now_unix_seconds: super::now_unix_seconds(),
    };
    let member = claims::claim_member(&*shared.store, &claim).await?;
    let record = Record {
        netns_cookie: Some(netns_cookie),
        ..Record::new(
            network.id,
            member.container.clone(),
            member.address,
            index,
            found.path.clone(),
            found.netns.id(),
            shared.facts.boot_id.clone(),
        )
    };
    if let Err(error) = record_member(shared, &member, &record, &key) {
        claims::release_member(
            &*shared.store,
            network.id,
            &member.container,
            End::by_its_host(super::now_unix_seconds()),
        )
        .await?;
        return Err(error);
    }
    Ok(record)
}

/// Records the member, unless its container is known in another namespace, or its address is still being torn down.
fn record_member(shared: &Shared, member: &Member, record: &Record, key: &PrivateKey) -> Result<(), Obstacle> {
    let mut journal = shared.journal();
    let elsewhere = journal
        .records()
        .values()
        .find(|other| !other.leaving && other.container == member.container && other.netns != record.netns);
    if let Some(other) = elsewhere {
        return Err(Obstacle::Error(ControlError::new(
            ErrorCode::MemberExists,
            format!("container {} is attached to {} in another namespace", member.container, other.network),
            "choose another number: a container has one namespace, in all its networks",
        )));
    }
    if let Some(other) = journal.records().get(&(record.network, record.address)) {
        return Err(Obstacle::StillLeaving(Box::new(other.clone())));
    }
    journal.add(record.clone(), key).map_err(|error| Obstacle::Error(explain(&error)))
}

fn check_overlap(shared: &Shared, network: &Network, found: &Found) -> Result<(), ControlError> {
    let others: Vec<NetworkId> = {
        let journal = shared.journal();
        let here = |record: &&Record| record.netns == found.netns.id() && record.network != network.id;
        journal.records().values().filter(here).map(|record| record.network).collect()
    };
    for other in others {
        let Some(other) = shared.world(|world| world.networks().get(&other).cloned()) else { continue };
        if ipam::overlaps(other.subnet, network.subnet) {
            return Err(ControlError::new(
                ErrorCode::SubnetOverlap,
                format!(
                    "the container is in network {} ({}), whose subnet {} overlaps {} of {}",
                    other.name, other.id, other.subnet, network.subnet, network.name
                ),
                "use a network with another subnet, or detach the container from the first one",
            ));
        }
    }
    Ok(())
}

/// The lowest n for which neither a record of ours nor an interface of the container bears `wg<n>`.
async fn free_index(shared: &Shared, found: &Found) -> Result<u8, ControlError> {
    let links = Links::open(&found.netns).await.map_err(|error| explain(&error.into()))?;
    let names = links.links().await.map_err(|error| explain(&error.into()))?;
    let journal = shared.journal();
    let taken: Vec<u8> = journal
        .records()
        .values()
        .filter(|record| record.netns == found.netns.id())
        .map(|record| record.index)
        .collect();
    let is_free = |index: &u8| {
        let name = ownership::wireguard_interface(*index);
        !taken.contains(index) && names.iter().all(|link| link.name != name.as_str())
    };
    (0..ownership::MAX_NETWORKS_PER_CONTAINER).find(is_free).ok_or_else(|| {
        ControlError::new(
            ErrorCode::InvalidArgument,
            format!("the container has {} WireGuard interfaces already", ownership::MAX_NETWORKS_PER_CONTAINER),
            "detach it from a network first",
        )
    })
}

/// Waits for what a pass, of this number or a later one, says of the member.
async fn wait_until_ready(shared: &Shared, record: &Record, pass: u64) -> Result<(), ControlError> {
    let mut reports = shared.bell(record.network).reports();
    let outcome = reports.wait_for(|report| {
        let told = report.ready.contains(&record.address) || report.failed.contains_key(&record.address);
        report.pass >= pass && told
    });
    match tokio::time::timeout(PATIENCE, outcome).await {
        Ok(Ok(report)) => report.failed.get(&record.address).cloned().map_or(Ok(()), Err),
        Ok(Err(_)) => Err(ControlError::new(ErrorCode::Internal, "the agent is stopping", "try again once it runs")),
        Err(_) => Err(ControlError::new(
            ErrorCode::Timeout,
            format!("{} was not ready within {} s", record.container, PATIENCE.as_secs()),
            "see `privnet status` for what stands in the way, and try again",
        )),
    }
}

fn attached(shared: &Shared, network: NetworkId, record: &Record) -> Result<Attached, ControlError> {
    let ContainerRef { app, kind, number } = record.container.clone();
    let hostname = hostname(network, &record.container);
    let env = BTreeMap::from([
        ("PRIVNET_NETWORK_ID".to_owned(), network.to_string()),
        ("PRIVNET_APPLICATION_ID".to_owned(), app.to_string()),
        ("PRIVNET_HOSTNAME".to_owned(), hostname.clone()),
        ("PRIVNET_ADDRESS".to_owned(), record.address.to_string()),
    ]);
    let interface = ownership::wireguard_interface(record.index);
    let ready = shared.bell(network).reports().borrow().ready.contains(&record.address);
    let resolv_conf = names::resolv_conf(shared, network);
    Ok(Attached { network, app, kind, number, address: record.address, hostname, interface, ready, env, resolv_conf })
}

fn new_key() -> PrivateKey {
    let mut bytes = [0; crate::model::keys::KEY_LENGTH_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    PrivateKey::from_random(bytes)
}

impl From<MemberError> for ControlError {
    fn from(error: MemberError) -> Self {
        let code = match &error {
            MemberError::NetworkNotFound { .. } => ErrorCode::NetworkNotFound,
            MemberError::MemberExists(_) => ErrorCode::MemberExists,
            MemberError::MemberNotFound { .. } | MemberError::MemberChanged(_) => ErrorCode::MemberNotFound,
            MemberError::AddressTaken { .. } => ErrorCode::AddressTaken,
            MemberError::AddressOutsideSubnet(_) | MemberError::AddressReserved(_) => ErrorCode::AddressInvalid,
            MemberError::PoolExhausted { .. } => ErrorCode::PoolExhausted,
            MemberError::NumbersExhausted { .. } => ErrorCode::InvalidArgument,
            MemberError::PublicKeyInUse { .. } => ErrorCode::Internal,
            MemberError::Contended | MemberError::Record(_) | MemberError::Commit(_) => ErrorCode::StoreUnavailable,
        };
        super::explain::split_remedy(code, &error.to_string())
    }
}
