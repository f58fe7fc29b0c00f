//! Claiming and changing members.

use std::net::Ipv4Addr;

use uuid::Uuid;

use super::claim::MemberClaim;
use super::error::MemberError;
use super::free::{find_holder, refuse_lost, require_free};
use super::occupancy::{Choice, Found, Read, Seen, later};
use super::{MAX_ATTEMPTS, STALE_CHOICES};
use crate::ipam;
use crate::model::{ContainerRef, Member, MemberState, NetworkId, PublicKey};
use crate::store::contract::Store;
use crate::store::error::CommitError;
use crate::store::keys;
use crate::store::path::Key;
use crate::store::records::{self, AddressRecord, Envelope, MemberPointer, Stored};
use crate::store::transaction::{Expected, Transaction, Value, Write};

/// A member as it is now, and what was written to make it so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The member.
    pub member: Member,
    /// The records of the membership that were written, by key; none when nothing had to change.
    pub records: Vec<(Key, Value)>,
    /// The keys of those that were deleted.
    pub deleted: Vec<Key>,
}

impl Written {
    /// What a transaction that made `member` so wrote, without the fences.
    pub(super) fn by(member: Member, transaction: &Transaction) -> Self {
        let (mut records, mut deleted) = (Vec::new(), Vec::new());
        for (key, write) in &transaction.writes {
            match write {
                Write::Put { value, .. } if value.is_empty() => {}
                Write::Put { value, .. } => records.push((key.clone(), Value::clone(value))),
                Write::Delete => deleted.push(key.clone()),
            }
        }
        Self { member, records, deleted }
    }

    /// That `member` is so already.
    #[must_use]
    pub const fn nothing(member: Member) -> Self {
        Self { member, records: Vec::new(), deleted: Vec::new() }
    }
}

