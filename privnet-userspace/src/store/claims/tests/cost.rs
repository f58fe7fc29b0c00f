//! What a claim asks of the store, counted; and that a claim from an old image is as right as one from a new one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::super::occupancy::Read;
use super::*;
use crate::store::{CommitError, Entry, Key, LeaseId, Listing, Prefix, Revision, StoreError, StoreKind, Value, Watch};

/// A store that counts the reads, the entries that they return, and the transactions.
#[derive(Debug, Default)]
struct Counting {
    store: Memory,
    reads: AtomicUsize,
    entries: AtomicUsize,
    commits: AtomicUsize,
}

impl Counting {
    /// Reads, entries and transactions since the last call.
    fn take(&self) -> (usize, usize, usize) {
        let [reads, entries, commits] =
            [&self.reads, &self.entries, &self.commits].map(|count| count.swap(0, Ordering::Relaxed));
        (reads, entries, commits)
    }
}

#[async_trait]
impl Store for Counting {
    fn kind(&self) -> StoreKind {
        self.store.kind()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let found = self.store.get(key).await?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(usize::from(found.is_some()), Ordering::Relaxed);
        Ok(found)
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing, StoreError> {
        let listing = self.store.list(prefix).await?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(listing.entries.len(), Ordering::Relaxed);
        Ok(listing)
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch, StoreError> {
        self.store.watch(prefix, after).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.store.commit(transaction).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.grant_lease(ttl).await
    }

    async fn keep_lease_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_lease_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke_lease(lease).await
    }
}

/// What an agent has seen of a network once it has followed the store to here.
async fn seen(store: &dyn Store, network: &Network) -> Read {
    Read::from(store, network.id, &NothingSeen).await.expect("read")
}

#[tokio::test]
async fn a_claim_asks_as_little_in_a_large_network_as_in_a_small_one() {
    for members in [3, 300] {
        let store = Counting::default();
        let shop = network(&store, "shop").await;
        for key in 0..members {
            super::super::claim_member(&store, &claim(&shop, key), &seen(&store, &shop).await).await.expect("claimed");
        }
        let image = seen(&store, &shop).await;
        store.take();
        let next = super::super::claim_member(&store, &claim(&shop, members), &image).await.expect("claimed").member;
        assert_eq!(store.take(), (0, 0, 1), "one transaction and no question, of {members} members");
        assert_eq!(next.container, container(&format!("{}.web", members + 1)));

        // The image knows nothing of the last one: its number, then its address, are found to be taken.
        let after =
            super::super::claim_member(&store, &claim(&shop, members + 1), &image).await.expect("claimed").member;
        assert_eq!(store.take(), (1, 1, 3), "of {members} members");
        assert_eq!(after.container, container(&format!("{}.web", members + 2)));
        assert_ne!(after.address, next.address);

        release_member(&store, &after, End::by_its_host(NOW), &NothingSeen).await.expect("released");
        let (reads, entries, commits) = store.take();
        assert!(reads <= 2 && entries <= 2 && commits == 1, "{reads} {entries} {commits}");
        assert_consistent(&store).await;
    }
}

#[tokio::test]
async fn an_image_that_is_far_behind_is_read_anew_and_not_probed_address_by_address() {
    let store = Counting::default();
    let shop = network(&store, "shop").await;
    let image = seen(&store, &shop).await;
    for key in 0..100 {
        claim_member(&store, &claim(&shop, key)).await.expect("claimed");
    }
    store.take();
    super::super::claim_member(&store, &claim(&shop, 100), &image).await.expect("claimed");
    let (reads, _, commits) = store.take();
    assert!(reads < 10 && commits < 10, "{reads} reads, {commits} transactions");
    assert_consistent(&store).await;
}

#[tokio::test]
async fn an_old_image_refuses_nothing_that_the_store_has_and_gives_nothing_that_it_has_not() {
    let store = Memory::new();
    let small = create(&store, "small", Some("10.0.0.0/29")).await.expect("created");
    let empty = seen(&store, &small).await;
    let mut members = Vec::new();
    for key in 0..5 {
        members.push(claim_member(&store, &claim(&small, key)).await.expect("claimed"));
    }
    let full = seen(&store, &small).await;
    let error = super::super::claim_member(&store, &claim(&small, 5), &empty).await.expect_err("exhausted");
    assert!(matches!(error, MemberError::PoolExhausted { used: 5, .. }), "{error}");
    for (index, at) in [(3, 20), (1, 10)] {
        release_member(&store, &members[index], End::by_its_host(NOW + at), &NothingSeen).await.expect("released");
    }
    // The image says that nothing is free; the store says which address has rested for longest.
    let next = super::super::claim_member(&store, &claim(&small, 6), &full).await.expect("claimed").member;
    assert_eq!((next.address, next.generation), (members[1].address, 1));
    // This one says that an address was never given out that has been since: it rests, and is given out last.
    let early = MemberClaim { now_unix_seconds: NOW + 21, ..claim(&small, 7) };
    let error = super::super::claim_member(&store, &early, &empty).await.expect_err("it rests");
    assert!(matches!(error, MemberError::PoolExhausted { used: 4, resting: 1, .. }), "{error}");
    let asked = MemberClaim { address: Some(next.address), ..claim(&small, 8) };
    let error = super::super::claim_member(&store, &asked, &empty).await.expect_err("taken");
    assert!(matches!(&error, MemberError::AddressTaken { holder, .. } if *holder == next.container), "{error}");
    let asked = MemberClaim { name: wish("web", Some(next.container.number.get())), ..claim(&small, 9) };
    let error = super::super::claim_member(&store, &asked, &empty).await.expect_err("exists");
    assert!(matches!(&error, MemberError::MemberExists(stands) if stands.id == next.id), "{error}");
    assert_consistent(&store).await;
}

#[tokio::test]
async fn an_address_row_says_who_holds_it_who_held_it_and_by_whose_word_that_ended() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let first = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    let row = || async { address_record(&store, shop.id, first.address).await.expect("a row") };
    assert_eq!((row().await.member, row().await.before, row().await.count), (Some(first.id), None, 0));
    release_member(&store, &first, End::by_its_host(NOW), &NothingSeen).await.expect("released");
    assert_eq!((row().await.member, row().await.ended_by), (Some(first.id), Some(EndedBy::Host)));
    let at = MemberClaim { address: Some(first.address), ..claim(&shop, 2) };
    let second = claim_member(&store, &at).await.expect("claimed");
    assert_eq!((row().await.member, row().await.before, row().await.count), (Some(second.id), Some(first.id), 1));
    assert_eq!((row().await.ended_by, second.generation), (None, 1));
    let end = End { by: EndedBy::Operator, at_unix_seconds: NOW };
    release_member(&store, &second, end, &NothingSeen).await.expect("released");
    assert_eq!((row().await.member, row().await.ended_by), (Some(second.id), Some(EndedBy::Operator)));
}

#[tokio::test]
async fn what_a_claim_wrote_is_what_the_store_has() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let claimed = super::super::claim_member(&store, &claim(&shop, 1), &NothingSeen).await.expect("claimed");
    assert_eq!(claimed.records.len(), 3, "the member, its address, its public key");
    let ready =
        async |member: &Member| super::super::set_member_state(&store, member, MemberState::Ready).await.expect("told");
    let told = ready(&claimed.member).await;
    assert_eq!(told.records.len(), 1, "the member");
    assert_eq!(ready(&told.member).await.records, [], "it is so already");
    let written: BTreeMap<Key, Value> = claimed.records.into_iter().chain(told.records).collect();
    assert_eq!(written.len(), 3);
    for (key, value) in written {
        assert_eq!(store.get(&key).await.expect("read").expect("it is there").value, value);
    }
}
