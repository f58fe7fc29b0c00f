//! The records as JSON, with a version, and the errors of reading them back.
//!
//! A record of a newer version, a damaged one and one under the wrong key are errors that name the key: nobody acts on
//! a truth that was only half understood.

use std::net::Ipv4Addr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::contract::{Entry, Revision, Store, Value};
use super::error::StoreError;
use super::keys;
use super::path::Key;
use crate::model::{ContainerRef, HostName, Member, MemberId, Network, NetworkId, NetworkName, PublicKey};

/// The version of the records that this code writes, and the newest that it reads.
pub const RECORD_VERSION: u32 = 1;

/// A kind of record.
pub trait Record: Serialize + DeserializeOwned {
    /// Adds the fields that builds before this one did not write, and that follow from those that they wrote.
    fn complete(fields: &mut Map<String, Json>) {
        let _ = fields;
    }
}

impl Record for Network {}
impl Record for AddressRecord {}
impl Record for HostRecord {}
impl Record for PresenceRecord {}
impl Record for NetworkPointer {}
impl Record for MemberPointer {}

impl Record for Member {
    fn complete(fields: &mut Map<String, Json>) {
        if fields.contains_key("id") {
            return;
        }
        let key = fields.get("public_key").and_then(Json::as_str).and_then(|text| text.parse::<PublicKey>().ok());
        if let Some(key) = key {
            fields.insert("id".to_owned(), MemberId::of_key(key).to_string().into());
        }
    }
}

/// What `addresses/<pn>/<ipv4>` holds. It stays when the member leaves, for the sake of the next holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRecord {
    /// The member that holds the address; nothing when it is free.
    #[serde(with = "optional_container_text")]
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
    /// How often its clock was seen to step back. WireGuard refuses a handshake that is dated before the last one: whoever has
    /// a member of this host as a peer makes that peer anew, once, when this changes. Absent is 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub clock_steps: u64,
}

/// What `presences/<host>` holds, under a lease: whose the host's name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceRecord {
    /// The identity of the state directory of the host's agent.
    pub instance: uuid::Uuid,
}

/// What `names/<network name>` and `vnis/<vni>` hold: the network that they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPointer {
    /// The network.
    pub network: NetworkId,
}

/// What `public-keys/<pn>/<hex>` holds: the member that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberPointer {
    /// The member's container.
    #[serde(with = "container_text")]
    pub holder: ContainerRef,
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

/// Reads the record of every address of every network that somebody holds or held.
///
/// # Errors
/// When the store or any record is at fault: a list is whole or it is an error.
pub async fn list_addresses(store: &dyn Store) -> Result<Records<(NetworkId, Ipv4Addr, AddressRecord)>, RecordError> {
    let listing = store.list(&keys::all_addresses()).await?;
    let records = listing.entries.iter().map(address_from).collect::<Result<_, RecordError>>()?;
    Ok(Records { records, revision: listing.revision })
}

