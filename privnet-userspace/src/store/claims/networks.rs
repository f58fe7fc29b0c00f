//! Creating and deleting networks.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::Ipv4Net;
use privnet_ebpf::net::Vni;
use rand::RngCore;

use super::error::NetworkError;
use super::free::has_ended;
use super::occupancy::Seen;
use super::{MAX_ATTEMPTS, unchanged};
use crate::ipam;
use crate::model::{Member, NameOptions, Network, NetworkId, NetworkName};
use crate::store::contract::{Entry, Store};
use crate::store::error::CommitError;
use crate::store::keys;
use crate::store::path::{Key, Prefix};
use crate::store::records::{self, Envelope, NetworkMark, NetworkPointer, RecordError, Stored};
use crate::store::transaction::{Expected, Transaction};

/// How many keys are swept in one transaction.
const SWEEP_KEYS: usize = 100;

/// What a new network is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNetwork {
    /// Its name.
    pub name: NetworkName,
    /// Its subnet; the next free /22 of 10.240.0.0/12 when none is asked for.
    pub subnet: Option<Ipv4Net>,
    /// Ranges from which the next free subnet keeps away, as long as there is another.
    pub avoided: Vec<Ipv4Net>,
    /// The MTU of its members' WireGuard interfaces, in bytes.
    pub mtu: u32,
    /// What it says about its names.
    pub names: NameOptions,
    /// Networks that were seen to have members: each keeps its name, VNI and subnet, also where the store has lost it.
    pub held: Vec<Network>,
    /// When that is, in seconds since 1970-01-01 UTC.
    pub now_unix_seconds: u64,
}

