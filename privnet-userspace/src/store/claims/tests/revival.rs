//! A membership that ended with its host's agent goes on under the next one, unless its place is another's by then.

use super::*;

/// A membership with a further name, and its record, once an operator has ended it.
async fn ended(store: &Memory, network: &Network, by: EndedBy, at_unix_seconds: u64) -> records::Stored<Member> {
    let made = claim_member(store, &claim(network, 7)).await.expect("claimed");
    add_name(store, &made, "side", None).await.expect("named");
    let before = records::get_member(store, network.id, &made.container).await.expect("read").expect("it is there");
    let end = End { by, at_unix_seconds };
    release_member(store, &before.record, end, &NothingSeen).await.expect("released").expect("it was there");
    before
}

async fn revive(store: &Memory, before: &records::Stored<Member>) -> Option<Written> {
    let (host, by) = ("h1".parse().expect("a host"), "h2".parse().expect("a host"));
    let mark = records::InstanceMark { instance: uuid::Uuid::from_u128(4), host, by, at_unix_seconds: NOW };
    revive_member(store, before, uuid::Uuid::from_u128(5), NOW + 9, &mark).await.expect("asked")
}

#[tokio::test]
async fn a_forgotten_membership_goes_on_with_address_generation_key_and_names_and_does_so_once() {
    let store = Memory::new();
    let network = network(&store, "shop").await;
    let before = ended(&store, &network, EndedBy::Operator, NOW).await;
    let written = revive(&store, &before).await.expect("its place is free");
    assert_eq!(written.member, Member { instance: Some(uuid::Uuid::from_u128(5)), ..before.record.clone() });
    assert_consistent(&store).await;
    let row = address_record(&store, network.id, before.record.address).await.expect("the row");
    assert_eq!((row.count, row.attached_unix_seconds, row.ended_by), (256, Some(NOW + 9), None));
    let all = store.list(&keys::everything()).await.expect("listed");
    let again = revive(&store, &before).await.expect("an agent that was killed asks again");
    assert_eq!(again.member, written.member);
    assert_eq!(store.list(&keys::everything()).await.expect("listed").entries, all.entries);
}

#[tokio::test]
async fn a_membership_whose_place_was_given_out_or_that_another_word_ended_stays_ended() {
    for taken in ["address", "name", "further name", "network", "ended by its host", "ended before the host was"] {
        let store = Memory::new();
        let network = network(&store, "shop").await;
        let by = if taken == "ended by its host" { EndedBy::Host } else { EndedBy::Operator };
        let at = if taken == "ended before the host was" { NOW - 1 } else { NOW };
        let before = ended(&store, &network, by, at).await;
        let other = match taken {
            "address" => Some(MemberClaim {
                address: Some(before.record.address),
                name: wish("other", None),
                ..claim(&network, 8)
            }),
            "name" => Some(claim(&network, 8)),
            "further name" => Some(MemberClaim { name: wish("side", None), ..claim(&network, 8) }),
            _ => None,
        };
        if let Some(other) = other {
            claim_member(&store, &other).await.expect("claimed");
        }
        if taken == "network" {
            delete_network(&store, network.id, &NothingSeen).await.expect("deleted");
        }
        assert_eq!(revive(&store, &before).await, None, "{taken}");
        assert_consistent(&store).await;
    }
}