/// Reads what `addresses/<pn>/<ipv4>` holds.
///
/// # Errors
/// When it is of a newer version or damaged, or its key names no address.
pub fn address_from(entry: &Entry) -> Result<(NetworkId, Ipv4Addr, AddressRecord), RecordError> {
    let wrong = || RecordError::Corrupt {
        key: entry.key.clone(),
        detail: "the key does not end in a network and an address".to_owned(),
    };
    let (network, address) = keys::parse_address(&entry.key).ok_or_else(wrong)?;
    Ok((network, address, decode(&entry.key, &entry.value)?))
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
pub fn decode<T: Record>(key: &Key, value: &[u8]) -> Result<T, RecordError> {
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
    let mut fields: Map<String, Json> = serde_json::from_slice(value).map_err(corrupt)?;
    T::complete(&mut fields);
    serde_json::from_value(Json::Object(fields)).map_err(corrupt)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
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
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(holder: &ContainerRef, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(holder)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ContainerRef, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A container as its text, or `null`.
mod optional_container_text {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Memory, Transaction};

    const NETWORK: &str = r#"{"version":1,"id":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","name":"shop","vni":4711,"subnet":"10.240.0.0/22","mtu":1390,"created_unix_seconds":1700000000}"#;
    const MEMBER: &str = r#"{"version":1,"network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","app":"ap-a71da13f-7c70-4c00-a644-eee8558d8053","type":"web","number":1,"address":"10.240.0.2","generation":3,"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","wireguard_port":51820,"host":"host-1","state":"ready"}"#;
    const HELD: &str = r#"{"version":1,"holder":"1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053","generation":3,"released_unix_seconds":null}"#;
    const FREE: &str = r#"{"version":1,"holder":null,"generation":3,"released_unix_seconds":1700000000}"#;

    /// The record of a build that gave memberships no identity, with the one that they have since.
    fn with_id(member: &str) -> String {
        member.replace(r#"{"version":1,"#, r#"{"version":1,"id":"8520f0098930a754","#)
    }

    /// What is written today is what every later version has to read.
    #[test]
    fn the_form_of_the_records_does_not_change() {
        fn there_and_back<T: Record>(text: &str) {
            let key: Key = "a/1".parse().expect("a key");
            let record: T = decode(&key, text.as_bytes()).expect("a record");
            assert_eq!(std::str::from_utf8(&encode(&record)).expect("text"), text);
        }
        there_and_back::<Network>(NETWORK);
        there_and_back::<Member>(&with_id(MEMBER));
        let key: Key = "a/1".parse().expect("a key");
        let before: Member = decode(&key, MEMBER.as_bytes()).expect("a record");
        assert_eq!(std::str::from_utf8(&encode(&before)).expect("text"), with_id(MEMBER));
        there_and_back::<AddressRecord>(HELD);
        there_and_back::<AddressRecord>(FREE);
        there_and_back::<NetworkPointer>(r#"{"version":1,"network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c"}"#);
        there_and_back::<MemberPointer>(r#"{"version":1,"holder":"1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053"}"#);
        there_and_back::<HostRecord>(
            r#"{"version":1,"name":"host-1","vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":7}"#,
        );
        there_and_back::<HostRecord>(
            r#"{"version":1,"name":"host-1","vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":7,"clock_steps":2}"#,
        );
        there_and_back::<PresenceRecord>(r#"{"version":1,"instance":"a71da13f-7c70-4c00-a644-eee8558d8053"}"#);
    }

    #[tokio::test]
    async fn a_record_is_read_whole_or_its_key_is_named() {
        let store = Memory::new();
        let id: NetworkId = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c".parse().expect("an id");
        let key = keys::network(id);
        let newer = NETWORK.replace("\"version\":1", "\"version\":2,\"colour\":\"red\"");
        let other = NETWORK.replace("pn-ad", "pn-ae");
        for (value, expected) in [
            (NETWORK, None),
            (&NETWORK.replace("\"mtu\"", "\"colour\":\"red\",\"mtu\""), None),
            (&newer, Some("has version 2, and this privnet knows versions up to 1; upgrade this host's privnet")),
            (&other, Some("is corrupt: it belongs under networks/pn-ae0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c;")),
            (&NETWORK.replace("4711", "0"), Some("is corrupt: VNI 0 is not in 1..=16777215")),
            (&NETWORK.replace("\"version\":1,", ""), Some("is corrupt: missing field `version`")),
            (&NETWORK[..40], Some("is corrupt: EOF")),
            ("", Some("is corrupt: EOF")),
        ] {
            store.commit(Transaction::new().put(key.clone(), value.as_bytes())).await.expect("committed");
            match (get_network(&store, id).await, list_networks(&store).await, expected) {
                (Ok(Some(one)), Ok(all), None) => assert_eq!(vec![one.record], all.records),
                (Err(one), Err(all), Some(expected)) => {
                    assert_eq!(one.to_string(), all.to_string());
                    assert!(one.to_string().contains(&format!("{key} {expected}")), "{one}");
                }
                (one, all, expected) => panic!("{value}: {one:?}, {all:?}, not {expected:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_member_under_another_members_key_is_refused() {
        let store = Memory::new();
        let member: Member = decode(&"a/1".parse().expect("a key"), MEMBER.as_bytes()).expect("a record");
        let put = |key| store.commit(Transaction::new().put(key, MEMBER.as_bytes()));
        put(keys::member(member.network, &member.container)).await.expect("committed");
        let listed = list_members(&store, Some(member.network)).await.expect("listed");
        assert_eq!(listed.records, std::slice::from_ref(&member));
        let elsewhere = ContainerRef { number: 2.try_into().expect("in range"), ..member.container };
        put(keys::member(member.network, &elsewhere)).await.expect("committed");
        let error = list_members(&store, None).await.expect_err("two of one");
        assert!(matches!(&error, RecordError::Corrupt { key, .. } if *key == keys::member(member.network, &elsewhere)));
    }
}
