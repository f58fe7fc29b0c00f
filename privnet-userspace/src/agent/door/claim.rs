//! The claim of an attach: which membership it means, or a new one in store and journal; nothing is built.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngCore as _;

use super::error::{ControlError, ErrorCode};
use super::explain::explain;
use super::gone::wait_until_gone;
use super::overlap::check_own_interfaces;
use super::target::TargetNetns;
use crate::agent::host::journal::{Record, text_of_entry};
use crate::agent::shared::Shared;
use crate::ipam;
use crate::link::Links;
use crate::model::ids::ContainerNumber;
use crate::model::{App, ContainerRef, ContainerType, MemberId, Network, NetworkId, Port, PrivateKey};
use crate::store::claims::{self, End, MemberClaim, MemberError, Written};
use crate::topology::ownership;

/// How often an attach waits for an address that is still being taken down.
const MAX_ATTEMPTS: u32 = 3;

/// Where a member is.
pub enum Membership {
    /// It was attached before.
    Existing(Record),
    /// Its place is claimed, and nothing is built.
    New(Record),
}

/// Why a place could not be claimed.
enum ClaimFailure {
    /// This host is still taking down the address's earlier holder.
    StillLeaving(Box<Record>),
    /// Everything else.
    Error(ControlError),
}

impl From<ClaimFailure> for ControlError {
    fn from(failure: ClaimFailure) -> Self {
        match failure {
            ClaimFailure::Error(error) => error,
            ClaimFailure::StillLeaving(earlier) => Self::new(
                ErrorCode::AddressTaken,
                format!(
                    "address {} is still held by objects of {}, which are being removed",
                    earlier.address, earlier.container
                ),
                "try again in a moment, or choose another address",
            ),
        }
    }
}

impl From<ControlError> for ClaimFailure {
    fn from(error: ControlError) -> Self {
        Self::Error(error)
    }
}

impl From<MemberError> for ClaimFailure {
    fn from(error: MemberError) -> Self {
        Self::Error(error.into())
    }
}

/// What an attach asks for.
pub struct MemberWish {
    /// The app.
    pub app: App,
    /// The type of container.
    pub kind: ContainerType,
    /// Its number; the lowest free one when absent.
    pub number: Option<ContainerNumber>,
    /// Its address; one that has rested longest when absent.
    pub address: Option<std::net::Ipv4Addr>,
    /// The ports that it declares by name.
    pub ports: BTreeSet<Port>,
}

/// The record of the member when the same container stands attached in the same namespace: attaching again is no error.
///
/// A member whose namespace has died makes room.
async fn existing_membership(
    shared: &Shared,
    network: NetworkId,
    wanted: &MemberWish,
    found: &TargetNetns,
) -> Result<Option<Record>, ControlError> {
    let records: Vec<Record> = shared.journal().records().values().filter(|record| !record.leaving).cloned().collect();
    let Some(number) = wanted.number else { return Ok(None) };
    let container = ContainerRef { app: wanted.app.id, kind: wanted.kind.clone(), number };
    for record in records.iter().filter(|record| record.container == container) {
        let alive = record.is_alive(&shared.host.facts.boot_id);
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
                End::by_its_host(crate::agent::now_unix_seconds()),
            )
            .await?;
            shared.journal().mark_leaving(record.id).map_err(|error| explain(&error))?;
            shared.workers.of(record.network).wake();
        }
    }
    Ok(None)
}

/// Finds the member where it stands, or claims its place; waits for an earlier holder of the address to be taken down.
pub async fn claim_or_existing(
    shared: &Shared,
    network: &Network,
    wanted: &MemberWish,
    found: &TargetNetns,
) -> Result<Membership, ControlError> {
    let mut attempts = 0;
    loop {
        let claims = shared.claims.lock().await;
        if let Some(record) = existing_membership(shared, network.id, wanted, found).await? {
            return Ok(Membership::Existing(record));
        }
        match claim(shared, network, wanted, found).await {
            Ok(record) => return Ok(Membership::New(record)),
            Err(ClaimFailure::StillLeaving(earlier)) if attempts < MAX_ATTEMPTS => {
                drop(claims);
                if wait_until_gone(shared, &earlier).await.is_err() {
                    return Err(ClaimFailure::StillLeaving(earlier).into());
                }
                attempts += 1;
            }
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// Claims the member in the store and records it.
async fn claim(
    shared: &Shared,
    network: &Network,
    wanted: &MemberWish,
    found: &TargetNetns,
) -> Result<Record, ClaimFailure> {
    check_overlap(shared, network, found)?;
    check_own_interfaces(shared, network, found).await?;
    let index = free_index(shared, found).await?;
    let netns_cookie = found.netns.cookie().await.map_err(ControlError::from)?;
    let key = new_key();
    let claim = MemberClaim {
        id: MemberId::random(&mut rand::rng()),
        network: network.id,
        app: wanted.app.id,
        app_name: wanted.app.name.clone(),
        kind: wanted.kind.clone(),
        number: wanted.number,
        address: wanted.address,
        host: shared.host.config.host.clone(),
        public_key: key.public_key(),
        wireguard_port: ownership::wireguard_port(index),
        ports: wanted.ports.clone(),
        now_unix_seconds: crate::agent::now_unix_seconds(),
    };
    let Written { member, records } = claims::claim_member(&*shared.store, &claim, &*shared.world).await?;
    let container = member.container.clone();
    let record = Record {
        id: member.id,
        network: network.id,
        container: member.container,
        address: member.address,
        index,
        slot: None,
        netns_path: found.path.clone(),
        netns: found.netns.id(),
        netns_cookie: Some(netns_cookie),
        boot_id: shared.host.facts.boot_id.clone(),
        leaving: false,
        clock_steps: BTreeMap::new(),
        stored: records.iter().map(text_of_entry).collect(),
        unknown: BTreeMap::new(),
    };
    match record_member(shared, record, &key) {
        Ok(record) => Ok(record),
        Err(error) => {
            let end = End::by_its_host(crate::agent::now_unix_seconds());
            claims::release_member(&*shared.store, network.id, &container, end).await?;
            Err(error)
        }
    }
}

/// Records the member, unless its container is known in another namespace, or its address is still being torn down.
fn record_member(shared: &Shared, record: Record, key: &PrivateKey) -> Result<Record, ClaimFailure> {
    let mut journal = shared.journal();
    let elsewhere = journal
        .records()
        .values()
        .find(|other| !other.leaving && other.container == record.container && other.netns != record.netns);
    if let Some(other) = elsewhere {
        return Err(ClaimFailure::Error(ControlError::new(
            ErrorCode::MemberExists,
            format!("container {} is attached to {} in another namespace", record.container, other.network),
            "choose another number: a container has one namespace, in all its networks",
        )));
    }
    if let Some(other) = journal.at(record.network, record.address) {
        return Err(ClaimFailure::StillLeaving(Box::new(other.clone())));
    }
    journal.add(record, key).map_err(|error| ClaimFailure::Error(explain(&error)))
}

fn check_overlap(shared: &Shared, network: &Network, found: &TargetNetns) -> Result<(), ControlError> {
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
async fn free_index(shared: &Shared, found: &TargetNetns) -> Result<u8, ControlError> {
    let links = Links::open(&found.netns).await?;
    let names = links.links().await?;
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

fn new_key() -> PrivateKey {
    let mut bytes = [0; crate::model::keys::KEY_LENGTH_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    PrivateKey::from_random(bytes)
}