/// Creates a network: claims its name, a random VNI and its id, all or nothing.
///
/// # Errors
/// [`NetworkError::NameTaken`], [`NetworkError::InvalidSubnet`], [`NetworkError::VnisExhausted`], or the store's.
pub async fn create_network(
    store: &dyn Store,
    wanted: &NewNetwork,
    rng: &mut (dyn RngCore + Send),
) -> Result<Network, NetworkError> {
    let NewNetwork { name, subnet, avoided, mtu, names, held, now_unix_seconds } = wanted;
    let subnet = *subnet;
    if let Some(subnet) = subnet {
        ipam::check_subnet(subnet)?;
    }
    for _ in 0..MAX_ATTEMPTS {
        // The fence first: whatever is created after it was read makes the commit fail.
        let fence = store.get(&keys::networks_fence()).await?;
        if let Some(entry) = store.get(&keys::name(name)).await? {
            let NetworkPointer { network: id } = records::decode(&entry.key, &entry.value)?;
            return Err(NetworkError::NameTaken { name: name.clone(), id });
        }
        if let Some(Network { id, .. }) = held.iter().find(|held| held.name == *name) {
            return Err(NetworkError::NameTaken { name: name.clone(), id: *id });
        }
        let subnet = match subnet {
            Some(subnet) => subnet,
            None => free_subnet(store, held, avoided).await?,
        };
        let mut taken = taken_vnis(store).await?;
        taken.extend(held.iter().map(|held| held.vni));
        let vni = ipam::free_vni(&taken, rng.next_u32()).ok_or(NetworkError::VnisExhausted)?;
        let id = random_id(rng);
        let network = Network {
            id,
            name: name.clone(),
            vni,
            subnet,
            mtu: *mtu,
            created_unix_seconds: *now_unix_seconds,
            names: names.clone(),
        };
        match store.commit(creation(&network, fence.as_ref())).await {
            Ok(revision) => {
                tracing::debug!(network = %id, %name, %vni, %subnet, %revision, "network created");
                return Ok(network);
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(NetworkError::Contended)
}

/// Deletes a network without members, and frees its name and VNI. Returns what it was. A member that was seen, and whose end
/// the store does not say, counts: its record is lost.
///
/// # Errors
/// [`NetworkError::NotFound`], [`NetworkError::HasMembers`], or the store's.
pub async fn delete_network(store: &dyn Store, id: NetworkId, seen: &dyn Seen) -> Result<Network, NetworkError> {
    for _ in 0..MAX_ATTEMPTS {
        // The fence first: a member that is claimed after it was read makes the commit fail.
        let fence = store.get(&keys::members_fence(id)).await?;
        let stored = records::get_network(store, id).await?;
        let members = members_of_network(store, id, seen).await?;
        if !members.is_empty() {
            return Err(NetworkError::HasMembers { id, members });
        }
        let Stored { record: network, revision, .. } = stored.ok_or(NetworkError::NotFound { id })?;
        let deletion = Transaction::new()
            .require(keys::network(id), Expected::Revision(revision))
            .require(keys::members_fence(id), unchanged(fence.as_ref()))
            // A store in which a network was deleted is told from a new one.
            .put(keys::networks_fence(), []);
        let deletion = without_network(store, deletion, &network).await?;
        match store.commit(deletion).await {
            Ok(revision) => {
                tracing::debug!(network = %id, name = %network.name, %revision, "network deleted");
                if let Err(error) = sweep(store, &keys::addresses(id)).await {
                    tracing::warn!(%error, "cannot remove the address records of a deleted network before the next start of an agent");
                }
                return Ok(network);
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(NetworkError::Contended)
}

/// The members of a network: those that the store has, and those that were seen and whose end it does not say.
///
/// # Errors
/// The store's, or that of a damaged record.
pub async fn members_of_network(
    store: &dyn Store,
    id: NetworkId,
    seen: &dyn Seen,
) -> Result<Vec<Arc<Member>>, NetworkError> {
    let listed = records::list_members(store, Some(id)).await?.records;
    let mut members: Vec<Arc<Member>> = listed.into_iter().map(Arc::new).collect();
    for member in seen.members(id) {
        let is_listed = members.iter().any(|listed| listed.container == member.container || listed.id == member.id);
        if !is_listed && !has_ended(store, &member).await? {
            members.push(member);
        }
    }
    Ok(members)
}

/// Ends a network with its members, by a mark that beats all of its records, those of hosts that are away and those that the
/// store has lost included. The records that the store has are removed, in batches; any host finishes that.
///
/// # Errors
/// The store's, or that of a damaged record; the network goes on then.
pub async fn end_network(store: &dyn Store, network: &Network, mark: &NetworkMark) -> Result<(), NetworkError> {
    let (id, key) = (network.id, keys::network_mark(network.id));
    for _ in 0..MAX_ATTEMPTS {
        let stored = store.get(&keys::network(id)).await?;
        let marked = store.get(&key).await?;
        let ending = Transaction::new()
            .require(keys::network(id), unchanged(stored.as_ref()))
            .require(key.clone(), unchanged(marked.as_ref()));
        let ending = match marked {
            Some(_) => ending,
            None => ending.put(key.clone(), records::encode(mark, &Envelope::first())),
        };
        match store.commit(without_network(store, ending, network).await?).await {
            Ok(revision) => {
                tracing::debug!(network = %id, name = %network.name, %revision, "network ended");
                for prefix in [keys::members(id), keys::member_names(id), keys::public_keys(id), keys::addresses(id)] {
                    if let Err(error) = sweep(store, &prefix).await {
                        tracing::warn!(%error, "the records of a deleted network are not all removed yet; the agents finish that");
                    }
                }
                return Ok(());
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(NetworkError::Contended)
}

/// Deletes a network's record and its fence, and its name and VNI where another network has not got them meanwhile.
async fn without_network(
    store: &dyn Store,
    deletion: Transaction,
    network: &Network,
) -> Result<Transaction, NetworkError> {
    let id = network.id;
    let mut deletion = deletion.delete(keys::network(id)).delete(keys::members_fence(id));
    for pointer in [keys::name(&network.name), keys::vni(network.vni)] {
        let Some(entry) = store.get(&pointer).await? else { continue };
        if records::decode::<NetworkPointer>(&pointer, &entry.value)?.network == id {
            deletion = deletion.require(pointer.clone(), Expected::Revision(entry.revision)).delete(pointer);
        }
    }
    Ok(deletion)
}

/// Removes the address records of networks that do not exist any more, and returns how many there were. A network that is
/// `believed` to exist, or that has members, is one that the store has lost.
///
/// They are left when a deletion was interrupted, and harm nobody: a network's id is never used again.
///
/// # Errors
/// When the store cannot answer, or a key is not one of ours.
pub async fn remove_leftovers(store: &dyn Store, believed: &BTreeSet<NetworkId>) -> Result<usize, NetworkError> {
    // The addresses first: a network that is created later cannot be mistaken for a deleted one.
    let addresses = store.list(&keys::all_addresses()).await?;
    let networks = store.list(&keys::networks()).await?;
    let members = store.list(&keys::all_members()).await?;
    let mut existing = believed.clone();
    for (listing, prefix) in [(networks, keys::networks()), (members, keys::all_members())] {
        for entry in &listing.entries {
            existing.insert(id_in(entry, &prefix)?);
        }
    }
    let mut leftovers = Vec::new();
    for entry in addresses.entries {
        if !existing.contains(&id_in(&entry, &keys::all_addresses())?) {
            leftovers.push(entry.key);
        }
    }
    Ok(delete_all(store, leftovers).await?)
}

fn creation(network: &Network, fence: Option<&Entry>) -> Transaction {
    let pointer = records::encode(&NetworkPointer { network: network.id }, &Envelope::first());
    Transaction::new()
        .require(keys::name(&network.name), Expected::Absent)
        .require(keys::vni(network.vni), Expected::Absent)
        .require(keys::network(network.id), Expected::Absent)
        .require(keys::networks_fence(), unchanged(fence))
        .put(keys::name(&network.name), pointer.clone())
        .put(keys::vni(network.vni), pointer)
        .put(keys::network(network.id), records::encode(network, &Envelope::first()))
        .put(keys::networks_fence(), [])
}

async fn free_subnet(store: &dyn Store, held: &[Network], avoided: &[Ipv4Net]) -> Result<Ipv4Net, RecordError> {
    let networks = records::list_networks(store).await?.records;
    let taken = networks.iter().chain(held).map(|network| network.subnet);
    Ok(ipam::next_subnet(taken.chain(avoided.iter().copied())))
}

async fn taken_vnis(store: &dyn Store) -> Result<BTreeSet<Vni>, RecordError> {
    let vni_of = |entry: &Entry| {
        let text = entry.key.below(&keys::vnis()).unwrap_or_default();
        let vni = text.parse().ok().and_then(|number| Vni::new(number).ok());
        vni.ok_or_else(|| not_ours(&entry.key, "the key does not end in a VNI"))
    };
    store.list(&keys::vnis()).await?.entries.iter().map(vni_of).collect()
}

fn id_in(entry: &Entry, prefix: &Prefix) -> Result<NetworkId, RecordError> {
    let segment = entry.key.below(prefix).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    segment.parse().map_err(|_| not_ours(&entry.key, "the key does not name a network"))
}

fn not_ours(key: &Key, detail: &str) -> RecordError {
    RecordError::Corrupt { key: key.clone(), detail: detail.to_owned() }
}

fn random_id(rng: &mut (dyn RngCore + Send)) -> NetworkId {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    NetworkId::from_uuid(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

async fn sweep(store: &dyn Store, prefix: &Prefix) -> Result<usize, CommitError> {
    let keys = store.list(prefix).await.map_err(CommitError::from)?.entries.into_iter().map(|entry| entry.key);
    delete_all(store, keys.collect()).await
}

async fn delete_all(store: &dyn Store, keys: Vec<Key>) -> Result<usize, CommitError> {
    for batch in keys.chunks(SWEEP_KEYS) {
        store.commit(batch.iter().cloned().fold(Transaction::new(), Transaction::delete)).await?;
    }
    Ok(keys.len())
}
