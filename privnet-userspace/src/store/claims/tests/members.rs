//! Claiming, changing and releasing members.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn a_member_is_claimed_made_ready_and_released() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let one = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    assert_eq!((one.container.clone(), one.address), (container("1.web"), Ipv4Addr::new(10, 240, 0, 2)));
    assert_eq!((one.state, one.generation, one.wireguard_port), (MemberState::Attaching, 0, 51820));
    let ready = set_member_state(&store, &one, MemberState::Ready).await.expect("changed");
    assert_eq!(ready, Member { state: MemberState::Ready, ..one });
    assert_eq!(
        records::list_members(&store, Some(shop.id)).await.expect("listed").records,
        std::slice::from_ref(&ready)
    );
    assert_consistent(&store).await;
    assert_eq!(
        release_member(&store, &ready, End::by_its_host(NOW), &NothingSeen).await.expect("released"),
        Some(ready.clone())
    );
    assert_eq!(release_member(&store, &ready, End::by_its_host(NOW), &NothingSeen).await.expect("idempotent"), None);
    assert_consistent(&store).await;
}

#[tokio::test]
async fn a_member_that_drains_is_not_made_ready_by_a_host_that_looked_before() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let seen = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    for (told, stays) in [
        (MemberState::Ready, MemberState::Ready),
        (MemberState::Draining, MemberState::Draining),
        (MemberState::Ready, MemberState::Draining),
    ] {
        assert_eq!(set_member_state(&store, &seen, told).await.expect("told").state, stays);
        let stored = records::get_member(&store, shop.id, &seen.container).await.expect("read").expect("a member");
        assert_eq!(stored.record.state, stays);
    }
}

#[tokio::test]
async fn a_member_of_no_network_is_refused() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let member = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    release_member(&store, &member, End::by_its_host(NOW), &NothingSeen).await.expect("released");
    delete_network(&store, shop.id, &NothingSeen).await.expect("deleted");
    let error = claim_member(&store, &claim(&shop, 1)).await.expect_err("no network");
    assert!(matches!(error, MemberError::NetworkNotFound { id } if id == shop.id), "{error}");
    assert_eq!(release_member(&store, &member, End::by_its_host(NOW), &NothingSeen).await.expect("idempotent"), None);
}

#[tokio::test]
async fn a_number_is_given_once_per_app_and_type_and_the_lowest_first() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let of = |key, kind: &str, wanted: Option<u32>| MemberClaim { name: wish(kind, wanted), ..claim(&shop, key) };
    for (key, kind, wanted, given) in [
        (1, "web", None, "1.web"),
        (2, "web", Some(3), "3.web"),
        (3, "web", None, "2.web"),
        (4, "web", None, "4.web"),
        (5, "worker", None, "1.worker"),
        (6, "sub-web", None, "1.sub-web"),
    ] {
        let member = claim_member(&store, &of(key, kind, wanted)).await.expect("claimed");
        assert_eq!(member.container, container(given));
    }
    let error = claim_member(&store, &of(7, "web", Some(3))).await.expect_err("exists");
    let MemberError::MemberExists(existing) = &error else { panic!("{error}") };
    assert_eq!((&existing.container, existing.address), (&container("3.web"), Ipv4Addr::new(10, 240, 0, 3)));
    let first =
        records::get_member(&store, shop.id, &container("1.web")).await.expect("read").expect("a member").record;
    release_member(&store, &first, End::by_its_host(NOW), &NothingSeen).await.expect("released");
    let member = claim_member(&store, &of(8, "web", None)).await.expect("claimed");
    assert_eq!(member.container, container("1.web"));
    assert_consistent(&store).await;
}

