//! Two living memberships that have one address or one name, since the claim of one of them did not see the other.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::super::Belief;
use super::lab::{HOSTS, Lab};
use super::steps::Step;
use crate::agent::world::SharedWorld;
use crate::model::Member;
use crate::store::records::{self, AddressRecord};
use crate::store::{Store as _, keys};

/// The first host has a member that the store has lost and that the second one never heard of; then that one claims another,
/// and the first one hears of it. Returns both members.
async fn contest(lab: &mut Lab, has_ended: bool, address: Option<Ipv4Addr>) -> [Member; 2] {
    lab.step(&Step::Attach { host: 1 }).await;
    let older = lab.earlier[0].clone();
    lab.step(&Step::Attach { host: 0 }).await;
    let earlier = lab.living[1].clone();
    if has_ended {
        lab.step(&Step::Detach { which: 0 }).await;
    }
    lab.watches[0] = None;
    lab.worlds[1] = Arc::new(SharedWorld::new(Belief::new(HOSTS[1].parse().expect("a host"))));
    lab.restore(older).await;
    let later = lab.claim(1, address).await.expect("it is free, as far as that host knows").member;
    lab.follow();
    lab.read_again(0).await;
    lab.repair().await;
    [earlier, later]
}

fn believed(lab: &Lab, host: usize) -> BTreeSet<(String, Ipv4Addr)> {
    let of = |member: &Arc<Member>| (member.container.to_string()[..5].to_owned(), member.address);
    lab.worlds[host].read(|world| world.members(lab.network.id).map(of).collect())
}

async fn row(lab: &Lab, address: Ipv4Addr) -> AddressRecord {
    let key = keys::address(lab.network.id, address);
    let entry = lab.store.get(&key).await.expect("read").expect("a row");
    records::decode(&key, &entry.value).expect("a record")
}

fn kept_off(lab: &Lab, host: usize) -> Vec<String> {
    lab.worlds[host].belief(|belief| belief.kept_off().cloned().collect())
}

fn members(expected: &[(&str, u8)]) -> BTreeSet<(String, Ipv4Addr)> {
    expected.iter().map(|(name, last)| ((*name).to_owned(), Ipv4Addr::new(10, 0, 0, *last))).collect()
}

#[tokio::test]
async fn the_earlier_of_two_memberships_keeps_the_address_and_the_later_one_is_kept_off() {
    let mut lab = Lab::new().await;
    let [earlier, later] = contest(&mut lab, false, None).await;
    assert_eq!(earlier.address, later.address);
    for host in 0..HOSTS.len() {
        assert_eq!(believed(&lab, host), members(&[("1.web", 2), ("2.web", 3)]));
    }
    let row = row(&lab, earlier.address).await;
    assert_eq!((row.member, row.before, row.generation()), (Some(earlier.id), Some(later.id), earlier.generation));
    assert_eq!(kept_off(&lab, 0), Vec::<String>::new());
    let told = kept_off(&lab, 1);
    assert!(told.len() == 1 && told[0].contains("2.web.") && told[0].contains("10.0.0.3"), "{told:?}");

    // The same container gets another address.
    lab.claim(1, None).await.expect("claimed");
    lab.follow();
    assert_eq!(kept_off(&lab, 1), Vec::<String>::new());
    assert_eq!(believed(&lab, 1), members(&[("1.web", 2), ("2.web", 3), ("3.web", 4)]));
}

#[tokio::test]
async fn the_earlier_of_two_memberships_keeps_a_further_name_and_the_later_one_has_the_next() {
    let mut lab = Lab::new().await;
    for host in 0..HOSTS.len() {
        lab.step(&Step::Attach { host }).await;
    }
    let [earlier, later] = [lab.living[0].clone(), lab.living[1].clone()];
    let older = lab.earlier[1].clone();
    lab.name(&earlier).await;
    lab.follow();
    // The second host never heard of that name, and gives it to its own member.
    lab.watches[0] = None;
    lab.worlds[1] = Arc::new(SharedWorld::new(Belief::new(HOSTS[1].parse().expect("a host"))));
    lab.restore(older).await;
    lab.name(&later).await;
    lab.follow();
    lab.read_again(0).await;
    lab.repair().await;
    for host in 0..HOSTS.len() {
        let of = |member: &Member| {
            lab.worlds[host].read(|world| {
                let names = &world.membership(member.id).expect("it goes on").names;
                names.iter().map(|name| name.container.to_string()[..6].to_owned()).collect::<Vec<_>>()
            })
        };
        assert_eq!(
            (of(&earlier), of(&later)),
            (vec!["1.side".to_owned()], vec!["2.side".to_owned()]),
            "on host {host}"
        );
    }
    for (number, member) in [(1, &earlier), (2, &later)] {
        let name = format!("{number}.side.{}", super::APP).parse().expect("a name");
        let found = records::find_member(&lab.store, lab.network.id, &name).await.expect("read").expect("a member");
        assert_eq!(found.record.id, member.id, "{name}");
    }
}

#[tokio::test]
async fn a_membership_has_the_address_of_one_that_ended_before() {
    let mut lab = Lab::new().await;
    let [earlier, later] = contest(&mut lab, true, None).await;
    assert_eq!(earlier.address, later.address);
    for host in 0..HOSTS.len() {
        assert_eq!(believed(&lab, host), members(&[("1.web", 2), ("2.web", 3)]));
        assert_eq!(kept_off(&lab, host), Vec::<String>::new());
    }
    let row = row(&lab, later.address).await;
    assert_eq!((row.member, row.generation()), (Some(later.id), later.generation));
}

#[tokio::test]
async fn the_earlier_of_two_memberships_keeps_the_name_and_the_later_one_goes_on_under_another() {
    let mut lab = Lab::new().await;
    let [earlier, later] = contest(&mut lab, false, Some(Ipv4Addr::new(10, 0, 0, 9))).await;
    assert_eq!(earlier.container, later.container);
    for host in 0..HOSTS.len() {
        assert_eq!(believed(&lab, host), members(&[("1.web", 2), ("2.web", 3), ("3.web", 9)]));
    }
    let row = row(&lab, later.address).await;
    assert_eq!((row.member, row.generation()), (Some(later.id), later.generation));
    assert_eq!(row.holder.map(|holder| holder.number.get()), Some(3));
    let stored = records::member_at(&lab.store, lab.network.id, later.address).await.expect("read").expect("a member");
    assert_eq!((stored.record.id, stored.record.public_key), (later.id, later.public_key));
}
