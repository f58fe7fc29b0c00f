//! What is more than one transaction: an agent that ends between any two of them leaves the rest to another host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::super::Belief;
use super::super::import::ComeBack;
use super::lab::{HOSTS, LATER, Lab, presence};
use crate::store::claims;
use crate::store::records::{self, Envelope, InstanceMark, NetworkMark};
use crate::store::{Key, Memory, Store as _, Transaction, Value, keys};

/// More than two transactions take.
const FREE: u8 = 120;

/// Two hosts with a member each in a network in which so many addresses were let go.
async fn with_free_addresses() -> Lab {
    let mut lab = Lab::new().await;
    for host in 0..HOSTS.len() {
        let written = lab.claim(host, None).await.expect("claimed");
        lab.note(&written);
        lab.follow();
    }
    let text = r#"{"version":1,"serial":2,"holder":null,"generation":0,"count":256,"released_unix_seconds":5}"#;
    let free = (0..FREE).map(|last| keys::address(lab.network.id, Ipv4Addr::new(10, 0, 100, last)));
    let free: Vec<(Key, Value)> = free.map(|key| (key, text.as_bytes().into())).collect();
    for batch in free.chunks(100) {
        let put = |transaction: Transaction, (key, value): &(Key, Value)| transaction.put(key.clone(), value.clone());
        lab.store.commit(batch.iter().fold(Transaction::new(), put)).await.expect("written");
    }
    lab.truth.extend(free);
    lab.follow();
    lab
}

/// What a host's agent has to write by now.
fn due(lab: &Lab, host: usize) -> Vec<Transaction> {
    let repairs = lab.worlds[host].belief(|belief| belief.repairs(lab.now));
    repairs.into_iter().flat_map(|repair| repair.transactions).collect()
}

/// The first host's agent writes so many of its transactions, and ends. Returns all that it had to write.
async fn begin(lab: &mut Lab, most: usize) -> Vec<Transaction> {
    lab.now += LATER;
    let all = due(lab, 0);
    for transaction in all.iter().take(most) {
        lab.store.commit(transaction.clone()).await.expect("as it was seen");
    }
    lab.watches[0] = None;
    lab.store.commit(Transaction::new().delete(presence(0))).await.expect("gone");
    follow(lab).await;
    all
}

/// A host's agent writes what is left, until nothing is.
async fn finish(lab: &mut Lab, host: usize) {
    for round in 0.. {
        assert!(round < 5, "it never ends: {:?}", due(lab, host));
        lab.now += LATER;
        let all = due(lab, host);
        if all.is_empty() {
            break;
        }
        for transaction in all {
            lab.store.commit(transaction).await.expect("as it was seen");
        }
        follow(lab).await;
    }
}

/// A task that never waits is told by the runtime, after some turns, that nothing is there yet: so it waits once.
async fn follow(lab: &mut Lab) {
    tokio::task::yield_now().await;
    lab.follow();
}

fn writes_to(transaction: &Transaction, prefix: &str) -> usize {
    transaction.writes.keys().filter(|key| key.as_str().starts_with(prefix)).count()
}

#[tokio::test]
async fn a_put_back_that_ends_between_two_transactions_is_finished_by_another_host() {
    for most in 0.. {
        let mut lab = with_free_addresses().await;
        let everything = lab.listing().await.entries.into_iter().map(|entry| entry.key);
        let lost: Vec<Key> = everything.filter(|key| *key != presence(0) && *key != presence(1)).collect();
        for batch in lost.chunks(100) {
            let delete = batch.iter().cloned().fold(Transaction::new(), Transaction::delete);
            lab.store.commit(delete).await.expect("lost");
        }
        lab.follow();
        let all = begin(&mut lab, most).await;
        let of_rows = all.iter().filter(|transaction| writes_to(transaction, "addresses/") > 1).count();
        assert!(of_rows > 2, "{of_rows} batches of free addresses");
        assert!(writes_to(&all[0], "networks/") == 1, "the network comes first: {:?}", all[0]);
        finish(&mut lab, 1).await;
        lab.check_store().await;
        if most >= all.len() {
            break;
        }
    }
}

/// Otherwise each of them costs a look at all that is lost yet, and a store of many members is not soon followed again.
#[tokio::test]
async fn what_hosts_put_back_after_a_loss_of_everything_is_not_weighed() {
    let mut lab = with_free_addresses().await;
    let everything = lab.listing().await.entries.into_iter().map(|entry| entry.key);
    let lost: Vec<Key> = everything.filter(|key| *key != presence(0) && *key != presence(1)).collect();
    let delete = |lost: &[Key]| lost.iter().cloned().fold(Transaction::new(), Transaction::delete);
    for batch in lost.chunks(100) {
        lab.store.commit(delete(batch)).await.expect("lost");
    }
    follow(&mut lab).await;
    let (mut put_back, before) = (0, lab.came_back);
    for host in [0, 1, 0] {
        for transaction in due(&lab, host) {
            lab.store.commit(transaction).await.expect("as it was seen");
            put_back += 1;
        }
        follow(&mut lab).await;
        lab.now += LATER;
    }
    lab.check_store().await;
    assert!(put_back > 4, "{put_back} transactions");
    assert_eq!(lab.came_back - before, put_back * HOSTS.len(), "each host takes back each");
    // The twin: a later form of a record may end what is believed.
    let before = lab.came_back;
    let host = super::lab::host_record(0);
    let told = super::lab::told_by(0, 9, lab.instances[0]);
    lab.store.commit(Transaction::new().put(host.clone(), told.clone())).await.expect("told");
    lab.truth.insert(host, told);
    follow(&mut lab).await;
    assert_eq!(lab.came_back, before);
}

