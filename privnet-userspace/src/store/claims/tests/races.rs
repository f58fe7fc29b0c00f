//! Claims that meet. The tasks run on several threads, so that they really do.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::*;
use crate::soak::Soak;
use crate::store::Embedded;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_claims_of_one_address_exactly_one_wins_in_memory() {
    race_for_one_address(Arc::new(Memory::new()), 1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_claims_of_one_address_exactly_one_wins_on_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    race_for_one_address(Arc::new(Embedded::open(directory.path()).await.expect("opened")), 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_claims_with_one_public_key_exactly_one_wins() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let shop = network(&*store, "shop").await;
    for round in rounds(300) {
        // The key is all that they have in common.
        let racers = [1, 2].map(|wanted| {
            let address = Some(Ipv4Addr::new(10, 240, 1, wanted));
            let claim = MemberClaim { address, name: wish("web", Some(wanted.into())), ..claim(&shop, round) };
            let store = store.clone();
            tokio::spawn(async move { claim_member(&*store, &claim).await })
        });
        let [first, second] = racers;
        let (winner, loser) = match (first.await.expect("joined"), second.await.expect("joined")) {
            (Ok(winner), Err(loser)) | (Err(loser), Ok(winner)) => (winner, loser),
            (first, second) => panic!("round {round}: {first:?} and {second:?}"),
        };
        let MemberError::PublicKeyInUse { holder } = &loser else { panic!("round {round}: {loser}") };
        assert_eq!(*holder, winner.container);
        release_member(&*store, &winner, End::by_its_host(NOW), &NothingSeen).await.expect("released");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn claims_without_a_wish_get_different_numbers_and_addresses() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let shop = network(&*store, "shop").await;
    let mut tasks = JoinSet::new();
    for key in 0..64 {
        let (store, claim) = (store.clone(), claim(&shop, key));
        tasks.spawn(async move { claim_member(&*store, &claim).await.expect("claimed") });
    }
    let members = tasks.join_all().await;
    let addresses: BTreeSet<_> = members.iter().map(|member| member.address).collect();
    let numbers: BTreeSet<u32> = members.iter().map(|member| member.container.number.get()).collect();
    assert_eq!((addresses.len(), numbers), (64, (1..=64).collect()));
    assert_consistent(&*store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn networks_created_at_once_get_different_names_vnis_and_subnets() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let mut tasks = JoinSet::new();
    for index in 0..32 {
        let store = store.clone();
        // Each name twice.
        tasks.spawn(async move { create(&*store, &format!("network-{}", index / 2), None).await });
    }
    let results = tasks.join_all().await;
    let made: Vec<&Network> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    let refused = results.iter().filter(|result| matches!(result, Err(NetworkError::NameTaken { .. }))).count();
    let subnets: BTreeSet<_> = made.iter().map(|network| network.subnet).collect();
    assert_eq!((made.len(), refused, subnets.len()), (16, 16, 16));
    assert_consistent(&*store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_network_is_never_deleted_under_a_member() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let mut outcomes = BTreeSet::new();
    for round in rounds(300) {
        let made = network(&*store, "race").await;
        let claiming = tokio::spawn({
            let (store, claim) = (store.clone(), claim(&made, round));
            async move { claim_member(&*store, &claim).await }
        });
        let deleting = tokio::spawn({
            let store = store.clone();
            async move { delete_network(&*store, made.id, &NothingSeen).await }
        });
        match (claiming.await.expect("joined"), deleting.await.expect("joined")) {
            (Ok(member), Err(NetworkError::HasMembers { members, .. })) => {
                assert_eq!(members.len(), 1);
                release_member(&*store, &member, End::by_its_host(NOW), &NothingSeen).await.expect("released");
                delete_network(&*store, made.id, &NothingSeen).await.expect("deleted");
                outcomes.insert("claimed");
            }
            (Err(MemberError::NetworkNotFound { .. }), Ok(_)) => {
                outcomes.insert("deleted");
            }
            (claimed, deleted) => panic!("round {round}: {claimed:?} and {deleted:?}"),
        }
        assert_consistent(&*store).await;
    }
    assert!(!outcomes.is_empty());
}

/// The rounds of a race; a claim takes its key from the number of one.
fn rounds(short: u64) -> impl Iterator<Item = u32> {
    Soak::of_rounds(short).rounds().map(|round| u32::try_from(round).expect("fewer than there are keys"))
}

async fn race_for_one_address(store: Arc<dyn Store>, rounds: u64) {
    let shop = network(&*store, "shop").await;
    let address = Ipv4Addr::new(10, 240, 1, 1);
    for round in self::rounds(rounds) {
        let racers = [round * 2, round * 2 + 1].map(|key| {
            let claim =
                MemberClaim { address: Some(address), name: wish("web", Some(key % 1000 + 1)), ..claim(&shop, key) };
            let store = store.clone();
            tokio::spawn(async move { claim_member(&*store, &claim).await })
        });
        let [first, second] = racers;
        let (winner, loser) = match (first.await.expect("joined"), second.await.expect("joined")) {
            (Ok(winner), Err(loser)) | (Err(loser), Ok(winner)) => (winner, loser),
            (first, second) => panic!("round {round}: {first:?} and {second:?}"),
        };
        let MemberError::AddressTaken { holder, .. } = &loser else { panic!("round {round}: {loser}") };
        assert_eq!(*holder, winner.container);
        assert_eq!(winner.generation, (round % 256) as u8);
        assert_consistent(&*store).await;
        release_member(&*store, &winner, End::by_its_host(NOW), &NothingSeen).await.expect("released");
    }
}
