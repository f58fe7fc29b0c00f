//! Further names of a membership: claimed, drained and released one by one. The last one that is released ends it.
//!
//! The member's record stands under its oldest name, where builds before this one look for it. A further name has a
//! pointer under a key of its own, so that a claim of it fails.

use super::claim::NameClaim;
use super::error::MemberError;
use super::free::{find_holder, refuse_lost, require_free};
use super::members::{Written, not_found};
use super::occupancy::{Found, Read, Seen};
use super::release::{End, is_held_by, release_member};
use super::{MAX_ATTEMPTS, STALE_CHOICES, unchanged};
use crate::model::{ContainerRef, Member, MemberId, MemberName, MemberState, NameOf, NetworkId};
use crate::store::contract::Store;
use crate::store::error::CommitError;
use crate::store::keys;
use crate::store::records::{self, AddressRecord, Envelope, MemberPointer, Stored};
use crate::store::transaction::{Expected, Transaction, Value};

/// How many names a membership can have: each is an operation of the transactions that change them all.
pub const MAX_NAMES: usize = 32;

/// Gives a membership a further name, and returns it as it is then; the new name is the last one.
///
/// # Errors
/// [`MemberError::MemberNotFound`] when the membership has ended; [`MemberError::MemberExists`] when another one has the
/// name; [`MemberError::TooManyNames`], [`MemberError::NumbersExhausted`], or the store's.
pub async fn add_name(store: &dyn Store, claim: &NameClaim, seen: &dyn Seen) -> Result<Written, MemberError> {
    let NameClaim { network, name: wish, .. } = claim;
    let network = *network;
    let (mut read, mut found, mut stale) = (None::<Read>, Found::default(), 0);
    for _ in 0..MAX_ATTEMPTS {
        let Some(stored) = membership(store, network, &claim.known_as, claim.member).await? else {
            return Err(not_found(network, &claim.known_as));
        };
        let chosen = match &read {
            Some(read) => read.choose_name(network, wish, &found),
            None => seen.choose_name(network, wish, &found),
        };
        let name = match chosen {
            Ok(name) if stale <= STALE_CHOICES => name,
            Err(error) if read.is_some() => return Err(error),
            Ok(_) | Err(_) => {
                (read, found, stale) = (Some(Read::from(store, network, seen).await?), Found::default(), 0);
                continue;
            }
        };
        refuse_lost(store, seen, network, &name, claim.member).await?;
        if stored.record.names.len() + 1 >= MAX_NAMES {
            return Err(MemberError::TooManyNames { network, holder: stored.record.container, most: MAX_NAMES });
        }
        let further = MemberName {
            container: name.clone(),
            app_name: wish.app_name.clone(),
            ports: wish.ports.clone(),
            draining: false,
            unknown: [].into(),
        };
        let mut member = stored.record.clone();
        member.names.push(further);
        let change = require_free(changed(&stored, &member), network, &name, &found)
            .put(keys::member_name(network, &name), pointer_to(&member, &stored));
        let written = Written::by(member, &change);
        match store.commit(change).await {
            Ok(revision) => {
                let container = &written.member.container;
                tracing::debug!(%network, %container, further = %name, %revision, "name claimed");
                return Ok(written);
            }
            // The membership itself was changed.
            Err(CommitError::Conflict { key, .. }) if key == keys::member(network, &stored.record.container) => {}
            Err(CommitError::Conflict { key, .. }) => {
                stale += 1;
                find_holder(store, network, (&name, &key), wish.number.is_some(), &mut found).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(MemberError::Contended)
}

/// Says of one name of a membership that it is about to be released: it leads to no address from then on.
///
/// # Errors
/// [`MemberError::MemberNotFound`] when the membership has it no more, or the store's.
pub async fn drain_name(
    store: &dyn Store,
    network: NetworkId,
    member: MemberId,
    name: &ContainerRef,
) -> Result<Written, MemberError> {
    for _ in 0..MAX_ATTEMPTS {
        let Some(stored) = membership(store, network, name, member).await? else {
            return Err(not_found(network, name));
        };
        let mut member = stored.record.clone();
        if member.container == *name {
            member.state = MemberState::Draining;
        }
        for further in member.names.iter_mut().filter(|further| further.container == *name) {
            further.draining = true;
        }
        if member == stored.record {
            return Ok(Written::nothing(member));
        }
        let change = changed(&stored, &member);
        let written = Written::by(member, &change);
        match store.commit(change).await {
            Ok(_) => return Ok(written),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(MemberError::Contended)
}

/// What the release of a name led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// It was the last name: the membership has ended.
    Membership(Member),
    /// The membership goes on under its other names.
    Name(Written),
}

/// Takes one name from a membership, and ends the membership with its last one; nothing when it did not have the name.
///
/// When the oldest name goes, the next one takes its place, also as the key of the record.
///
/// # Errors
/// [`MemberError::MemberExists`] when the name that comes next belongs to another member, which an agent of a build
/// without further names may have claimed; or the store's.
pub async fn release_name(
    store: &dyn Store,
    network: NetworkId,
    member: MemberId,
    name: &ContainerRef,
    end: End,
    seen: &dyn Seen,
) -> Result<Option<Released>, MemberError> {
    for _ in 0..MAX_ATTEMPTS {
        let Some(stored) = membership(store, network, name, member).await? else { return Ok(None) };
        let (member, change) = if stored.record.container == *name {
            let Some(moved) = to_next_name(store, &stored).await? else {
                return Ok(release_member(store, &stored.record, end, seen).await?.map(Released::Membership));
            };
            moved
        } else {
            let mut member = stored.record.clone();
            member.names.retain(|further| further.container != *name);
            let change = changed(&stored, &member).delete(keys::member_name(network, name));
            (member, change)
        };
        let written = Written::by(member, &change);
        match store.commit(change).await {
            Ok(revision) => {
                let container = &written.member.container;
                tracing::debug!(%network, %container, released = %name, %revision, "name released");
                return Ok(Some(Released::Name(written)));
            }
            Err(CommitError::Conflict { key, .. }) if key == keys::member(network, &written.member.container) => {
                if let Some(stands) = records::get_member(store, network, &written.member.container).await?
                    && stands.record.id != written.member.id
                {
                    return Err(MemberError::MemberExists(Box::new(stands.record)));
                }
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(MemberError::Contended)
}

/// The membership under its second name, and the transaction that moves it there; nothing when it has no second one.
async fn to_next_name(
    store: &dyn Store,
    stored: &Stored<Member>,
) -> Result<Option<(Member, Transaction)>, MemberError> {
    let before = &stored.record;
    let Some(NameOf { container, app_name, ports, state }) = before.each_name().nth(1) else { return Ok(None) };
    let member = Member {
        container: container.clone(),
        app_name: app_name.cloned(),
        ports: ports.clone(),
        state,
        names: before.names.iter().skip(1).cloned().collect(),
        ..before.clone()
    };
    let (network, name) = (member.network, &member.container);
    let row = store.get(&keys::address(network, member.address)).await?;
    let mut change = Transaction::new()
        .require(keys::member(network, &before.container), Expected::Revision(stored.revision))
        .require(keys::member(network, name), Expected::Absent)
        .require(keys::address(network, member.address), unchanged(row.as_ref()))
        .delete(keys::member(network, &before.container))
        .delete(keys::member_name(network, name))
        .put(keys::member(network, name), records::encode(&member, &stored.envelope.next()))
        .put(keys::public_key(network, member.public_key), pointer_to(&member, stored));
    for further in &member.names {
        change = change.put(keys::member_name(network, &further.container), pointer_to(&member, stored));
    }
    let row = row.as_ref().map(records::read::<AddressRecord>).transpose()?;
    if let Some(row) = row.filter(|row| is_held_by(&row.record, before)) {
        let held = AddressRecord { holder: Some(name.clone()), ..row.record };
        let held = records::encode(&held, &row.envelope.next());
        change = change.put(keys::address(network, member.address), held);
    }
    Ok(Some((member, change)))
}

/// The record of a membership, by any of its names.
async fn membership(
    store: &dyn Store,
    network: NetworkId,
    name: &ContainerRef,
    id: MemberId,
) -> Result<Option<Stored<Member>>, MemberError> {
    let found = records::find_member(store, network, name).await?;
    Ok(found.filter(|found| found.record.id == id && found.record.name(name).is_some()))
}

/// A transaction that replaces the record of a membership.
fn changed(stored: &Stored<Member>, member: &Member) -> Transaction {
    let key = keys::member(member.network, &member.container);
    Transaction::new()
        .require(key.clone(), Expected::Revision(stored.revision))
        .put(key, records::encode(member, &stored.envelope.next()))
}

/// A pointer to a membership as it is after `before`: it has the serial of the record that is written beside it.
fn pointer_to(member: &Member, before: &Stored<Member>) -> Value {
    let pointer = MemberPointer { holder: member.container.clone(), member: Some(member.id) };
    records::encode(&pointer, &Envelope::first().above(before.envelope.serial))
}
