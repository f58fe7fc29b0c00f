//! Further names of a membership: claimed, drained and released one by one.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::store::Event;

const END: End = End::by_its_host(NOW);

fn texts(member: &Member) -> Vec<String> {
    member
        .each_name()
        .map(|name| format!("{}.{} {:?}", name.container.number, name.container.kind, name.state))
        .collect()
}

async fn release(store: &dyn Store, of: &Member, name: &str) -> Option<Released> {
    release_name(store, of.network, of.id, &container(name), END, &NothingSeen).await.expect("released")
}

async fn stored(store: &dyn Store, of: &Member) -> Option<Member> {
    let found = records::member_at(store, of.network, of.address).await.expect("read");
    found.map(|found| found.record)
}

#[tokio::test]
async fn a_membership_has_names_and_ends_with_the_last_of_them() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let web = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    set_member_state(&store, &web, MemberState::Ready).await.expect("ready");
    add_name(&store, &web, "side", None).await.expect("named");
    let named = add_name(&store, &web, "log", Some(7)).await.expect("named");
    assert_eq!(texts(&named), ["1.web Ready", "1.side Ready", "7.log Ready"]);
    assert_eq!((named.id, named.address, named.generation), (web.id, web.address, web.generation));
    assert_consistent(&store).await;
    for name in ["1.web", "1.side", "7.log"] {
        let found = records::find_member(&store, shop.id, &container(name)).await.expect("read").expect("found");
        assert_eq!(found.record, named, "by {name}");
    }
    assert_eq!(release(&store, &web, "2.side").await, None, "it never had that name");
    let Some(Released::Name(written)) = release(&store, &web, "1.side").await else { panic!("it has others") };
    assert_eq!(texts(&written.member), ["1.web Ready", "7.log Ready"]);
    assert_eq!(written.deleted, [keys::member_name(shop.id, &container("1.side"))]);
    assert_consistent(&store).await;
    assert!(matches!(release(&store, &web, "7.log").await, Some(Released::Name(_))));
    assert!(matches!(release(&store, &web, "1.web").await, Some(Released::Membership(_))));
    assert_eq!(release(&store, &web, "1.web").await, None);
    assert_consistent(&store).await;
    delete_network(&store, shop.id, &NothingSeen).await.expect("nothing is left");
}

#[tokio::test]
async fn when_the_oldest_name_goes_the_next_one_takes_its_place_and_the_name_is_free() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let web = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    set_member_state(&store, &web, MemberState::Ready).await.expect("ready");
    let ports = ["admin=81".parse().expect("a port")];
    let with_ports = NameClaim {
        name: NameWish { ports: ports.clone().into(), ..wish("side", None) },
        ..name_claim(&web, "side", None)
    };
    super::super::add_name(&store, &with_ports, &NothingSeen).await.expect("named");
    add_name(&store, &web, "log", None).await.expect("named");
    let first = MemberClaim { name: wish("web", Some(1)), ..claim(&shop, 2) };
    claim_member(&store, &first).await.expect_err("it is held");
    let row = address_record(&store, shop.id, web.address).await.expect("a row");

    let Some(Released::Name(written)) = release(&store, &web, "1.web").await else { panic!("it has others") };
    let member = written.member.clone();
    assert_eq!(texts(&member), ["1.side Ready", "1.log Ready"]);
    assert_eq!((member.id, member.mac(), member.public_key), (web.id, web.mac(), web.public_key));
    assert_eq!(member.ports, ports.into());
    let held = AddressRecord { holder: Some(container("1.side")), ..row };
    assert_eq!(address_record(&store, shop.id, web.address).await, Some(held), "held by the same membership as before");
    for (key, value) in &written.records {
        assert_eq!(store.get(key).await.expect("read").expect("it is there").value, *value);
    }
    for key in &written.deleted {
        assert_eq!(store.get(key).await.expect("read"), None);
    }
    assert_consistent(&store).await;
    let other = claim_member(&store, &first).await.expect("it is free");
    assert_ne!(other.address, web.address);
    let again = add_name(&store, &member, "web", None).await.expect("the next number");
    assert_eq!(texts(&again), ["1.side Ready", "1.log Ready", "2.web Ready"]);
    assert_consistent(&store).await;
}

#[tokio::test]
async fn a_name_belongs_to_one_membership_whether_it_is_the_oldest_or_a_further_one() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let of = |key, name| MemberClaim { name, ..claim(&shop, key) };
    let web = claim_member(&store, &of(1, wish("web", Some(1)))).await.expect("claimed");
    add_name(&store, &web, "side", Some(1)).await.expect("named");
    let error = claim_member(&store, &of(2, wish("side", Some(1)))).await.expect_err("a further name of another");
    let MemberError::MemberExists(holder) = &error else { panic!("{error}") };
    assert_eq!((&holder.container, holder.id), (&container("1.side"), web.id));
    let side = claim_member(&store, &of(2, wish("side", Some(2)))).await.expect("another number");
    for taken in [1, 2] {
        let error = add_name(&store, &side, "web", Some(taken)).await;
        assert_eq!(error.is_err(), taken == 1, "{error:?}");
    }
    let error = add_name(&store, &web, "side", Some(2)).await.expect_err("the oldest name of another");
    assert!(matches!(&error, MemberError::MemberExists(holder) if holder.id == side.id), "{error}");
    let third = claim_member(&store, &of(3, wish("side", None))).await.expect("claimed");
    assert_eq!(third.container, container("3.side"), "the lowest that no membership has");
    assert_consistent(&store).await;
}