#[tokio::test]
async fn an_address_may_be_chosen_if_it_is_one_for_members_and_free() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let at = |key, last: [u8; 2]| MemberClaim {
        address: Some(Ipv4Addr::new(10, 240, last[0], last[1])),
        ..claim(&shop, key)
    };
    let member = claim_member(&store, &at(1, [0, 9])).await.expect("claimed");
    let error = claim_member(&store, &at(2, [0, 9])).await.expect_err("taken");
    assert!(matches!(&error, MemberError::AddressTaken { holder, .. } if *holder == member.container), "{error}");
    for last in [[0, 0], [0, 1], [3, 255]] {
        let error = claim_member(&store, &at(2, last)).await.expect_err("reserved");
        assert!(matches!(error, MemberError::AddressReserved(_)), "{error}");
    }
    let error = claim_member(&store, &at(2, [4, 0])).await.expect_err("outside");
    assert!(matches!(error, MemberError::AddressOutsideSubnet(_)), "{error}");
    claim_member(&store, &at(2, [3, 254])).await.expect("the last one");
    release_member(&store, &member, End::by_its_host(NOW), &NothingSeen).await.expect("released");
    let again = claim_member(&store, &at(3, [0, 9])).await.expect("free again");
    assert_eq!(again.generation, 1);
    assert_ne!(again.mac(), member.mac());
    assert_consistent(&store).await;
}

#[tokio::test]
async fn a_network_is_exhausted_exactly_and_the_longest_rested_address_comes_back_first() {
    let store = Memory::new();
    let small = create(&store, "small", Some("10.0.0.0/29")).await.expect("created");
    let mut members = Vec::new();
    for key in 0..5 {
        members.push(claim_member(&store, &claim(&small, key)).await.expect("claimed"));
    }
    let error = claim_member(&store, &claim(&small, 5)).await.expect_err("exhausted");
    assert!(matches!(error, MemberError::PoolExhausted { used: 5, size: 5, .. }), "{error}");
    for (index, at) in [(3, 20), (1, 10), (4, 30)] {
        let member: &Member = &members[index];
        release_member(&store, member, End::by_its_host(NOW + at), &NothingSeen).await.expect("released");
    }
    let early = MemberClaim { now_unix_seconds: NOW + 10 + 5, ..claim(&small, 6) };
    let error = claim_member(&store, &early).await.expect_err("they rest");
    assert!(matches!(error, MemberError::PoolExhausted { used: 2, size: 5, resting: 3, .. }), "{error}");
    let one = MemberClaim { now_unix_seconds: NOW + 10 + 6, ..claim(&small, 6) };
    assert_eq!(claim_member(&store, &one).await.expect("one has rested").address, members[1].address);
    let asked = MemberClaim {
        address: Some(members[4].address),
        ..MemberClaim { now_unix_seconds: NOW + 31, ..claim(&small, 7) }
    };
    let member = claim_member(&store, &asked).await.expect("who asks for it has it");
    release_member(&store, &member, End::by_its_host(NOW + 32), &NothingSeen).await.expect("released");
    for (key, index) in [(8, 3)] {
        let member = claim_member(&store, &claim(&small, key)).await.expect("claimed");
        assert_eq!((member.address, member.generation), (members[index].address, 1));
    }
    let member = claim_member(&store, &claim(&small, 9)).await.expect("claimed");
    assert_eq!((member.address, member.generation), (members[4].address, 2));
    claim_member(&store, &claim(&small, 10)).await.expect_err("exhausted again");
    assert_consistent(&store).await;
}

#[tokio::test]
async fn a_public_key_belongs_to_one_member_of_a_network() {
    let store = Memory::new();
    let (shop, blog) = (network(&store, "shop").await, network(&store, "blog").await);
    let one = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    let two = claim_member(&store, &claim(&shop, 2)).await.expect("claimed");
    let error = claim_member(&store, &claim(&shop, 1)).await.expect_err("in use");
    assert!(matches!(&error, MemberError::PublicKeyInUse { holder } if *holder == one.container), "{error}");
    let stolen = Member { public_key: one.public_key, ..two.clone() };
    let error = update_member(&store, &stolen).await.expect_err("in use");
    assert!(matches!(&error, MemberError::PublicKeyInUse { holder } if *holder == one.container), "{error}");
    let renewed = Member { public_key: claim(&shop, 3).public_key, wireguard_port: 51821, ..two };
    assert_eq!(update_member(&store, &renewed).await.expect("changed"), renewed);
    claim_member(&store, &claim(&shop, 2)).await.expect("its old key is free");
    claim_member(&store, &claim(&blog, 1)).await.expect("another network is another world");
    assert_consistent(&store).await;
}

