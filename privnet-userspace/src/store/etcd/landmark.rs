//! Whether a store's history is the one that was seen.
//!
//! A revision is a number, and no name of a history: a store that is put back to an earlier copy, and written to since, has
//! revisions of before with other changes in them. Its cluster may have the same identity too, since that is made of its first
//! members' URLs. So the last change that was seen is looked for: where that key was changed to that value at that revision,
//! all that came before it is the same.

use tonic::Code;

use super::cluster::{Cluster, Failure, Repeat};
use super::protocol::{BY_MOD_REVISION, DELETE, DESCEND, KeyValue, RangeRequest, RangeResponse, WatchEvent, path};

/// The last change of a range of keys that was seen.
#[derive(Clone, Debug)]
pub(super) struct Landmark {
    key: Vec<u8>,
    revision: i64,
    /// What the key was changed to; nothing where it was deleted.
    value: Option<Vec<u8>>,
}

impl Landmark {
    /// The last change in a range as of a revision; nothing where the range was empty.
    ///
    /// # Errors
    /// `OUT_OF_RANGE` where the revision is compacted, or has not come yet.
    pub(super) async fn find(
        cluster: &Cluster,
        (key, range_end): (Vec<u8>, Vec<u8>),
        revision: i64,
    ) -> Result<Option<Self>, Failure> {
        let newest = RangeRequest {
            key,
            range_end,
            limit: 1,
            revision,
            sort_order: DESCEND,
            sort_target: BY_MOD_REVISION,
            keys_only: false,
        };
        let found = ask(cluster, newest).await?;
        Ok(found.map(|kv| Self { key: kv.key, revision: kv.mod_revision, value: Some(kv.value) }))
    }

    /// The change that an event tells of.
    pub(super) fn of(event: &WatchEvent) -> Option<Self> {
        let kv = event.kv.as_ref()?;
        let value = (event.kind != DELETE).then(|| kv.value.clone());
        Some(Self { key: kv.key.clone(), revision: kv.mod_revision, value })
    }

    /// The revision of the change.
    pub(super) const fn revision(&self) -> i64 {
        self.revision
    }

    /// Whether the store has it in its history.
    ///
    /// # Errors
    /// `OUT_OF_RANGE` where it is compacted.
    pub(super) async fn is_in(&self, cluster: &Cluster) -> Result<bool, Failure> {
        let at = |revision| RangeRequest { key: self.key.clone(), revision, ..RangeRequest::default() };
        let found = match ask(cluster, at(self.revision)).await {
            // A compaction tells of a revision that was; this one never came.
            Err(failure) if failure.status.code() == Code::OutOfRange && is_of_the_future(&failure) => {
                return Ok(false);
            }
            found => found?,
        };
        match (&self.value, found) {
            (Some(value), Some(kv)) => Ok(kv.mod_revision == self.revision && kv.value == *value),
            (None, None) => Ok(ask(cluster, at(self.revision - 1)).await?.is_some()),
            (Some(_), None) | (None, Some(_)) => Ok(false),
        }
    }
}

/// etcd's `ErrFutureRev`, beside `ErrCompacted` of the same code (etcd, api/v3rpc/rpctypes/error.go).
fn is_of_the_future(failure: &Failure) -> bool {
    failure.status.message().contains("future revision")
}

async fn ask(cluster: &Cluster, range: RangeRequest) -> Result<Option<KeyValue>, Failure> {
    let answer: RangeResponse = cluster.call(path::RANGE, range, Repeat::Freely).await?;
    Ok(answer.kvs.into_iter().next())
}
