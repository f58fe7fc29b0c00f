//! The claim of an attach: which membership it means, or a new one in store and journal; nothing is built.

use std::collections::BTreeMap;
use std::time::Instant;

use rand::RngCore as _;

use super::difference;
use super::error::{ControlError, ErrorCode};
use super::explain::explain;
use super::gone::wait_until_gone;
use super::numbers::{free_dead, name_wish, refuse_taken_number};
use super::overlap::check_own_interfaces;
use super::target::TargetNetns;
use super::wish::MemberWish;
use crate::agent::adoption;
use crate::agent::host::journal::{Record, text_of_entry};
use crate::agent::hosts;
use crate::agent::membership;
use crate::agent::shared::Shared;
use crate::ipam;
use crate::link::Links;
use crate::model::{ContainerRef, IfName, MemberId, NameOf, Network, NetworkId, PrivateKey};
use crate::store::claims::{self, End, MemberClaim, MemberError, NameClaim, Written};
use crate::topology::ownership;

/// How often an attach waits for an address that is still being taken down.
const MAX_ATTEMPTS: u32 = 3;

/// A membership under the name that was asked for.
pub struct Claimed {
    /// This host's record of it.
    pub record: Record,
    /// The name.
    pub name: ContainerRef,
    /// What the attach did to that end.
    pub made: Made,
}

/// What an attach made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Nothing: the membership has the name.
    Nothing,
    /// A further name of a membership.
    Name,
    /// The membership: its place is claimed, and nothing is built.
    Membership,
}

/// Why a place could not be claimed.
pub(super) enum ClaimFailure {
    /// This host is still taking down the address's earlier holder, or the namespace's earlier membership.
    StillLeaving(Box<Record>),
    /// The store has lost the network, which the hosts with members in it put back.
    NetworkLost(NetworkId),
    /// Everything else.
    Error(ControlError),
}

