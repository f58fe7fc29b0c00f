//! Creating and deleting networks.

use std::collections::BTreeSet;

use super::*;
use crate::ipam::InvalidSubnet;
use crate::model::MemberState;
use crate::store::records::RecordError;

#[tokio::test]
async fn a_network_gets_a_vni_and_the_next_subnet_and_is_found_by_its_name() {
    let store = Memory::new();
    let mut vnis = BTreeSet::new();
    for (name, subnet) in [("shop", "10.240.0.0/22"), ("blog", "10.240.4.0/22"), ("bank", "10.240.8.0/22")] {
        let made = network(&store, name).await;
        assert_eq!((made.subnet.to_string().as_str(), made.mtu, made.created_unix_seconds), (subnet, 1390, NOW));
        let found = records::get_network(&store, made.id).await.expect("read").expect("exists");
        assert_eq!(found.record, made);
        vnis.insert(made.vni);
    }
    assert_eq!(vnis.len(), 3);
    assert_consistent(&store).await;
}

#[tokio::test]
async fn a_name_is_given_once_until_its_network_is_deleted() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let error = create(&store, "shop", None).await.expect_err("taken");
    assert!(matches!(&error, NetworkError::NameTaken { id, .. } if *id == shop.id), "{error}");
    assert!(error.to_string().contains(&shop.id.to_string()), "{error}");
    assert_eq!(delete_network(&store, shop.id, &NothingSeen).await.expect("deleted"), shop);
    let again = network(&store, "shop").await;
    assert_ne!(again.id, shop.id);
    assert_consistent(&store).await;
}

#[tokio::test]
async fn a_subnet_may_be_chosen_and_repeated_but_must_be_valid() {
    let store = Memory::new();
    for name in ["one", "two"] {
        let made = create(&store, name, Some("10.240.0.0/24")).await.expect("created");
        assert_eq!(made.subnet.to_string(), "10.240.0.0/24");
    }
    assert_eq!(network(&store, "three").await.subnet.to_string(), "10.240.4.0/22");
    let error = create(&store, "four", Some("8.8.8.0/24")).await.expect_err("not private");
    assert!(matches!(error, NetworkError::InvalidSubnet(InvalidSubnet::NotPrivate { .. })), "{error}");
    assert_eq!(records::list_networks(&store).await.expect("listed").records.len(), 3);
}

#[tokio::test]
async fn a_network_with_members_is_not_deleted() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let one = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    let two = claim_member(&store, &claim(&shop, 2)).await.expect("claimed");
    let error = delete_network(&store, shop.id, &NothingSeen).await.expect_err("has members");
    assert!(matches!(&error, NetworkError::HasMembers { members, .. } if members.len() == 2), "{error}");
    set_member_state(&store, &one, MemberState::Ready).await.expect("not disturbed");
    for member in [one, two] {
        release_member(&store, &member, End::by_its_host(NOW), &NothingSeen).await.expect("released");
    }
    delete_network(&store, shop.id, &NothingSeen).await.expect("empty");
    let error = delete_network(&store, shop.id, &NothingSeen).await.expect_err("gone");
    assert!(matches!(error, NetworkError::NotFound { id } if id == shop.id), "{error}");
    // Nothing of it is left but the fence that keeps subnets apart.
    for prefix in ["networks/", "names/", "vnis/", "members/", "addresses/", "public-keys/", "fences/members/"] {
        let listing = store.list(&prefix.parse().expect("a prefix")).await.expect("listed");
        assert_eq!(listing.entries, [], "{prefix}");
    }
}

#[tokio::test]
async fn what_an_interrupted_deletion_left_is_removed_and_nothing_else() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    let gone = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c".parse().expect("an id");
    let free = AddressRecord {
        holder: None,
        count: 3,
        released_unix_seconds: Some(NOW),
        member: None,
        before: None,
        ended_by: Some(EndedBy::Host),
        attached_unix_seconds: None,
    };
    for last in 0..=250 {
        let key = keys::address(gone, Ipv4Addr::new(10, 240, 0, last));
        store.commit(Transaction::new().put(key, records::encode(&free, &Envelope::first()))).await.expect("committed");
    }
    assert_eq!(remove_leftovers(&store, &BTreeSet::new()).await.expect("removed"), 251);
    assert_eq!(remove_leftovers(&store, &BTreeSet::new()).await.expect("nothing to do"), 0);
    assert_eq!(store.list(&keys::all_addresses()).await.expect("listed").entries.len(), 1);
    assert_consistent(&store).await;
}

#[tokio::test]
async fn a_damaged_network_is_named_and_stops_what_depends_on_it() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let key = keys::network(shop.id);
    store.commit(Transaction::new().put(key.clone(), *b"{\"version\":1}")).await.expect("damaged");
    let error = create(&store, "blog", None).await.expect_err("the subnets in use are not known");
    assert!(
        matches!(&error, NetworkError::Record(RecordError::Corrupt { key: named, .. }) if *named == key),
        "{error}"
    );
    let error = claim_member(&store, &claim(&shop, 1)).await.expect_err("its subnet is not known");
    assert!(matches!(&error, MemberError::Record(RecordError::Corrupt { key: named, .. }) if *named == key), "{error}");
    store.commit(Transaction::new().put(key, records::encode(&shop, &Envelope::first()))).await.expect("repaired");
    claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    network(&store, "blog").await;
}

#[tokio::test]
async fn a_network_that_is_ended_leaves_its_mark_alone_and_another_ones_name_stays() {
    let store = Memory::new();
    let (shop, other) = (network(&store, "shop").await, network(&store, "other").await);
    claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    let kept = claim_member(&store, &claim(&other, 2)).await.expect("claimed");
    let error = delete_network(&store, shop.id, &NothingSeen).await.expect_err("has a member");
    assert!(error.to_string().contains("web") && error.to_string().contains("on host host-1"), "{error}");
    let by = "host-2".parse().expect("a host");
    let mark = NetworkMark { network: shop.id, name: shop.name.clone(), by, at_unix_seconds: NOW };
    end_network(&store, &shop, &mark).await.expect("ended");
    let listing = store.list(&keys::everything()).await.expect("listed");
    let of_shop = |key: &crate::store::Key| key.as_str().contains(&shop.id.to_string());
    let left: Vec<_> = listing.entries.iter().map(|entry| entry.key.clone()).filter(of_shop).collect();
    assert_eq!(left, [keys::network_mark(shop.id)]);
    assert_eq!(records::list_members(&store, None).await.expect("listed").records, [kept]);
    // The name is free, and stays the next network's when the first one is ended again.
    let next = network(&store, "shop").await;
    end_network(&store, &shop, &mark).await.expect("ended again");
    let found = records::find_network(&store, &next.name).await.expect("read").expect("there");
    assert_eq!(found.record, next);
}
