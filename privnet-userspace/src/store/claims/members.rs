//! Claiming, changing and releasing members.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::error::MemberError;
use super::{MAX_ATTEMPTS, unchanged};
use crate::ipam;
use crate::model::ids::ContainerNumber;
use crate::model::{AppId, ContainerRef, ContainerType, HostName, Member, MemberState, Network, NetworkId, PublicKey};
use crate::store::contract::{Entry, Expected, Listing, Store, Transaction};
use crate::store::error::CommitError;
use crate::store::keys;
use crate::store::path::Key;
use crate::store::records::{self, AddressRecord, RecordError};

/// What a new member is, and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberClaim {
    /// The network to become a member of.
    pub network: NetworkId,
    /// The container's app.
    pub app: AppId,
    /// The container's type.
    pub kind: ContainerType,
    /// The container's number; the lowest free one when none is asked for.
    pub number: Option<ContainerNumber>,
    /// The address; a free one when none is asked for.
    pub address: Option<Ipv4Addr>,
    /// The host that it lives on.
    pub host: HostName,
    /// Its WireGuard public key.
    pub public_key: PublicKey,
    /// The UDP port of its WireGuard socket.
    pub wireguard_port: u16,
}

/// Makes a container a member, in the state [`MemberState::Attaching`]: claims its number and its address, both or none.
///
/// An address that nobody ever had is preferred, the lowest first; then the one that has been free for longest.
///
/// # Errors
/// [`MemberError::NetworkNotFound`], [`MemberError::MemberExists`], [`MemberError::AddressTaken`],
/// [`MemberError::AddressOutsideSubnet`], [`MemberError::AddressReserved`], [`MemberError::PoolExhausted`],
/// [`MemberError::NumbersExhausted`], [`MemberError::PublicKeyInUse`], or the store's.
pub async fn claim_member(store: &dyn Store, claim: &MemberClaim) -> Result<Member, MemberError> {
    for _ in 0..MAX_ATTEMPTS {
        let network = records::get_network(store, claim.network).await?;
        let network = network.ok_or(MemberError::NetworkNotFound { id: claim.network })?.record;
        let members = store.list(&keys::members(network.id)).await?;
        let container = free_container(claim, &members)?;
        refuse_known_key(claim, &members)?;
        let (address, before) = match claim.address {
            Some(address) => asked_address(store, &network, address).await?,
            None => free_address(store, &network).await?,
        };
        let last = before.as_ref().map(address_record).transpose()?;
        let member = Member {
            network: network.id,
            container,
            address,
            generation: ipam::next_generation(last.map(|record| record.generation)),
            public_key: claim.public_key,
            wireguard_port: claim.wireguard_port,
            host: claim.host.clone(),
            state: MemberState::Attaching,
        };
        match store.commit(arrival(&member, before.as_ref())).await {
            Ok(revision) => {
                tracing::debug!(network = %network.id, container = %member.container, %address, %revision, "member claimed");
                return Ok(member);
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(MemberError::Contended)
}

/// Says how far the host has come with `member`, and returns the member as it is now.
///
/// # Errors
/// As [`update_member`].
pub async fn set_member_state(store: &dyn Store, member: &Member, state: MemberState) -> Result<Member, MemberError> {
    update_member(store, &Member { state, ..member.clone() }).await
}

/// Replaces the public key, WireGuard port, host and state of a member, and returns it.
///
/// # Errors
/// [`MemberError::MemberNotFound`] when it has left; [`MemberError::MemberChanged`] when it has left and another, with
/// another address or generation, has taken its name; or the store's.
pub async fn update_member(store: &dyn Store, member: &Member) -> Result<Member, MemberError> {
    let key = keys::member(member.network, &member.container);
    for _ in 0..MAX_ATTEMPTS {
        let Some(stored) = records::get_member(store, member.network, &member.container).await? else {
            return Err(not_found(member.network, &member.container));
        };
        if (stored.record.address, stored.record.generation) != (member.address, member.generation) {
            return Err(MemberError::MemberChanged(Box::new(stored.record)));
        }
        if stored.record == *member {
            return Ok(stored.record);
        }
        let update = Transaction::new()
            .require(key.clone(), Expected::Revision(stored.revision))
            .put(key.clone(), records::encode(member));
        match store.commit(update).await {
            Ok(_) => return Ok(member.clone()),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(MemberError::Contended)
}

/// Ends a membership and frees its address, and returns what it was; nothing when there was none.
///
/// The address record stays: the next holder gets the next generation, and gets it the later, the later it was freed.
///
/// # Errors
/// The store's, or that of a damaged record.
pub async fn release_member(
    store: &dyn Store,
    network: NetworkId,
    container: &ContainerRef,
    now_unix_seconds: u64,
) -> Result<Option<Member>, MemberError> {
    for _ in 0..MAX_ATTEMPTS {
        let Some(stored) = records::get_member(store, network, container).await? else { return Ok(None) };
        let member = stored.record;
        let address = store.get(&keys::address(network, member.address)).await?;
        let mut departure = Transaction::new()
            .require(keys::member(network, container), Expected::Revision(stored.revision))
            .require(keys::address(network, member.address), unchanged(address.as_ref()))
            .delete(keys::member(network, container));
        if holds_its_address(&member, address.as_ref())? {
            let freed = AddressRecord {
                holder: None,
                generation: member.generation,
                released_unix_seconds: Some(now_unix_seconds),
            };
            departure = departure.put(keys::address(network, member.address), records::encode(&freed));
        }
        match store.commit(departure).await {
            Ok(revision) => {
                tracing::debug!(%network, %container, address = %member.address, %revision, "member released");
                return Ok(Some(member));
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(MemberError::Contended)
}

fn arrival(member: &Member, address: Option<&Entry>) -> Transaction {
    let held = AddressRecord {
        holder: Some(member.container.clone()),
        generation: member.generation,
        released_unix_seconds: None,
    };
    let (network, container) = (member.network, &member.container);
    Transaction::new()
        .require(keys::network(network), Expected::Exists)
        .require(keys::member(network, container), Expected::Absent)
        .require(keys::address(network, member.address), unchanged(address))
        .put(keys::member(network, container), records::encode(member))
        .put(keys::address(network, member.address), records::encode(&held))
        .put(keys::members_fence(network), [])
}

/// The container with the number that was asked for, or the lowest free one.
fn free_container(claim: &MemberClaim, members: &Listing) -> Result<ContainerRef, MemberError> {
    let of = |number| ContainerRef { app: claim.app, kind: claim.kind.clone(), number };
    let Some(number) = claim.number else {
        let mut taken = BTreeSet::new();
        for entry in &members.entries {
            let container = container_in(&entry.key, claim.network)?;
            if (container.app, &container.kind) == (claim.app, &claim.kind) {
                taken.insert(container.number.get());
            }
        }
        let free = (ContainerNumber::FIRST.get()..).find(|number| !taken.contains(number));
        let number = free.and_then(|number| ContainerNumber::try_from(number).ok());
        return number
            .map(of)
            .ok_or_else(|| MemberError::NumbersExhausted { app: claim.app, kind: claim.kind.clone() });
    };
    let container = of(number);
    let key = keys::member(claim.network, &container);
    match members.entries.iter().find(|entry| entry.key == key) {
        Some(entry) => Err(MemberError::MemberExists(Box::new(records::member_from(entry)?))),
        None => Ok(container),
    }
}

/// Refuses a public key that another member has: with it, one could read what is meant for the other.
fn refuse_known_key(claim: &MemberClaim, members: &Listing) -> Result<(), MemberError> {
    let text = claim.public_key.to_string();
    for entry in &members.entries {
        // Only a record that has the key's text somewhere is worth reading: 500 of them take half a millisecond.
        if entry.value.windows(text.len()).any(|window| window == text.as_bytes()) {
            let member = records::member_from(entry)?;
            if member.public_key == claim.public_key {
                return Err(MemberError::PublicKeyInUse { holder: member.container });
            }
        }
    }
    Ok(())
}

/// An address that was asked for, and its record as it is.
async fn asked_address(
    store: &dyn Store,
    network: &Network,
    address: Ipv4Addr,
) -> Result<(Ipv4Addr, Option<Entry>), MemberError> {
    ipam::check_address(network.subnet, address)?;
    let entry = store.get(&keys::address(network.id, address)).await?;
    match entry.as_ref().map(address_record).transpose()?.and_then(|record| record.holder) {
        Some(holder) => Err(MemberError::AddressTaken { address, holder }),
        None => Ok((address, entry)),
    }
}

/// A free address, and its record as it is.
async fn free_address(store: &dyn Store, network: &Network) -> Result<(Ipv4Addr, Option<Entry>), MemberError> {
    let mut listing = store.list(&keys::addresses(network.id)).await?;
    let mut known = BTreeSet::new();
    for entry in &listing.entries {
        known.insert(address_in(&entry.key, network.id)?);
    }
    // The records themselves matter only once every address has been given out.
    if let Some(address) = ipam::never_used(network.subnet, &known) {
        return Ok((address, None));
    }
    let mut released = Vec::new();
    for entry in &listing.entries {
        let record = address_record(entry)?;
        if record.holder.is_none() {
            released.push((address_in(&entry.key, network.id)?, record.released_unix_seconds.unwrap_or_default()));
        }
    }
    let used = listing.entries.len() - released.len();
    let Some(address) = ipam::longest_released(network.subnet, released) else {
        let size = ipam::capacity(network.subnet) as usize;
        return Err(MemberError::PoolExhausted { subnet: network.subnet, used, size });
    };
    let key = keys::address(network.id, address);
    listing.entries.retain(|entry| entry.key == key);
    Ok((address, listing.entries.pop()))
}

/// Whether the record of a member's address says so too. If it does not, it is another's and is left alone.
fn holds_its_address(member: &Member, address: Option<&Entry>) -> Result<bool, RecordError> {
    let record = address.map(address_record).transpose()?;
    Ok(record.is_some_and(|record| record.holder.as_ref() == Some(&member.container)))
}

fn address_record(entry: &Entry) -> Result<AddressRecord, RecordError> {
    records::decode(&entry.key, &entry.value)
}

fn container_in(key: &Key, network: NetworkId) -> Result<ContainerRef, RecordError> {
    let text = key.below(&keys::members(network)).unwrap_or_default();
    text.parse().map_err(|error| corrupt_key(key, &error))
}

fn address_in(key: &Key, network: NetworkId) -> Result<Ipv4Addr, RecordError> {
    let text = key.below(&keys::addresses(network)).unwrap_or_default();
    text.parse().map_err(|error| corrupt_key(key, &error))
}

fn corrupt_key(key: &Key, error: &dyn std::error::Error) -> RecordError {
    RecordError::Corrupt { key: key.clone(), detail: format!("its key ends wrong: {error}") }
}

fn not_found(network: NetworkId, container: &ContainerRef) -> MemberError {
    MemberError::MemberNotFound { network, container: container.clone() }
}
