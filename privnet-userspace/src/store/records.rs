//! The records as JSON, with a version, and the errors of reading them back.
//!
//! A record of a newer version, a damaged one and one under the wrong key are errors that name the key: nobody acts on
//! a truth that was only half understood.

use std::net::Ipv4Addr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::contract::{Entry, Revision, Store, Value};
use super::error::StoreError;
use super::keys;
use super::path::Key;
use crate::model::{ContainerRef, HostName, Member, Network, NetworkId, NetworkName};

/// The version of the records that this code writes, and the newest that it reads.
pub const RECORD_VERSION: u32 = 1;

/// What `addresses/<pn>/<ipv4>` holds. It stays when the member leaves, for the sake of the next holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRecord {
    /// The member that holds the address; nothing when it is free.
    #[serde(with = "container_text")]
    pub holder: Option<ContainerRef>,
    /// The generation of the holder, or of the last one.
    pub generation: u8,
    /// When the last holder left, in seconds since 1970-01-01 UTC; nothing while it is held.
    pub released_unix_seconds: Option<u64>,
}

/// What `hosts/<host>` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// The host's name.
    pub name: HostName,
    /// Its VTEP's address on the underlay.
    pub vtep: Ipv4Addr,
    /// The version of its agent.
    pub agent_version: String,
    /// The newest revision of the store that it has applied.
    pub applied_revision: u64,
}

/// What `names/<network name>` and `vnis/<vni>` hold: the network that they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPointer {
    /// The network.
    pub network: NetworkId,
}

/// A record as it was read, with what is needed to change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// The record.
    pub record: T,
    /// The transaction that put it last.
    pub revision: Revision,
}

/// The records below a prefix as of one revision of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records<T> {
    /// In the order of their keys.
    pub records: Vec<T>,
    /// The store's revision when they were read; watch from it.
    pub revision: Revision,
}

/// A record could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecordError {
    /// It was written by a newer privnet.
    #[error(
        "the record {key} has version {found}, and this privnet knows versions up to {RECORD_VERSION}; \
         upgrade this host's privnet"
    )]
    NewerVersion {
        /// Its key.
        key: Key,
        /// Its version.
        found: u32,
    },
    /// It is not what should be under its key.
    #[error("the record {key} is corrupt: {detail}; restore it, or delete what it belongs to and create it anew")]
    Corrupt {
        /// Its key.
        key: Key,
        /// What is wrong with it.
        detail: String,
    },
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads a network; nothing when it does not exist.
///
/// # Errors
/// When the store or the record is at fault.
pub async fn get_network(store: &dyn Store, id: NetworkId) -> Result<Option<Stored<Network>>, RecordError> {
    store.get(&keys::network(id)).await?.map(|entry| stored(&entry, network_from)).transpose()
}

/// Reads the network that bears `name`; nothing when none does.
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

/// Reads a member; nothing when it does not exist.
///
/// # Errors
/// When the store or the record is at fault.
pub async fn get_member(
    store: &dyn Store,
    network: NetworkId,
    container: &ContainerRef,
) -> Result<Option<Stored<Member>>, RecordError> {
    store.get(&keys::member(network, container)).await?.map(|entry| stored(&entry, member_from)).transpose()
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

/// Reads every host.
///
/// # Errors
/// When the store or any record is at fault: a list is whole or it is an error.
pub async fn list_hosts(store: &dyn Store) -> Result<Records<HostRecord>, RecordError> {
    let listing = store.list(&keys::hosts()).await?;
    let host_from = |entry: &Entry| {
        let record: HostRecord = decode(&entry.key, &entry.value)?;
        under_its_key(entry, &keys::host(&record.name))?;
        Ok(record)
    };
    let records = listing.entries.iter().map(host_from).collect::<Result<_, RecordError>>()?;
    Ok(Records { records, revision: listing.revision })
}

/// Reads what `networks/<pn>` holds.
///
/// # Errors
/// When it is of a newer version, damaged, or of another network than its key says.
pub fn network_from(entry: &Entry) -> Result<Network, RecordError> {
    let network: Network = decode(&entry.key, &entry.value)?;
    under_its_key(entry, &keys::network(network.id))?;
    Ok(network)
}

/// Reads what `members/<pn>/<member>` holds.
///
/// # Errors
/// When it is of a newer version, damaged, or of another member than its key says.
pub fn member_from(entry: &Entry) -> Result<Member, RecordError> {
    let member: Member = decode(&entry.key, &entry.value)?;
    under_its_key(entry, &keys::member(member.network, &member.container))?;
    Ok(member)
}

/// Writes `record` as JSON with its version.
#[must_use]
pub fn encode<T: Serialize>(record: &T) -> Value {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        version: u32,
        #[serde(flatten)]
        record: &'a T,
    }
    let versioned = Versioned { version: RECORD_VERSION, record };
    // The records are structs of this program with text keys, and writing to memory cannot fail.
    serde_json::to_vec(&versioned).unwrap_or_else(|error| unreachable!("a record is not JSON: {error}")).into()
}

/// Reads a record that [`encode`] wrote under `key`.
///
/// # Errors
/// When it is of a newer version, or damaged.
pub fn decode<T: DeserializeOwned>(key: &Key, value: &[u8]) -> Result<T, RecordError> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let corrupt = |error: serde_json::Error| RecordError::Corrupt { key: key.clone(), detail: error.to_string() };
    // The version first: the rest of a newer record need not be what it was.
    let Head { version } = serde_json::from_slice(value).map_err(corrupt)?;
    if version > RECORD_VERSION {
        return Err(RecordError::NewerVersion { key: key.clone(), found: version });
    }
    serde_json::from_slice(value).map_err(corrupt)
}

fn stored<T>(entry: &Entry, read: impl Fn(&Entry) -> Result<T, RecordError>) -> Result<Stored<T>, RecordError> {
    Ok(Stored { record: read(entry)?, revision: entry.revision })
}

fn under_its_key(entry: &Entry, own: &Key) -> Result<(), RecordError> {
    if entry.key == *own {
        return Ok(());
    }
    Err(RecordError::Corrupt { key: entry.key.clone(), detail: format!("it belongs under {own}") })
}

/// A container as its text, `1.web.ap-<uuid>`.
mod container_text {
    use super::ContainerRef;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(holder: &Option<ContainerRef>, serializer: S) -> Result<S::Ok, S::Error> {
        holder.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ContainerRef>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