#[tokio::test]
async fn a_number_is_the_namespaces_own_or_free_in_all_networks() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let beside = |wanted, own: &[u32], elsewhere: &[u32]| NameWish {
        own: own.iter().map(|n| number(*n)).collect(),
        elsewhere: elsewhere.iter().map(|n| number(*n)).collect(),
        ..wish("web", wanted)
    };
    let of = |key, name| MemberClaim { name, ..claim(&shop, key) };
    for (key, own, elsewhere, given) in [
        (1, &[][..], &[1, 2, 4][..], "3.web"),
        (2, &[5], &[1, 5], "5.web"),
        (3, &[5], &[1, 5], "2.web"),
        (4, &[], &[], "1.web"),
    ] {
        let member = claim_member(&store, &of(key, beside(None, own, elsewhere))).await.expect("claimed");
        assert_eq!(member.container, container(given), "own {own:?}, elsewhere {elsewhere:?}");
    }
    let asked = of(5, beside(Some(9), &[], &[9]));
    assert_eq!(claim_member(&store, &asked).await.expect("it was asked for").container, container("9.web"));
    let web = claim_member(&store, &claim(&shop, 6)).await.expect("claimed");
    let named = NameClaim {
        name: NameWish { elsewhere: [number(1)].into(), ..wish("side", None) },
        ..name_claim(&web, "side", None)
    };
    let written = super::super::add_name(&store, &named, &NothingSeen).await.expect("named");
    assert_eq!(texts(&written.member)[1], "2.side Attaching");
}

#[tokio::test]
async fn a_name_is_drained_by_itself_and_stays_so_when_it_becomes_the_oldest() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let web = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    add_name(&store, &web, "side", None).await.expect("named");
    add_name(&store, &web, "log", None).await.expect("named");
    set_member_state(&store, &web, MemberState::Ready).await.expect("ready");
    let drain = async |name| {
        let drained = drain_name(&store, shop.id, web.id, &container(name)).await.expect("drained");
        texts(&drained.member)
    };
    assert_eq!(drain("1.side").await, ["1.web Ready", "1.side Draining", "1.log Ready"]);
    assert_eq!(drain("1.web").await, ["1.web Draining", "1.side Draining", "1.log Ready"]);
    set_member_state(&store, &web, MemberState::Ready).await.expect("told");
    assert_eq!(drain("1.web").await, ["1.web Draining", "1.side Draining", "1.log Ready"]);
    release(&store, &web, "1.web").await;
    assert_eq!(texts(&stored(&store, &web).await.expect("stands")), ["1.side Draining", "1.log Ready"]);
    release(&store, &web, "1.side").await;
    assert_eq!(texts(&stored(&store, &web).await.expect("stands")), ["1.log Ready"]);
    let error = drain_name(&store, shop.id, web.id, &container("1.web")).await.expect_err("it has left");
    assert!(matches!(error, MemberError::MemberNotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_membership_that_was_replaced_is_neither_named_nor_released() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let old = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    release(&store, &old, "1.web").await;
    let new = claim_member(&store, &claim(&shop, 2)).await.expect("claimed");
    assert_eq!(new.container, old.container);
    let error = add_name(&store, &old, "side", None).await.expect_err("it has left");
    assert!(matches!(error, MemberError::MemberNotFound { .. }), "{error}");
    assert_eq!(release(&store, &old, "1.web").await, None);
    add_name(&store, &new, "side", None).await.expect("named");
    assert!(matches!(release(&store, &new, "1.web").await, Some(Released::Name(_))));
    assert_consistent(&store).await;
}

/// An agent of a build without further names releases a member whole, and leaves their pointers.
#[tokio::test]
async fn a_pointer_that_leads_to_no_member_with_the_name_keeps_it_from_nobody() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let web = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    let named = add_name(&store, &web, "side", None).await.expect("named");
    let forgetful = Member { names: Vec::new(), ..named };
    let key = keys::member(shop.id, &web.container);
    let entry = store.get(&key).await.expect("read").expect("a member");
    let envelope = records::read::<Member>(&entry).expect("a record").envelope;
    store.commit(Transaction::new().put(key, records::encode(&forgetful, &envelope.next()))).await.expect("committed");
    let side = MemberClaim { name: wish("side", None), ..claim(&shop, 2) };
    let member = claim_member(&store, &side).await.expect("claimed");
    // What was seen of the store says that the number is taken; the next one does as well.
    assert_eq!(member.container, container("2.side"));
    let asked = MemberClaim { name: wish("side", Some(1)), ..claim(&shop, 3) };
    let member = claim_member(&store, &asked).await.expect("claimed");
    assert_eq!(member.container, container("1.side"));
    assert_consistent(&store).await;
}

