//! The store of many hosts: an etcd cluster, 3.4 or later.
//!
//! - [`cluster`]: the members that are asked, for how long, and which outcomes a failure leaves unknown.
//! - [`encode`] and [`protocol`]: the contract's words in etcd's, and etcd's on the wire.
//! - [`follow`]: watches that go on where they broke, or say that they cannot.
//!
//! All keys are below `/privnet/v1/`; others in the same cluster are never touched, but their transactions count in the
//! revision. Only this folder speaks gRPC.

mod cluster;
mod encode;
mod follow;
mod landmark;
mod login;
mod options;
mod protocol;
#[cfg(test)]
pub(in crate::store) mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::Code;

use self::cluster::{Cluster, Failure, Repeat};
pub use self::options::{EtcdLogin, EtcdOptions, EtcdTls};
use self::protocol::{
    Done, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRequest, RangeRequest, RangeResponse,
    TxnResponse, path,
};
use super::contract::{Entry, Listing, Store, StoreKind, Watch, check_size};
use super::error::{CommitError, OpenError, StoreError};
use super::path::{Key, Prefix};
use super::transaction::{LeaseId, Revision, Transaction, Write};

/// How many keys are read at a time.
const PAGE_KEYS: i64 = 2000;
/// How often a listing begins anew because what it was reading was compacted meanwhile.
const MAX_ATTEMPTS: u32 = 3;

/// A store in an etcd cluster. Dropping it ends its watches with a resync; its leases live on until they expire.
#[derive(Debug)]
pub struct Etcd {
    cluster: Arc<Cluster>,
    /// Dropped with the store.
    open: watch::Sender<()>,
}

impl Etcd {
    /// A store in a cluster. Does not connect yet, so the cluster need not be there.
    ///
    /// # Errors
    /// When a URL or a certificate is invalid.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(options: &EtcdOptions) -> Result<Self, OpenError> {
        Ok(Self { cluster: Arc::new(Cluster::new(options)?), open: watch::Sender::new(()) })
    }

    /// Reads every key below `prefix`, page after page, as of the revision of the first page.
    async fn read_all(&self, prefix: &Prefix) -> Result<Listing, Failure> {
        let (mut start, end) = encode::range(prefix);
        let mut entries = Vec::new();
        let mut revision = 0;
        loop {
            let request = RangeRequest {
                key: start,
                range_end: end.clone(),
                limit: PAGE_KEYS,
                revision,
                ..RangeRequest::default()
            };
            let page: RangeResponse = self.cluster.call(path::RANGE, request, Repeat::Freely).await?;
            if revision == 0 {
                revision = page.header.unwrap_or_default().revision;
            }
            let next = page.kvs.last().map(|kv| [kv.key.as_slice(), &[0]].concat());
            entries.extend(page.kvs.into_iter().filter_map(encode::entry));
            match next.filter(|_| page.more) {
                Some(next) => start = next,
                None => return Ok(Listing { entries, revision: encode::revision(revision) }),
            }
        }
    }
}

