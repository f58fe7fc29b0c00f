//! Releasing members: the end of a membership is recorded in the row of its address.

use std::sync::Arc;

use super::error::MemberError;
use super::occupancy::{Seen, later};
use super::{MAX_ATTEMPTS, unchanged};
use crate::model::Member;
use crate::store::contract::Store;
use crate::store::error::CommitError;
use crate::store::keys;
use crate::store::path::Key;
use crate::store::records::{self, AddressRecord, EndedBy, Envelope, MemberPointer, Stored};
use crate::store::transaction::{Expected, Revision, Transaction, Value};

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

/// Ends a membership with all its names and frees its address, and returns what it was; nothing when it had ended. One that was
/// `seen`, and whose record the store has lost, is ended all the same; another one that has its name in the store is left alone.
///
/// The address record stays, and says that the membership has ended: the others believe nothing else. The next holder gets
/// the next generation, and gets it the later, the later it was freed.
///
/// # Errors
/// The store's, or that of a damaged record.
pub async fn release_member(
    store: &dyn Store,
    member: &Member,
    end: End,
    seen: &dyn Seen,
) -> Result<Option<Member>, MemberError> {
    let network = member.network;
    for _ in 0..MAX_ATTEMPTS {
        let stored = stored_as(store, member).await?;
        let is_it = |seen: &Arc<Member>| seen.id == member.id;
        let believed = || seen.members(network).into_iter().find(is_it).map(|seen| Member::clone(&seen));
        let ending = stored.as_ref().map(|stored| stored.record.clone()).or_else(believed);
        let Some(ending) = ending else { return Ok(None) };
        let address = keys::address(network, ending.address);
        let entry = store.get(&address).await?;
        let found = entry.as_ref().map(records::read::<AddressRecord>).transpose()?;
        let known = seen.row(network, ending.address);
        let row = later(known.as_ref(), found.as_ref());
        // What was seen is behind: it has ended before.
        if stored.is_none() && row.is_some_and(|row| row.record.holder.is_none() || !row.record.goes_on(ending.id)) {
            return Ok(None);
        }
        let departure = Transaction::new().require(address.clone(), unchanged(entry.as_ref()));
        let departure = without_records(store, departure, &ending, stored.map(|stored| stored.revision)).await?;
        let departure = match freed_row(&ending, row, end) {
            Some(freed) => departure.put(address, freed),
            None => departure,
        };
        match store.commit(departure).await {
            Ok(revision) => {
                let Member { container, address, .. } = &ending;
                tracing::debug!(%network, %container, %address, %revision, "member released");
                return Ok(Some(ending));
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(MemberError::Contended)
}

/// The record of a membership, under the name that is its oldest by now.
async fn stored_as(store: &dyn Store, member: &Member) -> Result<Option<Stored<Member>>, MemberError> {
    let is_it = |stored: &Stored<Member>| stored.record.id == member.id;
    if let Some(stored) = records::get_member(store, member.network, &member.container).await?.filter(is_it) {
        return Ok(Some(stored));
    }
    Ok(records::member_at(store, member.network, member.address).await?.filter(is_it))
}

/// Deletes the record of a membership, which is `stored` as of then, and what leads to it. Where the record is lost, another
/// membership's may stand in its place, and its names may be another one's.
async fn without_records(
    store: &dyn Store,
    departure: Transaction,
    member: &Member,
    stored: Option<Revision>,
) -> Result<Transaction, MemberError> {
    let record = keys::member(member.network, &member.container);
    let mut departure = match stored {
        Some(revision) => departure.require(record.clone(), Expected::Revision(revision)).delete(record),
        None => {
            let standing = store.get(&record).await?;
            departure.require(record, unchanged(standing.as_ref()))
        }
    };
    let names = member.names.iter().map(|name| keys::member_name(member.network, &name.container));
    for pointer in names.chain([keys::public_key(member.network, member.public_key)]) {
        if stored.is_none() && !is_pointer_to(store, &pointer, member).await? {
            continue;
        }
        departure = departure.delete(pointer);
    }
    Ok(departure)
}

async fn is_pointer_to(store: &dyn Store, key: &Key, to: &Member) -> Result<bool, MemberError> {
    let Some(entry) = store.get(key).await? else { return Ok(false) };
    let MemberPointer { member, .. } = records::decode(key, &entry.value)?;
    Ok(member.is_none_or(|member| member == to.id))
}

/// The record of a member's address once it has ended; nothing where the record is of another member.
fn freed_row(member: &Member, row: Option<&Stored<AddressRecord>>, end: End) -> Option<Value> {
    let freed = |before: AddressRecord| before.ended(member.id, end.by, end.at_unix_seconds);
    match row {
        Some(row) if is_held_by(&row.record, member) => {
            Some(records::encode(&freed(row.record.clone()), &row.envelope.next()))
        }
        Some(_) => None,
        None => Some(records::encode(&freed(AddressRecord::lost(member)), &Envelope::first())),
    }
}

/// Whether the record of a member's address says so too. If it does not, it is another's and is left alone.
pub(super) fn is_held_by(row: &AddressRecord, member: &Member) -> bool {
    match (&row.holder, row.member) {
        (Some(_), Some(id)) => id == member.id,
        (holder, _) => holder.as_ref() == Some(&member.container),
    }
}