#[tokio::test]
async fn a_membership_has_as_many_names_as_a_transaction_can_change() {
    let store = Memory::new();
    let shop = network(&store, "shop").await;
    let web = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
    for at in 1..MAX_NAMES {
        add_name(&store, &web, &format!("t{at}"), None).await.expect("named");
    }
    let error = add_name(&store, &web, "one-more", None).await.expect_err("too many");
    assert!(matches!(error, MemberError::TooManyNames { most: MAX_NAMES, .. }), "{error}");
    assert!(matches!(release(&store, &web, "1.web").await, Some(Released::Name(_))));
    assert_consistent(&store).await;
    let now = stored(&store, &web).await.expect("stands");
    add_name(&store, &now, "one-more", None).await.expect("there is room again");
    release_member(&store, &now, END, &NothingSeen).await.expect("released").expect("a member");
    assert_consistent(&store).await;
}

#[tokio::test]
async fn a_membership_that_changes_its_oldest_name_is_never_gone_for_a_watcher() {
    for (first, second) in [("web", "a-side"), ("web", "z-side")] {
        let store = Memory::new();
        let shop = network(&store, "shop").await;
        let web = claim_member(&store, &claim(&shop, 1)).await.expect("claimed");
        add_name(&store, &web, second, None).await.expect("named");
        let members = keys::members(shop.id);
        let after = store.list(&members).await.expect("listed").revision;
        let mut watch = store.watch(&members, after).await.expect("watched");
        release(&store, &web, &format!("1.{first}")).await;
        let mut next = async || futures::StreamExt::next(&mut watch).await.expect("an event");
        let (came, went) = (next().await, next().await);
        let second = keys::member(shop.id, &container(&format!("1.{second}")));
        assert!(matches!(&came, Event::Put { key, .. } if *key == second), "{came:?}");
        assert!(
            matches!(&went, Event::Delete { key, .. } if *key == keys::member(shop.id, &web.container)),
            "{went:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_claims_of_one_name_exactly_one_wins() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let shop = network(&*store, "shop").await;
    let web = claim_member(&*store, &claim(&shop, 1)).await.expect("claimed");
    let mut winners = std::collections::BTreeSet::new();
    for round in 2..302 {
        // One as the oldest name of a new membership, one as a further name.
        let side = MemberClaim { name: wish("side", Some(1)), ..claim(&shop, round) };
        let (one, other) = (Arc::clone(&store), Arc::clone(&store));
        let first = tokio::spawn(async move { claim_member(&*one, &side).await });
        let second = tokio::spawn({
            let web = web.clone();
            async move { add_name(&*other, &web, "side", Some(1)).await }
        });
        let (holder, refused) = match (first.await.expect("joined"), second.await.expect("joined")) {
            (Ok(member), Err(error)) => (member, error),
            (Err(error), Ok(member)) => (member, error),
            (first, second) => panic!("round {round}: {first:?} and {second:?}"),
        };
        assert!(
            matches!(&refused, MemberError::MemberExists(stands) if stands.id == holder.id),
            "round {round}: {refused}"
        );
        assert_consistent(&*store).await;
        release(&*store, &holder, "1.side").await.expect("it had the name");
        winners.insert(holder.id == web.id);
    }
    assert!(!winners.is_empty());
    assert_consistent(&*store).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_random_history_of_names_keeps_the_records_consistent(
        steps in prop::collection::vec((0..4_u8, any::<prop::sample::Index>(), 0..3_usize), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let store = Memory::new();
            let shop = network(&store, "shop").await;
            let mut members: Vec<Member> = Vec::new();
            for (step, (what, which, kind)) in (0_u32..).zip(steps) {
                let kind = ["web", "side", "log"][kind];
                if what == 0 || members.is_empty() {
                    let claim = MemberClaim { name: wish(kind, None), ..claim(&shop, step) };
                    members.push(claim_member(&store, &claim).await.expect("claimed"));
                } else {
                    let at = which.index(members.len());
                    if what == 1 {
                        members[at] = add_name(&store, &members[at], kind, None).await.expect("named");
                    } else {
                        let member = &members[at];
                        let name = which.get(&member.each_name().map(|n| n.container.clone()).collect::<Vec<_>>()).clone();
                        match release_name(&store, shop.id, member.id, &name, END, &NothingSeen).await.expect("released") {
                            Some(Released::Name(written)) => {
                                assert_eq!((written.member.id, written.member.mac()), (member.id, member.mac()));
                                members[at] = written.member;
                            }
                            Some(Released::Membership(_)) => drop(members.remove(at)),
                            None => panic!("{name} is a name of {member:?}"),
                        }
                    }
                }
                let mut now = records::list_members(&store, None).await.expect("listed").records;
                now.sort_by_key(|member| member.id);
                members.sort_by_key(|member| member.id);
                assert_eq!(now, members);
                assert_consistent(&store).await;
            }
        });
    }
}
