//! The records as JSON, with a version, and the errors of reading them back.
//!
//! - `form`: the fields that every record carries, and how a record is read and written.
//! - `v1`: the records of version 1.
//! - `error`: the errors of reading.
//!
//! A record of a newer version, a damaged record and a record under the wrong key are errors that name the key, and the
//! agent does not act on them.

mod error;
mod form;
#[cfg(test)]
mod tests;
mod v1;

use std::net::Ipv4Addr;

pub use error::{RECORD_VERSION, RecordError};
pub use form::{Envelope, Record, decode, encode, version_of};
pub use v1::{
    AddressRecord, DrainRecord, EndedBy, FleetRecord, HostRecord, InstanceMark, MAX_RISE, MemberPointer, NetworkMark,
    NetworkPointer, PresenceRecord, VtepRecord,
};

use super::contract::{Entry, Store};
use super::keys;
use super::path::Key;
use super::transaction::Revision;
use crate::model::{ContainerRef, Member, Network, NetworkId, NetworkName};

/// A record as it was read, with its envelope and revision, which a change of it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// The record.
    pub record: T,
    /// Its envelope.
    pub envelope: Envelope,
    /// The transaction that put it last.
    pub revision: Revision,
}

/// An address record, with the network and the address that its key says.
pub type AddressRow = (NetworkId, Ipv4Addr, Stored<AddressRecord>);

/// The records below a prefix as of one revision of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records<T> {
    /// In the order of their keys.
    pub records: Vec<T>,
    /// The store's revision when they were read; watch from it.
    pub revision: Revision,
}

/// Reads a network; `None` when it does not exist.
///
/// # Errors
/// When the store or the record is at fault.
pub async fn get_network(store: &dyn Store, id: NetworkId) -> Result<Option<Stored<Network>>, RecordError> {
    store.get(&keys::network(id)).await?.map(|entry| Ok(stored(&entry, network_from(&entry)?))).transpose()
}

/// Reads the network that bears `name`; `None` when no network does.
///
/// # Errors
/// When the store or one of the two records is at fault.
pub async fn find_network(store: &dyn Store, name: &NetworkName) -> Result<Option<Stored<Network>>, RecordError> {
    match store.get(&keys::name(name)).await? {
        Some(entry) => get_network(store, decode::<NetworkPointer>(&entry.key, &entry.value)?.network).await,
        None => Ok(None),
    }
}

/// Reads every network.
///
/// # Errors
/// When the store or any record is at fault: a list is whole or it is an error.
pub async fn list_networks(store: &dyn Store) -> Result<Records<Network>, RecordError> {
    let listing = store.list(&keys::networks()).await?;
    let records = listing.entries.iter().map(network_from).collect::<Result<_, _>>()?;
    Ok(Records { records, revision: listing.revision })
}

/// Reads a member; `None` when it does not exist.
///
/// # Errors
/// When the store or the record is at fault.
pub async fn get_member(
    store: &dyn Store,
    network: NetworkId,
    container: &ContainerRef,
) -> Result<Option<Stored<Member>>, RecordError> {
    store
        .get(&keys::member(network, container))
        .await?
        .map(|entry| Ok(stored(&entry, member_from(&entry)?)))
        .transpose()
}

/// How often a membership is looked for whose oldest name changes meanwhile.
const FIND_ATTEMPTS: u32 = 3;