impl From<ClaimFailure> for ControlError {
    fn from(failure: ClaimFailure) -> Self {
        match failure {
            ClaimFailure::Error(error) => error,
            ClaimFailure::NetworkLost(network) => Self::new(
                ErrorCode::StoreUnavailable,
                format!("the store has lost network {network}, and does not have it back yet"),
                "try again in a moment; `privnet status` names what is lost",
            ),
            ClaimFailure::StillLeaving(earlier) => Self::new(
                ErrorCode::AddressTaken,
                format!(
                    "{} has left, and its objects, which hold address {}, are still being removed",
                    earlier.container, earlier.address
                ),
                "try again in a moment; `privnet status` shows what stands in the way",
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

/// Finds the membership of the namespace, or claims a place for it; waits for an earlier holder of the address to be taken
/// down. The same network, app and type in the same namespace is the membership that is there.
pub async fn claim_or_existing(
    shared: &Shared,
    network: &Network,
    wanted: &MemberWish,
    found: &TargetNetns,
) -> Result<Claimed, ControlError> {
    let mut attempts = 0;
    loop {
        adoption::refusal(shared).map_or(Ok(()), Err)?;
        if membership_of(shared, network.id, found).is_none() {
            shared.world(|world| hosts::refuse_drained(world, &shared.host.config.host))?;
        }
        if membership_of(shared, network.id, found).is_none() {
            shared.world.until_trusted().await;
        }
        let claims = shared.claims_of_request().await?;
        found.refuse_other(membership_of(shared, network.id, found).as_ref())?;
        free_dead(shared, network.id, wanted, found).await?;
        refuse_taken_number(shared, wanted, found)?;
        let claimed = match membership_of(shared, network.id, found) {
            Some(record) if !record.leaving => match join(shared, network, record, wanted, found).await {
                Err(ClaimFailure::StillLeaving(ended)) => Err(ClaimFailure::StillLeaving(ended)),
                joined => return joined.map_err(Into::into),
            },
            // What is in the container for the earlier one, its routes and its guard, would be taken from the next one.
            Some(record) => Err(ClaimFailure::StillLeaving(Box::new(record))),
            None => claim(shared, network, wanted, found).await,
        };
        match claimed {
            Ok(record) => {
                let name = record.container.clone();
                return Ok(Claimed { record, name, made: Made::Membership });
            }
            Err(ClaimFailure::StillLeaving(earlier)) if attempts < MAX_ATTEMPTS => {
                drop(claims);
                if wait_until_gone(shared, &earlier).await.is_err() {
                    return Err(ClaimFailure::StillLeaving(earlier).into());
                }
                attempts += 1;
            }
            // It has lost more, maybe, that this host has not seen.
            Err(ClaimFailure::NetworkLost(_)) if attempts == 0 => {
                shared.world.doubt_members(Instant::now());
                attempts += 1;
            }
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// The membership that a namespace has in a network, or, where it has none, one that is leaving.
pub(super) fn membership_of(shared: &Shared, network: NetworkId, found: &TargetNetns) -> Option<Record> {
    let journal = shared.journal();
    let is_of = |record: &&Record| record.network == network && record.netns == found.netns.id();
    journal.records().values().filter(is_of).min_by_key(|record| record.leaving).cloned()
}

/// Gives the attach the membership that its namespace has in the network, under a further name if need be.
async fn join(
    shared: &Shared,
    network: &Network,
    record: Record,
    wanted: &MemberWish,
    found: &TargetNetns,
) -> Result<Claimed, ClaimFailure> {
    let member = membership::stored(shared, &record).await.map_err(|error| explain(&error))?;
    let Some(member) = member else {
        // Its place was released, and this host could not write that down.
        drop(membership::leave(shared, &record).map_err(|error| explain(&error))?);
        return Err(ClaimFailure::StillLeaving(Box::new(record)));
    };
    difference::refuse_address(network, &member, wanted).map_err(ControlError::from)?;
    difference::refuse_attachment(network, &record, wanted).map_err(ControlError::from)?;
    let is_wanted = |name: &NameOf<'_>| name.container.app == wanted.app.id && name.container.kind == wanted.kind;
    let stands = member.each_name().find(is_wanted);
    let (written, made) = if let Some(stands) = &stands {
        difference::refuse_name(network, stands, wanted).map_err(ControlError::from)?;
        (Written::nothing(member.clone()), Made::Nothing)
    } else {
        let claim = NameClaim {
            network: network.id,
            member: member.id,
            known_as: member.container.clone(),
            name: name_wish(shared, network.id, wanted, found),
        };
        (claims::add_name(&*shared.store, &claim, &*shared.world).await?, Made::Name)
    };
    let name = stands.or_else(|| written.member.each_name().last()).map(|name| name.container.clone());
    let name = name.unwrap_or_else(|| record.container.clone());
    let noted = {
        let mut journal = shared.journal();
        let noted = journal.note_names(&written, Some(&found.path));
        // A path that leads there still is kept: the new one may be that of a process that ends soon.
        let is_dead = journal
            .records()
            .get(&record.id)
            .is_some_and(|record| record.each_name().any(|(known, path)| *known == name && !record.leads_there(path)));
        noted
            .and_then(|()| if is_dead { journal.note_path(record.id, &name, &found.path) } else { Ok(()) })
            .and_then(|()| journal.note_resolv_conf(record.id, wanted.resolv_conf.as_ref()))
    };
    if let Err(error) = noted {
        if made == Made::Name {
            membership::end_name_with_claims(shared, &record, &name).await.map_err(|undo| explain(&undo))?;
        }
        return Err(explain(&error).into());
    }
    let record = shared.journal().records().get(&record.id).cloned().unwrap_or(record);
    Ok(Claimed { record, name, made })
}

/// Claims the member in the store and records it.
async fn claim(
    shared: &Shared,
    network: &Network,
    wanted: &MemberWish,
    found: &TargetNetns,
) -> Result<Record, ClaimFailure> {
    // Of an address that is asked for, the earlier holder may be on its way out: it is waited for before the store is asked.
    if let Some(address) = wanted.address
        && let Some(earlier) = shared.journal().at(network.id, address).filter(|earlier| earlier.leaving)
    {
        return Err(ClaimFailure::StillLeaving(Box::new(earlier.clone())));
    }
    check_overlap(shared, network, found)?;
    check_own_interfaces(shared, network, &found.netns).await?;
    let interface = wanted.attachment.as_ref().and_then(|attachment| attachment.interface.clone());
    let index = free_index(shared, found, interface.as_ref()).await?;
    let netns_cookie = found.netns.cookie().await.map_err(ControlError::from)?;
    let key = new_key();
    let claim = MemberClaim {
        id: MemberId::random(&mut rand::rng()),
        network: network.id,
        name: name_wish(shared, network.id, wanted, found),
        address: wanted.address,
        host: shared.host.config.host.clone(),
        instance: Some(shared.host.facts.instance.id()),
        public_key: key.public_key(),
        wireguard_port: ownership::wireguard_port(index),
        now_unix_seconds: crate::agent::now_unix_seconds(),
    };
    let mut claimed = claims::claim_member(&*shared.store, &claim, &*shared.world).await;
    if let Err(MemberError::MemberExists(holder)) = &claimed {
        // An attach of this host that the store did not answer may have been carried out all the same.
        if holder.host == shared.host.config.host && shared.journal().at(holder.network, holder.address).is_none() {
            membership::settle(shared, std::slice::from_ref(&**holder)).await.map_err(|error| explain(&error))?;
        }
        claimed = claims::claim_member(&*shared.store, &claim, &*shared.world).await;
    }
    let is_believed = || shared.world(|world| world.networks().contains_key(&network.id));
    if matches!(claimed, Err(MemberError::NetworkNotFound { .. })) && is_believed() {
        return Err(ClaimFailure::NetworkLost(network.id));
    }
    let Written { member, records, .. } = claimed?;
    let record = Record {
        id: member.id,
        network: network.id,
        container: member.container.clone(),
        address: member.address,
        index,
        slot: None,
        binding: None,
        netns_path: found.path.clone(),
        names: Vec::new(),
        netns: found.netns.id(),
        netns_cookie: Some(netns_cookie),
        boot_id: shared.host.facts.boot_id.clone(),
        leaving: false,
        resolv_conf: wanted.resolv_conf.clone(),
        clock_steps: BTreeMap::new(),
        handover: found.handover.clone(),
        interface,
        attachment: wanted.attachment.as_ref().map(|attachment| attachment.name.clone()),
        stored: records.iter().map(text_of_entry).collect(),
        unknown: BTreeMap::new(),
    };
    match record_member(shared, record, &key) {
        Ok(record) => Ok(record),
        Err(error) => {
            let end = End::by_its_host(crate::agent::now_unix_seconds());
            claims::release_member(&*shared.store, &member, end, &*shared.world).await?;
            Err(error)
        }
    }
}

/// Records the member, unless its address is still being torn down.
pub(super) fn record_member(shared: &Shared, record: Record, key: &PrivateKey) -> Result<Record, ClaimFailure> {
    let mut journal = shared.journal();
    if let Some(other) = journal.at(record.network, record.address) {
        return Err(ClaimFailure::StillLeaving(Box::new(other.clone())));
    }
    let binding = Some(binding_of(journal.records().values(), &record));
    journal.add(Record { binding, ..record }, key).map_err(|error| ClaimFailure::Error(explain(&error)))
}

/// The digits in the name of the binding netns of a new record's container: what the other memberships of its namespace have,
/// else those of its name. A name may have been another container's whose binding netns is there still: then those of its
/// membership.
fn binding_of<'a>(mut records: impl Iterator<Item = &'a Record> + Clone, new: &Record) -> u64 {
    if let Some(other) = records.clone().find(|record| record.netns == new.netns) {
        return other.binding();
    }
    let digits = ownership::binding_digest(&new.container);
    if records.any(|record| record.binding() == digits) { new.id.get() } else { digits }
}

pub(super) fn check_overlap(shared: &Shared, network: &Network, found: &TargetNetns) -> Result<(), ControlError> {
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

/// The lowest n for which neither a record of ours nor an interface of the container bears `wg<n>`. The name that is wanted
/// for the interface must be as free.
pub(super) async fn free_index(
    shared: &Shared,
    found: &TargetNetns,
    wanted: Option<&IfName>,
) -> Result<u8, ControlError> {
    let links = Links::open(&found.netns).await?;
    let names = links.links().await?;
    let journal = shared.journal();
    let here = journal.records().values().filter(|record| record.netns == found.netns.id());
    let (taken, own): (Vec<u8>, Vec<IfName>) = here.map(|record| (record.index, record.interface())).unzip();
    let is_taken = |name: &IfName| own.contains(name) || names.iter().any(|link| link.name == name.as_str());
    if let Some(wanted) = wanted.filter(|wanted| is_taken(wanted)) {
        return Err(ControlError::new(
            ErrorCode::InvalidArgument,
            format!("the container has an interface {wanted} already"),
            "give the interface another name",
        ));
    }
    let is_free = |index: &u8| {
        let name = ownership::wireguard_interface(*index);
        !taken.contains(index) && !is_taken(&name)
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
