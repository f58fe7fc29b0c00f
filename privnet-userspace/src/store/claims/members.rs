//! Claiming, changing and releasing members.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::error::MemberError;
use super::{MAX_ATTEMPTS, unchanged};
use crate::ipam;
use crate::model::ids::ContainerNumber;
use crate::model::{
    AppId, AppName, ContainerRef, ContainerType, HostName, Member, MemberId, MemberState, Network, NetworkId, Port,
    PublicKey,
};
use crate::store::contract::{Entry, Expected, Store, Transaction};
use crate::store::error::CommitError;
use crate::store::keys;
use crate::store::path::Key;
use crate::store::records::{self, AddressRecord, EndedBy, Envelope, MemberPointer, RecordError, Stored};

/// What a new member is, and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberClaim {
    /// The identity of the new membership.
    pub id: MemberId,
    /// The network to become a member of.
    pub network: NetworkId,
    /// The container's app.
    pub app: AppId,
    /// The name of the app, where it was given by name.
    pub app_name: Option<AppName>,
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
    /// The ports that it declares by name.
    pub ports: BTreeSet<Port>,
    /// When that is, in seconds since 1970-01-01 UTC: an address that was just released rests.
    pub now_unix_seconds: u64,
}

/// Makes a container a member, in the state [`MemberState::Attaching`]: claims its number and its address, both or none.
///
/// An address that nobody ever had is preferred, the lowest first; then the one that has been free for longest. One that
/// rests is given only to who asks for it.
///
/// # Errors
/// [`MemberError::NetworkNotFound`], [`MemberError::MemberExists`], [`MemberError::AddressTaken`],
/// [`MemberError::AddressOutsideSubnet`], [`MemberError::AddressReserved`], [`MemberError::PoolExhausted`],
/// [`MemberError::NumbersExhausted`], [`MemberError::PublicKeyInUse`], or the store's.
pub async fn claim_member(store: &dyn Store, claim: &MemberClaim) -> Result<Member, MemberError> {
    for _ in 0..MAX_ATTEMPTS {
        let network = records::get_network(store, claim.network).await?;
        let network = network.ok_or(MemberError::NetworkNotFound { id: claim.network })?.record;
        let container = free_container(store, claim).await?;
        refuse_known_key(store, network.id, claim.public_key).await?;
        let (address, before) = match claim.address {
            Some(address) => asked_address(store, &network, address).await?,
            None => free_address(store, &network, claim.now_unix_seconds).await?,
        };
        let before = before.as_ref().map(records::read::<AddressRecord>).transpose()?;
        let held = held(before.as_ref().map(|stored| &stored.record), &container, claim.id);
        let member = Member {
            id: claim.id,
            network: network.id,
            container,
            address,
            generation: held.generation(),
            public_key: claim.public_key,
            wireguard_port: claim.wireguard_port,
            host: claim.host.clone(),
            state: MemberState::Attaching,
            ports: claim.ports.clone(),
            app_name: claim.app_name.clone(),
            names: Vec::new(),
        };
        match store.commit(arrival(&member, &held, before.as_ref())).await {
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

/// Replaces what a host may change of its member, the public key, WireGuard port, host and state, and returns it.
///
/// A state never goes back: who says "ready" of a member that is draining has looked before that began.
///
/// # Errors
/// [`MemberError::MemberNotFound`] when it has left; [`MemberError::MemberChanged`] when it has left and another, with
/// another address or generation, has taken its name; [`MemberError::PublicKeyInUse`]; or the store's.
pub async fn update_member(store: &dyn Store, member: &Member) -> Result<Member, MemberError> {
    let key = keys::member(member.network, &member.container);
    for _ in 0..MAX_ATTEMPTS {
        let Some(stored) = records::get_member(store, member.network, &member.container).await? else {
            return Err(not_found(member.network, &member.container));
        };
        if (stored.record.address, stored.record.generation) != (member.address, member.generation) {
            return Err(MemberError::MemberChanged(Box::new(stored.record)));
        }
        let member = Member {
            public_key: member.public_key,
            wireguard_port: member.wireguard_port,
            host: member.host.clone(),
            state: member.state.max(stored.record.state),
            ..stored.record.clone()
        };
        if stored.record == member {
            return Ok(member);
        }
        let mut update = Transaction::new()
            .require(key.clone(), Expected::Revision(stored.revision))
            .put(key.clone(), records::encode(&member, &stored.envelope.next()));
        if stored.record.public_key != member.public_key {
            refuse_known_key(store, member.network, member.public_key).await?;
            update = claim_key(update, &member).delete(keys::public_key(member.network, stored.record.public_key));
        }
        match store.commit(update).await {
            Ok(_) => return Ok(member),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(MemberError::Contended)
}

/// By whose word a membership ends, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// By whose word.
    pub by: EndedBy,
    /// When, in seconds since 1970-01-01 UTC.
    pub at_unix_seconds: u64,
}

impl End {
    /// The end that a host's agent makes of a membership on that host.
    #[must_use]
    pub const fn by_its_host(at_unix_seconds: u64) -> Self {
        Self { by: EndedBy::Host, at_unix_seconds }
    }
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
    end: End,
) -> Result<Option<Member>, MemberError> {
    for _ in 0..MAX_ATTEMPTS {
        let Some(stored) = records::get_member(store, network, container).await? else { return Ok(None) };
        let member = stored.record;
        let address = store.get(&keys::address(network, member.address)).await?;
        let mut departure = Transaction::new()
            .require(keys::member(network, container), Expected::Revision(stored.revision))
            .require(keys::address(network, member.address), unchanged(address.as_ref()))
            .delete(keys::member(network, container))
            .delete(keys::public_key(network, member.public_key));
        let row = address.as_ref().map(records::read::<AddressRecord>).transpose()?;
        if let Some(row) = row.filter(|row| is_held_by(&row.record, &member)) {
            let freed = AddressRecord {
                holder: None,
                released_unix_seconds: Some(end.at_unix_seconds),
                member: Some(member.id),
                ended_by: Some(end.by),
                ..row.record
            };
            let freed = records::encode(&freed, &row.envelope.next());
            departure = departure.put(keys::address(network, member.address), freed);
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

/// The record of an address that is given to a membership, after `before`.
fn held(before: Option<&AddressRecord>, container: &ContainerRef, member: MemberId) -> AddressRecord {
    AddressRecord {
        holder: Some(container.clone()),
        count: ipam::next_count(before.map(|before| before.count)),
        released_unix_seconds: None,
        member: Some(member),
        before: before.and_then(|before| before.member),
        ended_by: None,
    }
}

fn arrival(member: &Member, held: &AddressRecord, before: Option<&Stored<AddressRecord>>) -> Transaction {
    let (network, container) = (member.network, &member.container);
    let unchanged = before.map_or(Expected::Absent, |before| Expected::Revision(before.revision));
    let envelope = before.map_or_else(Envelope::first, |before| before.envelope.next());
    let arrival = Transaction::new()
        .require(keys::network(network), Expected::Exists)
        .require(keys::member(network, container), Expected::Absent)
        .require(keys::address(network, member.address), unchanged)
        .put(keys::member(network, container), records::encode(member, &Envelope::first()))
        .put(keys::address(network, member.address), records::encode(held, &envelope))
        .put(keys::members_fence(network), []);
    claim_key(arrival, member)
}

fn claim_key(transaction: Transaction, member: &Member) -> Transaction {
    let key = keys::public_key(member.network, member.public_key);
    let pointer = MemberPointer { holder: member.container.clone(), member: Some(member.id) };
    transaction.require(key.clone(), Expected::Absent).put(key, records::encode(&pointer, &Envelope::first()))
}

/// The container with the number that was asked for, or the lowest free one.
async fn free_container(store: &dyn Store, claim: &MemberClaim) -> Result<ContainerRef, MemberError> {
    let of = |number| ContainerRef { app: claim.app, kind: claim.kind.clone(), number };
    if let Some(number) = claim.number {
        return match records::get_member(store, claim.network, &of(number)).await? {
            Some(member) => Err(MemberError::MemberExists(Box::new(member.record))),
            None => Ok(of(number)),
        };
    }
    let prefix = keys::members(claim.network);
    let same_type = format!(".{}.{}", claim.kind, claim.app);
    let number_in = |entry: &Entry| entry.key.below(&prefix)?.strip_suffix(&same_type)?.parse().ok();
    let taken: BTreeSet<u32> = store.list(&prefix).await?.entries.iter().filter_map(number_in).collect();
    let free = (ContainerNumber::FIRST.get()..).find(|number| !taken.contains(number));
    let number = free.and_then(|number| ContainerNumber::try_from(number).ok());
    number.map(of).ok_or_else(|| MemberError::NumbersExhausted { app: claim.app, kind: claim.kind.clone() })
}

/// Refuses a public key that another member has: with it, one could read what is meant for the other.
async fn refuse_known_key(store: &dyn Store, network: NetworkId, public_key: PublicKey) -> Result<(), MemberError> {
    match store.get(&keys::public_key(network, public_key)).await? {
        Some(entry) => {
            let MemberPointer { holder, .. } = records::decode(&entry.key, &entry.value)?;
            Err(MemberError::PublicKeyInUse { holder })
        }
        None => Ok(()),
    }
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
async fn free_address(
    store: &dyn Store,
    network: &Network,
    now_unix_seconds: u64,
) -> Result<(Ipv4Addr, Option<Entry>), MemberError> {
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
    let unheld = released.len();
    let rest = ipam::rest_seconds(network.names.ttl_seconds);
    released.retain(|(_, since)| ipam::has_rested(*since, now_unix_seconds, rest));
    let resting = unheld - released.len();
    let Some(address) = ipam::longest_released(network.subnet, released) else {
        let size = ipam::capacity(network.subnet) as usize;
        return Err(MemberError::PoolExhausted { subnet: network.subnet, used, size, resting });
    };
    let key = keys::address(network.id, address);
    listing.entries.retain(|entry| entry.key == key);
    Ok((address, listing.entries.pop()))
}

/// Whether the record of a member's address says so too. If it does not, it is another's and is left alone.
fn is_held_by(row: &AddressRecord, member: &Member) -> bool {
    row.holder.as_ref() == Some(&member.container) && row.member.is_none_or(|id| id == member.id)
}

fn address_record(entry: &Entry) -> Result<AddressRecord, RecordError> {
    records::decode(&entry.key, &entry.value)
}

fn address_in(key: &Key, network: NetworkId) -> Result<Ipv4Addr, RecordError> {
    let text = key.below(&keys::addresses(network)).unwrap_or_default();
    let wrong = |_| RecordError::Corrupt { key: key.clone(), detail: "the key does not end in an address".to_owned() };
    text.parse().map_err(wrong)
}

fn not_found(network: NetworkId, container: &ContainerRef) -> MemberError {
    MemberError::MemberNotFound { network, container: container.clone() }
}