/// Reads the member that has a name, its oldest or a further one; nothing when none has it.
///
/// # Errors
/// When the store or one of the records is at fault.
pub async fn find_member(
    store: &dyn Store,
    network: NetworkId,
    name: &ContainerRef,
) -> Result<Option<Stored<Member>>, RecordError> {
    for _ in 0..FIND_ATTEMPTS {
        let mut found = get_member(store, network, name).await?;
        if found.is_none()
            && let Some(entry) = store.get(&keys::member_name(network, name)).await?
        {
            let MemberPointer { holder, .. } = decode(&entry.key, &entry.value)?;
            found = get_member(store, network, &holder).await?.filter(|found| found.record.name(name).is_some());
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Reads the member that holds an address; nothing when none does.
///
/// # Errors
/// When the store or one of the records is at fault.
pub async fn member_at(
    store: &dyn Store,
    network: NetworkId,
    address: Ipv4Addr,
) -> Result<Option<Stored<Member>>, RecordError> {
    for _ in 0..FIND_ATTEMPTS {
        let Some(entry) = store.get(&keys::address(network, address)).await? else { return Ok(None) };
        let Some(holder) = decode::<AddressRecord>(&entry.key, &entry.value)?.holder else { return Ok(None) };
        let found = get_member(store, network, &holder).await?.filter(|found| found.record.address == address);
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Reads the members of one network, or of all.
///
/// # Errors
/// When the store or any record is at fault: a list is whole or it is an error.
pub async fn list_members(store: &dyn Store, network: Option<NetworkId>) -> Result<Records<Member>, RecordError> {
    let listing = store.list(&network.map_or_else(keys::all_members, keys::members)).await?;
    let records = listing.entries.iter().map(member_from).collect::<Result<_, _>>()?;
    Ok(Records { records, revision: listing.revision })
}

/// Reads the record of `addresses/<pn>/<ipv4>`.
///
/// # Errors
/// When it is of a newer version or damaged, or its key names no address.
pub fn address_from(entry: &Entry) -> Result<AddressRow, RecordError> {
    let wrong = || RecordError::Corrupt {
        key: entry.key.clone(),
        detail: "the key does not end in a network and an address".to_owned(),
    };
    let (network, address) = keys::parse_address(&entry.key).ok_or_else(wrong)?;
    Ok((network, address, read(entry)?))
}

/// Reads the record of `hosts/<host>`.
///
/// # Errors
/// When it is of a newer version, damaged, or of another host than its key says.
pub fn host_from(entry: &Entry) -> Result<HostRecord, RecordError> {
    let host: HostRecord = decode(&entry.key, &entry.value)?;
    under_its_key(entry, &keys::host(&host.name))?;
    Ok(host)
}

/// Reads the record of `networks/<pn>`.
///
/// # Errors
/// When it is of a newer version, damaged, or of another network than its key says.
pub fn network_from(entry: &Entry) -> Result<Network, RecordError> {
    let network: Network = decode(&entry.key, &entry.value)?;
    under_its_key(entry, &keys::network(network.id))?;
    Ok(network)
}

/// Reads the record of `marks/networks/<pn>`.
///
/// # Errors
/// When it is of a newer version, damaged, or of another network than its key says.
pub fn network_mark_from(entry: &Entry) -> Result<NetworkMark, RecordError> {
    let mark: NetworkMark = decode(&entry.key, &entry.value)?;
    under_its_key(entry, &keys::network_mark(mark.network))?;
    Ok(mark)
}

/// Reads the record of `marks/instances/<instance>`.
///
/// # Errors
/// When it is of a newer version, damaged, or of another instance than its key says.
pub fn instance_mark_from(entry: &Entry) -> Result<InstanceMark, RecordError> {
    let mark: InstanceMark = decode(&entry.key, &entry.value)?;
    under_its_key(entry, &keys::instance_mark(mark.instance))?;
    Ok(mark)
}

/// Reads the record of `drains/<host>`.
///
/// # Errors
/// When it is of a newer version, damaged, or of another host than its key says.
pub fn drain_from(entry: &Entry) -> Result<DrainRecord, RecordError> {
    let drain: DrainRecord = decode(&entry.key, &entry.value)?;
    under_its_key(entry, &keys::drain(&drain.host))?;
    Ok(drain)
}

/// Reads the record of `members/<pn>/<member>`.
///
/// # Errors
/// When it is of a newer version, damaged, or of another member than its key says.
pub fn member_from(entry: &Entry) -> Result<Member, RecordError> {
    let member: Member = decode(&entry.key, &entry.value)?;
    under_its_key(entry, &keys::member(member.network, &member.container))?;
    Ok(member)
}

/// Reads a record of a kind that does not repeat its key.
///
/// # Errors
/// When it is of a newer version, or damaged.
pub fn read<T: Record>(entry: &Entry) -> Result<Stored<T>, RecordError> {
    Ok(stored(entry, decode(&entry.key, &entry.value)?))
}

fn stored<T: Record>(entry: &Entry, record: T) -> Stored<T> {
    Stored { envelope: Envelope::around(&entry.value, &record), record, revision: entry.revision }
}

fn under_its_key(entry: &Entry, own: &Key) -> Result<(), RecordError> {
    if entry.key == *own {
        return Ok(());
    }
    Err(RecordError::Corrupt { key: entry.key.clone(), detail: format!("it belongs under {own}") })
}
