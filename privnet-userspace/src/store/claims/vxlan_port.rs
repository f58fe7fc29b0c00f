//! Another VXLAN port for a fleet whose networks have no members.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use super::{MAX_ATTEMPTS, unchanged};
#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{DEFAULT_VXLAN_PORT, ErrorCode, Explain, HostName, NetworkId, NetworkName};
use crate::store::contract::Store;
use crate::store::error::{CommitError, StoreError};
use crate::store::keys;
use crate::store::records::{self, FleetRecord, PresenceRecord, RecordError};
use crate::store::transaction::{Expected, Transaction};

/// How many networks or hosts a refusal names.
const NAMED: usize = 5;

/// The VXLAN port could not be changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum VxlanPortError {
    /// A device keeps the port that it was made with.
    #[error("the VXLAN port does not change while networks have members: {}", few(.0.iter().map(of_network)))]
    HasMembers(Vec<NetworkMembers>),
    /// Agents of the build before do not read the fleet's record.
    #[error("{} of a build that knows no VXLAN port but {DEFAULT_VXLAN_PORT}: {}", agents(.0), few(.0.iter().map(ToString::to_string)))]
    EarlierBuild(BTreeSet<HostName>),
    /// Others changed the same records all the time.
    #[error("too many hosts are attaching and detaching at the same time")]
    Contended,
    /// A record could not be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// A network that has members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkMembers {
    /// The network's name; its id where the network has no record.
    pub network: String,
    /// How many members it has.
    pub count: usize,
    /// The hosts that they are on.
    pub hosts: BTreeSet<HostName>,
}

impl From<StoreError> for VxlanPortError {
    fn from(error: StoreError) -> Self {
        Self::Record(error.into())
    }
}

