//! The contract's words in etcd's: keys, revisions, transactions.
//!
//! etcd's revision of an empty store is 1, the contract's is 0: ours is always one less. A key that does not exist was put
//! by etcd's revision 0, to which no revision of ours belongs, so a compare with it never holds by mistake.

use super::protocol::{
    CREATE, Compare, Compared, DeleteRangeRequest, EQUAL, GREATER, KeyValue, MOD, PutRequest, RangeRequest, Request,
    RequestOp, TxnRequest, TxnResponse,
};
use crate::store::contract::Entry;
use crate::store::error::{CommitError, StoreError};
use crate::store::path::{Key, Prefix};
use crate::store::transaction::{Expected, LeaseId, Revision, Transaction, Write};

/// Where in etcd our keys are; the number changes when their form does.
const ROOT: &str = "/privnet/v1/";

pub(super) fn key(key: &Key) -> Vec<u8> {
    [ROOT, key.as_str()].concat().into_bytes()
}

/// Where all our keys are: a key that is none of them, and that a user of etcd who may read them may ask for.
pub(super) fn root() -> Vec<u8> {
    ROOT.into()
}

/// The range of the keys below a prefix, and its end.
pub(super) fn range(prefix: &Prefix) -> (Vec<u8>, Vec<u8>) {
    let start = [ROOT, prefix.as_str()].concat().into_bytes();
    let mut end = start.clone();
    // A prefix ends with '/', and '0' is the character after it.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (start, end)
}

/// A key of privnet; `None` for a key that another program put there, which has another form.
pub(super) fn parse_key(bytes: &[u8]) -> Option<Key> {
    let text = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_prefix(ROOT));
    let key = text.and_then(|text| text.parse().ok());
    if key.is_none() {
        tracing::warn!(key = %String::from_utf8_lossy(bytes), "a key below /privnet/v1/ in etcd is not a key of privnet and is ignored");
    }
    key
}

pub(super) fn revision(of_etcd: i64) -> Revision {
    Revision(u64::try_from(of_etcd).unwrap_or_default().saturating_sub(1))
}

pub(super) fn etcd_revision(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX - 1) + 1
}

pub(super) fn etcd_lease(lease: LeaseId) -> i64 {
    // The leases of etcd are positive: a number that does not fit belongs to none.
    i64::try_from(lease.0).unwrap_or(i64::MAX)
}

pub(super) fn entry(kv: KeyValue) -> Option<Entry> {
    let lease = u64::try_from(kv.lease).ok().filter(|lease| *lease != 0).map(LeaseId);
    Some(Entry { key: parse_key(&kv.key)?, value: kv.value.into(), revision: revision(kv.mod_revision), lease })
}

/// A transaction; where a compare does not hold, etcd reads the compared keys instead, and the values of those that were to be
/// written.
pub(super) fn transaction(transaction: &Transaction) -> TxnRequest {
    let found = |(key, _): &(Key, Expected)| {
        let keys_only = !transaction.writes.contains_key(key);
        let range = RangeRequest { key: self::key(key), keys_only, ..RangeRequest::default() };
        RequestOp { request: Some(Request::Range(range)) }
    };
    TxnRequest {
        compare: transaction.compares.iter().map(compare).collect(),
        success: transaction.writes.iter().map(write).collect(),
        failure: transaction.compares.iter().map(found).collect(),
    }
}

fn compare((key, expected): &(Key, Expected)) -> Compare {
    let (result, target, compared) = match expected {
        Expected::Absent => (EQUAL, CREATE, Compared::CreateRevision(0)),
        Expected::Exists => (GREATER, CREATE, Compared::CreateRevision(0)),
        Expected::Revision(revision) => (EQUAL, MOD, Compared::ModRevision(etcd_revision(*revision))),
    };
    Compare { result, target, key: self::key(key), compared: Some(compared) }
}

fn write((key, write): (&Key, &Write)) -> RequestOp {
    let key = self::key(key);
    let request = match write {
        Write::Put { value, lease } => {
            let lease = lease.map(etcd_lease).unwrap_or_default();
            Request::Put(PutRequest { key, value: value.to_vec(), lease })
        }
        Write::Delete => Request::DeleteRange(DeleteRangeRequest { key }),
    };
    RequestOp { request: Some(request) }
}

/// Whether a transaction that happened would not happen again: it changes what it compares.
pub(super) fn can_be_repeated(transaction: &Transaction) -> bool {
    transaction.compares.iter().any(|(key, expected)| match (expected, transaction.writes.get(key)) {
        (Expected::Absent, Some(Write::Put { .. })) | (Expected::Revision(_), Some(_)) => true,
        (Expected::Absent | Expected::Exists | Expected::Revision(_), _) => false,
    })
}

/// The revision at which a transaction happened whose compares do not hold now: each compared key that it writes is as it
/// would have written it. Nothing when one is not.
pub(super) fn happened_before(transaction: &Transaction, answer: &TxnResponse) -> Option<Revision> {
    let mut newest = None;
    let mut compared = false;
    for ((key, _), response) in transaction.compares.iter().zip(&answer.responses) {
        let found = response.range.as_ref().and_then(|range| range.kvs.first());
        match (transaction.writes.get(key), found) {
            (None, _) => continue,
            (Some(Write::Put { value, .. }), Some(found)) if found.value[..] == value[..] => {
                newest = newest.max(Some(found.mod_revision));
            }
            (Some(Write::Delete), None) => {}
            (Some(_), _) => return None,
        }
        compared = true;
    }
    let now = answer.header.unwrap_or_default().revision;
    compared.then(|| revision(newest.unwrap_or(now)))
}

/// The revision of a transaction, or the first compare that did not hold.
pub(super) fn outcome(transaction: &Transaction, answer: TxnResponse) -> Result<Revision, CommitError> {
    if answer.succeeded {
        return Ok(revision(answer.header.unwrap_or_default().revision));
    }
    for ((key, expected), response) in transaction.compares.iter().zip(answer.responses) {
        let kv = response.range.and_then(|range| range.kvs.into_iter().next());
        let found = kv.map(|kv| revision(kv.mod_revision));
        let holds = match expected {
            Expected::Absent => found.is_none(),
            Expected::Exists => found.is_some(),
            Expected::Revision(revision) => found == Some(*revision),
        };
        if !holds {
            return Err(CommitError::Conflict { key: key.clone(), expected: *expected, found });
        }
    }
    let detail = "it refused a transaction, and every compare of it holds".to_owned();
    Err(StoreError::Cluster { operation: "commit", detail }.into())
}
