//! Memberships that ended when their host was forgotten, and go on under the next instance of its agent.

use uuid::Uuid;

use super::error::MemberError;
use super::members::Written;
use super::{MAX_ATTEMPTS, unchanged};
use crate::model::Member;
use crate::store::contract::{Entry, Store};
use crate::store::error::CommitError;
use crate::store::keys;
use crate::store::path::Key;
use crate::store::records::{self, AddressRecord, EndedBy, Envelope, InstanceMark, MemberPointer, Stored};
use crate::store::transaction::{Expected, Transaction, Value};

/// Has a membership that an operator ended with its host's agent go on under the next instance of that agent, with its id,
/// address, generation, key and names. It was attached anew as of then. Returns nothing, and changes nothing, where its network
/// is gone, its address or one of its names was given out meanwhile, or another word has ended it.
///
/// # Errors
/// The store's, or that of a damaged record.
pub async fn revive_member(
    store: &dyn Store,
    before: &Stored<Member>,
    instance: Uuid,
    attached_unix_seconds: u64,
    mark: &InstanceMark,
) -> Result<Option<Written>, MemberError> {
    let member = Member { instance: Some(instance), ..before.record.clone() };
    let network = member.network;
    let record = keys::member(network, &member.container);
    let address = keys::address(network, member.address);
    for _ in 0..MAX_ATTEMPTS {
        let (standing, row) = (store.get(&record).await?, store.get(&address).await?);
        let known = standing.as_ref().map(records::read::<Member>).transpose()?;
        if let Some(known) = known.as_ref().filter(|known| known.record.instance == Some(instance)) {
            // An agent that was killed had come so far.
            let is_it = known.record.id == member.id;
            let entries = standing.iter().chain(&row).map(|entry| (entry.key.clone(), entry.value.clone()));
            let written = || Written { member: known.record.clone(), records: entries.collect(), deleted: Vec::new() };
            return Ok(is_it.then(written));
        }
        if known.as_ref().is_some_and(|known| known.record.id != member.id) {
            return Ok(None);
        }
        let Some(held) = held_again(&member, row.as_ref(), attached_unix_seconds, mark)? else { return Ok(None) };
        let envelope = before.envelope.next().above(known.map_or(0, |known| known.envelope.serial));
        let revival = Transaction::new()
            .require(keys::network(network), Expected::Exists)
            .require(keys::network_mark(network), Expected::Absent)
            .require(record.clone(), unchanged(standing.as_ref()))
            .require(address.clone(), unchanged(row.as_ref()))
            .put(record.clone(), records::encode(&member, &envelope))
            .put(address.clone(), held)
            .put(keys::members_fence(network), [])
            .put(keys::all_members_fence(), []);
        let Some(revival) = with_pointers(store, revival, &member).await? else { return Ok(None) };
        let written = Written::by(member.clone(), &revival);
        match store.commit(revival).await {
            Ok(revision) => {
                let Member { container, address, .. } = &member;
                tracing::debug!(%network, %container, %address, %revision, "member goes on");
                return Ok(Some(written));
            }
            Err(CommitError::Conflict { key, .. }) if is_gone(&key, &member) => return Ok(None),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(MemberError::Contended)
}

/// Whether a conflict at this key says that the network is gone, or a name is another membership's.
fn is_gone(key: &Key, member: &Member) -> bool {
    let network = member.network;
    let further = member.names.iter().map(|name| keys::member(network, &name.container));
    let taken = [keys::network(network), keys::network_mark(network), keys::member_name(network, &member.container)];
    further.chain(taken).any(|gone| gone == *key)
}

/// The row of a membership that goes on: above the one that says its end. Nothing where that is another end than the mark's.
fn held_again(
    member: &Member,
    row: Option<&Entry>,
    at: u64,
    mark: &InstanceMark,
) -> Result<Option<Value>, MemberError> {
    let Some(entry) = row else {
        let row = AddressRecord::lost(member).again(member, at);
        return Ok(Some(records::encode(&row, &Envelope::first())));
    };
    let Stored { record: row, envelope, .. } = records::read::<AddressRecord>(entry)?;
    let is_by_mark =
        || row.ended_by == Some(EndedBy::Operator) && row.released_unix_seconds == Some(mark.at_unix_seconds);
    let is_its = row.member == Some(member.id) && (row.holder.is_some() || is_by_mark());
    Ok(is_its.then(|| records::encode(&row.again(member, at), &envelope.next())))
}

/// Has the key and the further names lead to the membership again; nothing where one of them is another's.
async fn with_pointers(
    store: &dyn Store,
    mut revival: Transaction,
    member: &Member,
) -> Result<Option<Transaction>, MemberError> {
    let network = member.network;
    revival = revival.require(keys::member_name(network, &member.container), Expected::Absent);
    for name in &member.names {
        revival = revival.require(keys::member(network, &name.container), Expected::Absent);
    }
    let names = member.names.iter().map(|name| keys::member_name(network, &name.container));
    for pointer in names.chain([keys::public_key(network, member.public_key)]) {
        let entry = store.get(&pointer).await?;
        let known = entry.as_ref().map(records::read::<MemberPointer>).transpose()?;
        if known.as_ref().is_some_and(|known| known.record.member != Some(member.id)) {
            return Ok(None);
        }
        let envelope = known.map_or_else(Envelope::first, |known| known.envelope.next());
        let leads = MemberPointer { holder: member.container.clone(), member: Some(member.id) };
        revival = revival
            .require(pointer.clone(), unchanged(entry.as_ref()))
            .put(pointer, records::encode(&leads, &envelope));
    }
    Ok(Some(revival))
}