/// Sets the VXLAN port of the fleet.
///
/// Refused while a network has a member, on whichever host, and while an agent is there whose build does not read the record:
/// it would go on with the old port. A member that is claimed meanwhile makes the transaction fail, and is found then.
///
/// # Errors
/// [`VxlanPortError::HasMembers`], [`VxlanPortError::EarlierBuild`], or the store's.
pub async fn set_vxlan_port(store: &dyn Store, port: NonZeroU16) -> Result<FleetRecord, VxlanPortError> {
    for _ in 0..MAX_ATTEMPTS {
        // The fence first: a member that is claimed after it was read makes the commit fail.
        let fence = store.get(&keys::all_members_fence()).await?;
        let Some(entry) = store.get(&keys::fleet()).await? else { continue };
        let fleet = records::read::<FleetRecord>(&entry)?;
        if fleet.record.vxlan_port == port {
            return Ok(fleet.record);
        }
        refuse_members(store).await?;
        refuse_earlier_builds(store).await?;
        let record = FleetRecord { vxlan_port: port, ..fleet.record };
        let change = Transaction::new()
            .require(keys::fleet(), Expected::Revision(fleet.revision))
            .require(keys::all_members_fence(), unchanged(fence.as_ref()))
            .put(keys::fleet(), records::encode(&record, &fleet.envelope.next()));
        match store.commit(change).await {
            Ok(_) => return Ok(record),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(VxlanPortError::Contended)
}

async fn refuse_members(store: &dyn Store) -> Result<(), VxlanPortError> {
    let members = records::list_members(store, None).await?.records;
    if members.is_empty() {
        return Ok(());
    }
    let networks = records::list_networks(store).await?.records;
    let names: BTreeMap<NetworkId, NetworkName> =
        networks.into_iter().map(|network| (network.id, network.name)).collect();
    let mut found: BTreeMap<NetworkId, NetworkMembers> = BTreeMap::new();
    for member in members {
        let name = || names.get(&member.network).map_or_else(|| member.network.to_string(), ToString::to_string);
        let of_network = found.entry(member.network).or_insert_with(|| NetworkMembers {
            network: name(),
            count: 0,
            hosts: BTreeSet::new(),
        });
        of_network.count += 1;
        of_network.hosts.insert(member.host);
    }
    Err(VxlanPortError::HasMembers(found.into_values().collect()))
}

async fn refuse_earlier_builds(store: &dyn Store) -> Result<(), VxlanPortError> {
    let hosts = hosts_of_earlier_builds(store).await?;
    if hosts.is_empty() { Ok(()) } else { Err(VxlanPortError::EarlierBuild(hosts)) }
}

/// The hosts whose agents are there and do not read the fleet's record.
///
/// # Errors
/// The store's, or that of a damaged record.
pub async fn hosts_of_earlier_builds(store: &dyn Store) -> Result<BTreeSet<HostName>, RecordError> {
    let mut hosts = BTreeSet::new();
    for entry in store.list(&keys::presences()).await?.entries {
        let presence: PresenceRecord = records::decode(&entry.key, &entry.value)?;
        let host = entry.key.below(&keys::presences()).and_then(|host| host.parse::<HostName>().ok());
        hosts.extend(host.filter(|_| presence.fleet.is_none()));
    }
    Ok(hosts)
}

fn of_network(found: &NetworkMembers) -> String {
    let hosts = few(found.hosts.iter().map(ToString::to_string));
    format!("{} has {} (on {hosts})", found.network, found.count)
}

fn agents(hosts: &BTreeSet<HostName>) -> &'static str {
    if hosts.len() == 1 { "an agent is" } else { "agents are" }
}

/// A list of a few, and how many there are besides.
fn few(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(NAMED);
    let named = all.take(NAMED).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

impl Explain for VxlanPortError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::HasMembers(_) => ErrorCode::NetworkNotEmpty,
            Self::EarlierBuild(_) => ErrorCode::Unsupported,
            Self::Contended => ErrorCode::StoreUnavailable,
            Self::Record(error) => error.code(),
            Self::Commit(error) => error.code(),
        }
    }

    fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::HasMembers(_) => "detach them first: `privnet members` shows them".to_owned(),
            Self::EarlierBuild(_) => "upgrade privnet there first, and start its agent again".to_owned(),
            Self::Contended => "try again".to_owned(),
            Self::Record(error) => return error.remedy(),
            Self::Commit(error) => return error.remedy(),
        })
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let host = |number| format!("h{number}").parse::<HostName>().expect("a host");
        let network = |number, hosts| NetworkMembers {
            network: format!("n{number}"),
            count: 3,
            hosts: (1..=hosts).map(host).collect(),
        };
        rows![
            Self::HasMembers(_) => Self::HasMembers(vec![network(1, 2)]), NetworkNotEmpty,
                "the VXLAN port does not change while networks have members: n1 has 3 (on h1, h2)",
                "detach them first: `privnet members` shows them";
            Self::HasMembers(_) => Self::HasMembers((1..=7).map(|number| network(number, 1)).collect()), NetworkNotEmpty,
                "the VXLAN port does not change while networks have members: n1 has 3 (on h1), n2 has 3 (on h1), \
                 n3 has 3 (on h1), n4 has 3 (on h1), n5 has 3 (on h1) and 2 more",
                "detach them first: `privnet members` shows them";
            Self::EarlierBuild(_) => Self::EarlierBuild([host(2)].into()), Unsupported,
                "an agent is of a build that knows no VXLAN port but 4789: h2",
                "upgrade privnet there first, and start its agent again";
            Self::EarlierBuild(_) => Self::EarlierBuild([host(2), host(3)].into()), Unsupported,
                "agents are of a build that knows no VXLAN port but 4789: h2, h3",
                "upgrade privnet there first, and start its agent again";
            Self::Contended => Self::Contended, StoreUnavailable,
                "too many hosts are attaching and detaching at the same time", "try again";
            Self::Record(_) => StoreError::Closed.into(), StoreUnavailable, "the store is closed", "start the agent again";
            Self::Commit(_) => CommitError::Store(StoreError::Closed).into(), StoreUnavailable,
                "the store is closed", "start the agent again";
        ]
    }
}