/// Makes a container a member, in the state [`MemberState::Attaching`]: claims its number and its address, both or none.
///
/// An address that nobody ever had is preferred, the lowest first; then the one that has been free for longest. One that
/// rests is given only to who asks for it. Number and address are chosen from what has been `seen`, without a question to
/// the store; when the store says that they are taken, it is asked what stands there, and what is next is tried.
///
/// # Errors
/// [`MemberError::NetworkNotFound`], [`MemberError::MemberExists`], [`MemberError::AddressTaken`],
/// [`MemberError::AddressOutsideSubnet`], [`MemberError::AddressReserved`], [`MemberError::PoolExhausted`],
/// [`MemberError::NumbersExhausted`], [`MemberError::PublicKeyInUse`], or the store's.
pub async fn claim_member(store: &dyn Store, claim: &MemberClaim, seen: &dyn Seen) -> Result<Written, MemberError> {
    let (mut read, mut found) = (None::<Read>, Found::default());
    let mut stale = 0;
    for _ in 0..MAX_ATTEMPTS {
        if let Some(address) = claim.address.filter(|address| !found.rows.contains_key(address)) {
            found.rows.insert(address, row_of(store, claim.network, address).await?);
            refuse_held(address, found.rows[&address].as_ref(), seen.row(claim.network, address).as_ref())?;
        }
        let chosen = match &read {
            Some(read) => read.choose(claim, &found),
            None => seen.choose(claim, &found),
        };
        let choice = match chosen {
            Ok(choice) if stale <= STALE_CHOICES => choice,
            Err(error) if read.is_some() => return Err(error),
            Ok(_) | Err(_) => {
                (read, found, stale) = (Some(Read::from(store, claim.network, seen).await?), Found::default(), 0);
                continue;
            }
        };
        if claim.name.number.is_some() {
            refuse_lost(store, seen, claim.network, &choice.container, claim.id).await?;
        }
        let (member, transaction) = arrival(claim, choice, &found);
        let written = Written::by(member, &transaction);
        match store.commit(transaction).await {
            Ok(revision) => {
                let Member { network, container, address, .. } = &written.member;
                tracing::debug!(%network, %container, %address, %revision, "member claimed");
                return Ok(written);
            }
            Err(CommitError::Conflict { key, .. }) => {
                stale += 1;
                find_what_stands(store, claim, &written.member, &key, (&mut found, seen)).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(MemberError::Contended)
}

/// Says how far the host has come with `member`, and returns it as it is now.
///
/// # Errors
/// As [`update_member`].
pub async fn set_member_state(store: &dyn Store, member: &Member, state: MemberState) -> Result<Written, MemberError> {
    update_member(store, &Member { state, ..member.clone() }).await
}

/// Replaces what a host may change of its member, the public key, WireGuard port, host and state, and returns it.
///
/// A state never goes back: who says "ready" of a member that is draining has looked before that began.
///
/// # Errors
/// [`MemberError::MemberNotFound`] when it has left; [`MemberError::MemberChanged`] when it has left and another, with
/// another address or generation, has taken its name; [`MemberError::PublicKeyInUse`]; or the store's.
pub async fn update_member(store: &dyn Store, member: &Member) -> Result<Written, MemberError> {
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
            return Ok(Written::nothing(member));
        }
        let mut update = Transaction::new()
            .require(key.clone(), Expected::Revision(stored.revision))
            .put(key.clone(), records::encode(&member, &stored.envelope.next()));
        if stored.record.public_key != member.public_key {
            refuse_known_key(store, member.network, member.public_key).await?;
            update = claim_key(update, &member).delete(keys::public_key(member.network, stored.record.public_key));
        }
        let written = Written::by(member, &update);
        match store.commit(update).await {
            Ok(_) => return Ok(written),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(MemberError::Contended)
}

/// Gives a membership to another instance of its host's agent, and returns it.
///
/// # Errors
/// [`MemberError::MemberNotFound`] when it has left; [`MemberError::MemberChanged`] when another has taken its name; or the
/// store's.
pub async fn adopt_member(store: &dyn Store, member: &Member, instance: Uuid) -> Result<Written, MemberError> {
    let key = keys::member(member.network, &member.container);
    for _ in 0..MAX_ATTEMPTS {
        let Some(stored) = records::get_member(store, member.network, &member.container).await? else {
            return Err(not_found(member.network, &member.container));
        };
        if stored.record.id != member.id {
            return Err(MemberError::MemberChanged(Box::new(stored.record)));
        }
        if stored.record.instance == Some(instance) {
            return Ok(Written::nothing(stored.record));
        }
        let adopted = Member { instance: Some(instance), ..stored.record };
        let update = Transaction::new()
            .require(key.clone(), Expected::Revision(stored.revision))
            .put(key.clone(), records::encode(&adopted, &stored.envelope.next()));
        let written = Written::by(adopted, &update);
        match store.commit(update).await {
            Ok(_) => return Ok(written),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(MemberError::Contended)
}

/// The new member, and the transaction that makes it one.
fn arrival(claim: &MemberClaim, choice: Choice, found: &Found) -> (Member, Transaction) {
    let Choice { container, address, row, expected } = choice;
    let before = row.as_ref().map(|row| &row.record);
    let held = AddressRecord {
        holder: Some(container.clone()),
        count: ipam::next_count(before.map(|before| before.count)),
        released_unix_seconds: None,
        member: Some(claim.id),
        before: before.and_then(|before| before.member),
        ended_by: None,
        attached_unix_seconds: Some(claim.now_unix_seconds),
    };
    let member = Member {
        id: claim.id,
        network: claim.network,
        container,
        address,
        generation: held.generation(),
        public_key: claim.public_key,
        wireguard_port: claim.wireguard_port,
        host: claim.host.clone(),
        instance: claim.instance,
        state: MemberState::Attaching,
        ports: claim.name.ports.clone(),
        app_name: claim.name.app_name.clone(),
        names: Vec::new(),
    };
    let envelope = row.as_ref().map_or_else(Envelope::first, |row| row.envelope.next());
    let (network, container) = (member.network, &member.container);
    let transaction = Transaction::new().require(keys::network(network), Expected::Exists);
    let transaction = require_free(transaction, network, container, found)
        .require(keys::address(network, address), expected)
        .put(keys::member(network, container), records::encode(&member, &Envelope::first()))
        .put(keys::address(network, address), records::encode(&held, &envelope))
        .put(keys::members_fence(network), [])
        .put(keys::all_members_fence(), []);
    let transaction = claim_key(transaction, &member);
    (member, transaction)
}

/// Finds out why `key` was not as `member` needs it: what was asked for is refused, and what was chosen is chosen anew.
async fn find_what_stands(
    store: &dyn Store,
    claim: &MemberClaim,
    member: &Member,
    key: &Key,
    (found, seen): (&mut Found, &dyn Seen),
) -> Result<(), MemberError> {
    if *key == keys::network(claim.network) {
        return match store.get(key).await? {
            Some(_) => Ok(()),
            None => Err(MemberError::NetworkNotFound { id: claim.network }),
        };
    }
    let name = &member.container;
    if [keys::member(claim.network, name), keys::member_name(claim.network, name)].contains(key) {
        return find_holder(store, claim.network, (name, key), claim.name.number.is_some(), found).await;
    }
    if *key == keys::address(claim.network, member.address) {
        let row = row_of(store, claim.network, member.address).await?;
        if claim.address.is_some() {
            refuse_held(member.address, row.as_ref(), seen.row(claim.network, member.address).as_ref())?;
        }
        found.rows.insert(member.address, row);
        return Ok(());
    }
    refuse_known_key(store, claim.network, claim.public_key).await
}

fn claim_key(transaction: Transaction, member: &Member) -> Transaction {
    let key = keys::public_key(member.network, member.public_key);
    let pointer = MemberPointer { holder: member.container.clone(), member: Some(member.id) };
    transaction.require(key.clone(), Expected::Absent).put(key, records::encode(&pointer, &Envelope::first()))
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

/// What the store has of an address.
async fn row_of(
    store: &dyn Store,
    network: NetworkId,
    address: Ipv4Addr,
) -> Result<Option<Stored<AddressRecord>>, MemberError> {
    let entry = store.get(&keys::address(network, address)).await?;
    Ok(entry.as_ref().map(records::read::<AddressRecord>).transpose()?)
}

/// Refuses an address that was asked for and that has a holder, by what the store has of it or by a later record that was seen.
fn refuse_held(
    address: Ipv4Addr,
    found: Option<&Stored<AddressRecord>>,
    seen: Option<&Stored<AddressRecord>>,
) -> Result<(), MemberError> {
    match later(seen, found).and_then(|row| row.record.holder.clone()) {
        Some(holder) => Err(MemberError::AddressTaken { address, holder }),
        None => Ok(()),
    }
}

pub(super) fn not_found(network: NetworkId, container: &ContainerRef) -> MemberError {
    MemberError::MemberNotFound { network, container: container.clone() }
}