#[async_trait]
impl Store for Etcd {
    fn kind(&self) -> StoreKind {
        StoreKind::Etcd
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.cluster.head().await.map(drop).map_err(|failure| failure.explain("ask"))
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let request = RangeRequest { key: encode::key(key), ..RangeRequest::default() };
        let answer: Result<RangeResponse, _> = self.cluster.call(path::RANGE, request, Repeat::Freely).await;
        let answer = answer.map_err(|failure| failure.explain("read"))?;
        Ok(answer.kvs.into_iter().find_map(encode::entry))
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing, StoreError> {
        let mut attempts = 1;
        loop {
            match self.read_all(prefix).await {
                Err(failure) if failure.status.code() == Code::OutOfRange && attempts < MAX_ATTEMPTS => attempts += 1,
                listing => return listing.map_err(|failure| failure.explain("list")),
            }
        }
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch, StoreError> {
        let watch = follow::watch(Arc::clone(&self.cluster), self.open.subscribe(), prefix, after).await;
        watch.map_err(|failure| failure.explain("watch"))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        check_size(&transaction)?;
        let cluster = Arc::clone(&self.cluster);
        // A task of its own: it goes on when the caller stops waiting.
        let commit = tokio::spawn(async move { commit(&cluster, &transaction).await });
        commit.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        // Whole seconds, rounded up; etcd makes it longer still when it is shorter than an election.
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = LeaseGrantRequest { ttl: i64::try_from(seconds.max(1)).unwrap_or(i64::MAX) };
        // A lease that was granted twice does no harm: the one whose answer was lost expires.
        let answer = self.cluster.call::<_, LeaseGrantResponse>(path::LEASE_GRANT, request, Repeat::Freely).await;
        let answer = answer.map_err(|failure| failure.explain("grant a lease"))?;
        match u64::try_from(answer.id) {
            Ok(id) if id != 0 && answer.error.is_empty() => Ok(LeaseId(id)),
            Ok(_) | Err(_) => Err(StoreError::Cluster { operation: "grant a lease", detail: answer.error }),
        }
    }

    async fn keep_lease_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let request = LeaseRequest { id: encode::etcd_lease(lease) };
        let mut attempts = 1;
        let answer: LeaseKeepAliveResponse = loop {
            match self.beat(request).await {
                Ok(answer) => break answer,
                Err(_) if attempts < MAX_ATTEMPTS => attempts += 1,
                Err(failure) => return Err(failure.explain("keep a lease alive")),
            }
        };
        if answer.ttl > 0 { Ok(()) } else { Err(StoreError::LeaseNotFound(lease)) }
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let request = LeaseRequest { id: encode::etcd_lease(lease) };
        match self.cluster.call::<_, Done>(path::LEASE_REVOKE, request, Repeat::Freely).await {
            Err(failure) if failure.status.code() != Code::NotFound => Err(failure.explain("revoke a lease")),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl Etcd {
    /// Keeps a lease alive once: etcd wants a stream for it, which ends with its answer.
    async fn beat(&self, request: LeaseRequest) -> Result<LeaseKeepAliveResponse, Failure> {
        // The request's side stays open until the answer is there: etcd may take its end for a farewell.
        let requests = stream::once(std::future::ready(request));
        let requests = futures::StreamExt::chain(requests, stream::pending());
        let mut answers = self.cluster.stream(path::LEASE_KEEP_ALIVE, requests).await?;
        self.cluster.next_of(&mut answers).await
    }
}

/// Commits a transaction. One without an answer is sent again where its own compares make that harmless: if it happened the
/// first time, they do not hold the second time, and what they find says so.
async fn commit(cluster: &Cluster, transaction: &Transaction) -> Result<Revision, CommitError> {
    let deadline = cluster.deadline();
    let request = encode::transaction(transaction);
    let mut may_have_happened = false;
    loop {
        let answer = cluster.call_until::<_, TxnResponse>(deadline, path::TXN, request.clone(), Repeat::IfUnsent).await;
        let failure = match answer {
            Ok(answer) if may_have_happened && !answer.succeeded => {
                return match encode::happened_before(transaction, &answer) {
                    Some(revision) => Ok(revision),
                    None => encode::outcome(transaction, answer),
                };
            }
            Ok(answer) => return encode::outcome(transaction, answer),
            Err(failure) => failure,
        };
        may_have_happened |= failure.is_unknown();
        if !may_have_happened {
            return Err(refusal(transaction, &failure).into());
        }
        let pause = cluster.timing.pause();
        if !encode::can_be_repeated(transaction) || Instant::now() + pause >= deadline {
            return Err(failure.explain_unknown().into());
        }
        sleep(pause).await;
    }
}

/// The error for a transaction that did not happen.
fn refusal(transaction: &Transaction, failure: &Failure) -> StoreError {
    let lease = transaction.writes.values().find_map(|write| match write {
        Write::Put { lease, .. } => *lease,
        Write::Delete => None,
    });
    match lease {
        // The only thing that a transaction of ours names and etcd may not find.
        Some(lease) if failure.status.code() == Code::NotFound => StoreError::LeaseNotFound(lease),
        Some(_) | None => failure.explain("commit"),
    }
}