#[tokio::test]
async fn a_member_that_left_or_was_replaced_is_not_changed() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let old = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    release_member(&store, &old, End::by_its_host(NOW), &NothingSeen).await.expect("released");
    let error = set_member_state(&store, &old, MemberState::Ready).await.expect_err("it has left");
    assert!(matches!(&error, MemberError::MemberNotFound { container, .. } if *container == old.container), "{error}");
    let same_address = MemberClaim { address: Some(old.address), ..claim(&shop, 2) };
    let new = claim_member(&store, &same_address).await.expect("claimed");
    assert_eq!((&new.container, new.address), (&old.container, old.address));
    let error = set_member_state(&store, &old, MemberState::Ready).await.expect_err("it is another");
    assert!(matches!(&error, MemberError::MemberChanged(now) if **now == new), "{error}");
    set_member_state(&store, &new, MemberState::Ready).await.expect("changed");
}

#[tokio::test]
async fn a_record_of_a_strangers_address_is_left_alone_on_release() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let member = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    let strangers = AddressRecord {
        holder: Some(container("9.worker")),
        count: 7,
        released_unix_seconds: None,
        member: None,
        before: None,
        ended_by: None,
        attached_unix_seconds: None,
    };
    let key = keys::address(shop.id, member.address);
    store
        .commit(Transaction::new().put(key, records::encode(&strangers, &Envelope::first())))
        .await
        .expect("committed");
    release_member(&store, &member, End::by_its_host(NOW), &NothingSeen).await.expect("released").expect("was there");
    assert_eq!(address_record(&store, shop.id, member.address).await, Some(strangers));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_random_history_keeps_the_records_consistent_and_the_generations_counting(
        steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), prop::option::of(0u8..10)), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let store = Memory::new();
            let small = create(&store, "small", Some("10.0.0.0/29")).await.expect("created");
            let mut members: Vec<Member> = Vec::new();
            let mut generations: BTreeMap<Ipv4Addr, u8> = BTreeMap::new();
            for (step, (claims, which, wanted)) in (0u32..).zip(steps) {
                if claims {
                    let address = wanted.map(|last| Ipv4Addr::new(10, 0, 0, last));
                    match claim_member(&store, &MemberClaim { address, ..claim(&small, step) }).await {
                        Ok(member) => {
                            let expected = generations.get(&member.address).map_or(0, |last| last + 1);
                            assert_eq!(member.generation, expected);
                            generations.insert(member.address, member.generation);
                            assert!(members.iter().all(|other| other.address != member.address));
                            members.push(member);
                        }
                        Err(MemberError::PoolExhausted { .. }) => assert_eq!(members.len(), 5),
                        Err(MemberError::AddressTaken { address, .. }) => {
                            assert!(members.iter().any(|member| member.address == address));
                        }
                        Err(MemberError::AddressReserved(_) | MemberError::AddressOutsideSubnet(_)) => {
                            assert!(wanted.is_some_and(|last| !(2..7).contains(&last)));
                        }
                        Err(error) => panic!("{error}"),
                    }
                } else if !members.is_empty() {
                    let member = members.swap_remove(which.index(members.len()));
                    let released = release_member(&store, &member, End::by_its_host(NOW + u64::from(step)), &NothingSeen).await;
                    assert_eq!(released.expect("released"), Some(member));
                }
                assert_consistent(&store).await;
            }
        });
    }
}
