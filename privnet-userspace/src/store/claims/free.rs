//! Whether a name is free: what a claim depends on, and which member has a name that was taken.

use super::error::MemberError;
use super::occupancy::{Found, Seen};
use crate::model::{ContainerRef, Member, MemberId, NetworkId};
use crate::store::contract::Store;
use crate::store::path::Key;
use crate::store::records::{AddressRecord, RecordError};
use crate::store::transaction::{Expected, Transaction};
use crate::store::{keys, records};

/// Makes a transaction depend on a name being free: it is no membership's oldest name, and no further one.
pub(super) fn require_free(
    transaction: Transaction,
    network: NetworkId,
    name: &ContainerRef,
    found: &Found,
) -> Transaction {
    let further = keys::member_name(network, name);
    let transaction = transaction.require(keys::member(network, name), Expected::Absent);
    match found.abandoned.get(name) {
        Some(revision) => transaction.require(further.clone(), Expected::Revision(*revision)).delete(further),
        None => transaction.require(further, Expected::Absent),
    }
}

/// Finds out which member has a name that a claim needed and found taken at `key`: a name that was asked for is refused, one
/// that was chosen is noted. A pointer that leads to no member with the name is noted to be abandoned.
pub(super) async fn find_holder(
    store: &dyn Store,
    network: NetworkId,
    (name, key): (&ContainerRef, &Key),
    was_asked_for: bool,
    found: &mut Found,
) -> Result<(), MemberError> {
    if !was_asked_for && *key == keys::member(network, name) {
        found.numbers.insert(name.number);
        return Ok(());
    }
    match records::find_member(store, network, name).await? {
        Some(_) if !was_asked_for => {
            found.numbers.insert(name.number);
        }
        Some(holder) => {
            let named = Member { container: name.clone(), ..holder.record };
            return Err(MemberError::MemberExists(Box::new(named)));
        }
        None => {
            if let Some(pointer) = store.get(&keys::member_name(network, name)).await? {
                found.abandoned.insert(name.clone(), pointer.revision);
            }
        }
    }
    Ok(())
}

/// Refuses a name that was asked for, and that a membership other than `own` was seen to have which goes on, as far as the row
/// of its address says: the store may have lost its record.
pub(super) async fn refuse_lost(
    store: &dyn Store,
    seen: &dyn Seen,
    network: NetworkId,
    name: &ContainerRef,
    own: MemberId,
) -> Result<(), MemberError> {
    let Some(holder) = seen.holder(network, name).filter(|holder| holder.id != own) else { return Ok(()) };
    if has_ended(store, &holder).await? {
        return Ok(());
    }
    let named = Member { container: name.clone(), ..Member::clone(&holder) };
    Err(MemberError::MemberExists(Box::new(named)))
}

/// Whether the row of a membership's address says that it has ended. A row that is absent does not.
pub(super) async fn has_ended(store: &dyn Store, member: &Member) -> Result<bool, RecordError> {
    let Some(entry) = store.get(&keys::address(member.network, member.address)).await? else { return Ok(false) };
    let row: AddressRecord = records::decode(&entry.key, &entry.value)?;
    Ok(row.holder.is_none() || !row.goes_on(member.id))
}