#[tokio::test]
async fn the_end_of_a_network_that_ends_between_two_transactions_is_finished_by_another_host() {
    for most in 0.. {
        let mut lab = with_free_addresses().await;
        let network = lab.network.clone();
        let (name, by) = (network.name.clone(), HOSTS[0].parse().expect("a host"));
        let mark = NetworkMark { network: network.id, name, by, at_unix_seconds: 9 };
        // The host of the operator dies behind the mark.
        let marked = Transaction::new().put(keys::network_mark(network.id), records::encode(&mark, &Envelope::first()));
        lab.store.commit(marked).await.expect("marked");
        lab.follow();
        let all = begin(&mut lab, most).await;
        assert!(all.len() > 2, "{} batches", all.len());
        finish(&mut lab, 1).await;
        let left = lab.listing().await.entries.into_iter().map(|entry| entry.key);
        let left: Vec<Key> = left.filter(|key| !key.as_str().starts_with("fences/")).collect();
        let of_hosts = [keys::host, keys::presence].map(|of| of(&HOSTS[1].parse().expect("a host")));
        let stays = [of_hosts.as_slice(), &[super::lab::host_record(0), keys::network_mark(network.id)]].concat();
        assert_eq!(left.iter().collect::<BTreeSet<_>>(), stays.iter().collect(), "after {most}");
        if most >= all.len() {
            break;
        }
    }
}

/// The agent that goes on is the next one on the same host, which has the snapshot of the one before.
#[tokio::test]
async fn a_host_with_many_members_that_is_forgotten_ends_in_batches_that_the_next_agent_finishes() {
    const MEMBERS: usize = 60;
    // Before the first, between the batches of rows, behind them, and between two members.
    for most in [0, 1, 2, 3, 30] {
        let mut lab = Lab::new().await;
        lab.network = large_network(&lab).await;
        lab.follow();
        for host in std::iter::once(0).chain([1; MEMBERS]) {
            let written = lab.claim(host, None).await.expect("claimed");
            lab.note(&written);
            follow(&mut lab).await;
        }
        lab.watches[1] = None;
        lab.store.commit(Transaction::new().delete(presence(1))).await.expect("gone");
        let [host, by] = [1, 0].map(|host| HOSTS[host].parse().expect("a host"));
        let instance = lab.instances[1];
        let mark = InstanceMark { instance, host, by, at_unix_seconds: 1_000_000 };
        let marked = Transaction::new().put(keys::instance_mark(instance), records::encode(&mark, &Envelope::first()));
        lab.store.commit(marked).await.expect("marked");
        follow(&mut lab).await;
        let all = begin(&mut lab, most).await;
        let of_rows = all.iter().filter(|transaction| writes_to(transaction, "addresses/") > 0).count();
        assert!(of_rows > 1 && all.len() >= of_rows + MEMBERS, "{of_rows} of {}", all.len());
        lab.remember(0);
        lab.read_again(0).await;
        finish(&mut lab, 0).await;
        let left = lab.listing().await.entries;
        let is_of_member = |key: &&Key| ["members/", "public-keys/"].iter().any(|it| key.as_str().starts_with(it));
        assert_eq!(left.iter().map(|entry| &entry.key).filter(is_of_member).count(), 2, "its own, after {most}");
        let rows = left.iter().filter(|entry| entry.key.as_str().starts_with("addresses/"));
        let ended = rows.filter(|row| String::from_utf8_lossy(&row.value).contains(r#""ended_by":"operator""#));
        assert_eq!(ended.count(), MEMBERS, "after {most}");
    }
}

/// The operator gives the same copy again, at a host that knows nothing of the network either.
#[tokio::test]
async fn an_import_that_ends_between_two_transactions_goes_on_at_another_host() {
    let lab = with_free_addresses().await;
    let saved: BTreeMap<Key, Value> =
        lab.listing().await.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    let lacking = async |store: &Memory| {
        let listing = store.list(&keys::everything()).await.expect("listed");
        let belief = Belief::new("c".parse().expect("a host"));
        let import = belief.lacking(&listing, &saved, ComeBack::of(&listing, false)).expect("readable");
        assert_eq!(import.passed_over, BTreeSet::new());
        import.transactions
    };
    for most in 0.. {
        let store = Memory::new();
        let all = lacking(&store).await;
        assert!(all.len() > 2, "{} batches", all.len());
        for transaction in all.iter().take(most) {
            store.commit(transaction.clone()).await.expect("as it was listed");
        }
        let rest = lacking(&store).await;
        assert_eq!(rest.is_empty(), most >= all.len(), "after {most}");
        for transaction in &rest {
            store.commit(transaction.clone()).await.expect("as it was listed");
        }
        let listing = store.list(&keys::everything()).await.expect("listed");
        let stored: BTreeMap<Key, Value> = listing.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        assert_eq!(stored, lab.truth, "after {most}");
        if rest.is_empty() {
            break;
        }
    }
}

async fn large_network(lab: &Lab) -> crate::model::Network {
    let wanted = claims::NewNetwork {
        name: "large".parse().expect("a name"),
        subnet: Some("10.1.0.0/22".parse().expect("a prefix")),
        avoided: Vec::new(),
        mtu: 1390,
        names: crate::model::NameOptions::default(),
        held: Vec::new(),
        now_unix_seconds: 1,
    };
    let mut rng: rand::rngs::StdRng = rand::SeedableRng::seed_from_u64(9);
    claims::create_network(&lab.store, &wanted, &mut rng).await.expect("created")
}
