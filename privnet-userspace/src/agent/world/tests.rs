//! The image follows the store's changes, whichever comes first, and shares what it has.

use super::*;
use crate::agent::names::desired;
use crate::agent::names::desired::tests::{APP, SHOP, world};
use crate::agent::names::reason::reason;
use crate::dns::{Resolved, Source};
use crate::ipam;
use crate::model::ContainerType;
use crate::model::naming::DEFAULT_TTL_SECONDS;
use crate::store::Revision;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 2);

fn shop() -> NetworkId {
    SHOP.parse().expect("an id")
}

fn put(world: &mut World, record: &str) -> Concerns {
    let key = keys::address(shop(), ADDRESS);
    let value = record.as_bytes().to_vec().into();
    world.follow(&Event::Put { key, value, revision: Revision::default() })
}

fn member_leaves(world: &mut World) -> Concerns {
    let container = format!("1.web.{APP}").parse().expect("a container");
    world.follow(&Event::Delete { key: keys::member(shop(), &container), revision: Revision::default() })
}

fn released(at: u64) -> String {
    format!(r#"{{"version":1,"holder":null,"generation":0,"released_unix_seconds":{at}}}"#)
}

#[test]
fn an_address_rests_from_its_members_end_whichever_word_of_it_comes_first() {
    for record_first in [true, false] {
        let mut world = world(&["ready"]);
        assert_eq!(world.departed(shop()), [].into());
        if record_first {
            assert_eq!(put(&mut world, &released(1000)), one(shop()));
            assert_eq!(member_leaves(&mut world), one(shop()));
        } else {
            assert_eq!(member_leaves(&mut world), one(shop()));
            assert_eq!(world.departed(shop()), [ADDRESS].into(), "before its record says so");
            assert_eq!(put(&mut world, &released(1000)), Concerns::Nothing, "that was known");
        }
        assert_eq!(world.expire_quarantine(1000 + ipam::DEPARTED_SECONDS - 1), [].into());
        assert_eq!(world.departed(shop()), [ADDRESS].into());
        assert_eq!(world.expire_quarantine(1000 + ipam::DEPARTED_SECONDS), [shop()].into());
        assert_eq!(world.departed(shop()), [].into());
    }
}

#[test]
fn an_address_that_is_held_again_or_forgotten_rests_no_longer() {
    let mut world = world(&["ready"]);
    member_leaves(&mut world);
    put(&mut world, &released(1000));
    let held = format!(r#"{{"version":1,"holder":"2.web.{APP}","generation":1,"released_unix_seconds":null}}"#);
    assert_eq!(put(&mut world, &held), one(shop()));
    assert_eq!(world.departed(shop()), [].into());
    put(&mut world, &released(1000));
    let key = keys::address(shop(), ADDRESS);
    assert_eq!(world.follow(&Event::Delete { key, revision: Revision::default() }), one(shop()));
    assert_eq!(world.departed(shop()), [].into());
}

/// As it is heard by a host that did not hear the store meanwhile: the next holder, and the end of the last one.
#[test]
fn the_next_holder_of_an_address_waits_until_nobody_here_can_have_it_by_the_name_of_the_last() {
    let holder = |number: u8| {
        let key = crate::model::PublicKey::new([number; 32]);
        let record = format!(
            r#"{{"version":1,"network":"{SHOP}","app":"{APP}","type":"web","number":{number},"address":"{ADDRESS}","generation":1,"public_key":"{key}","wireguard_port":51820,"host":"a","state":"ready"}}"#
        );
        let container = format!("{number}.web.{APP}").parse().expect("a container");
        Event::Put {
            key: keys::member(shop(), &container),
            value: record.into_bytes().into(),
            revision: Revision::default(),
        }
    };
    let is_held_off = |world: &World, own: &str, now: Instant| {
        let member = world.members(shop()).next().expect("the next holder");
        let own = own.parse().expect("a name");
        let names = desired::names(world, shop(), &own).expect("the network").members;
        (world.is_held_off(member, &own, now), names.is_empty())
    };
    let mut world = world(&["ready"]);
    world.follow(&holder(2));
    member_leaves(&mut world);
    let (now, kept) = (Instant::now(), Duration::from_secs(DEFAULT_TTL_SECONDS.into()));
    assert_eq!(is_held_off(&world, "b", now), (true, true));
    let asked = format!("2.web.{APP}.shop.private-network.internal").parse().expect("a name");
    let nothing = Resolved {
        source: Source::Snapshot,
        rcode: Some("nxdomain".to_owned()),
        records: Vec::new(),
        age_seconds: Some(1.0),
        is_stale: false,
        upstreams: Vec::new(),
    };
    let reason = reason(&world, &desired::tests::own(), &[shop()], &asked, "A", &nothing);
    assert!(reason.contains("was another container's a moment ago"), "{reason}");
    assert_eq!(is_held_off(&world, "a", now), (false, false), "its own host has made it");
    assert!(!is_held_off(&world, "b", now + kept).0);
    assert_eq!(world.expire_left(now), [].into());
    assert_eq!(world.expire_left(now + kept), [shop()].into(), "who looks again then");
    assert_eq!(is_held_off(&world, "b", now), (false, false));

    // One that was never ready has had no name, and the one before it waited for nobody.
    let mut attaching = desired::tests::world(&["attaching"]);
    attaching.follow(&holder(2));
    member_leaves(&mut attaching);
    assert_eq!(is_held_off(&attaching, "b", Instant::now()), (false, false));

    // One that comes again has its name again, too.
    let again = format!("2.web.{APP}").parse().expect("a container");
    world.follow(&Event::Delete { key: keys::member(shop(), &again), revision: Revision::default() });
    world.follow(&holder(2));
    assert_eq!(is_held_off(&world, "b", Instant::now()), (false, false));
}

#[test]
fn a_host_that_is_not_heard_is_gone_until_it_is_heard_again() {
    let mut world = world(&["ready"]);
    let host: HostName = "a".parse().expect("a name");
    let revision = Revision::default();
    assert!(!world.is_gone(&host), "it has told nothing of itself yet");
    let record = r#"{"version":1,"name":"a","vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":0}"#;
    let told = Event::Put { key: keys::host(&host), value: record.as_bytes().to_vec().into(), revision };
    assert_eq!(world.follow(&told), Concerns::Everything);
    assert!(world.is_gone(&host));
    let heard = Event::Put { key: keys::presence(&host), value: [].into(), revision };
    assert_eq!((world.follow(&heard), world.is_gone(&host)), (one(shop()), false));
    assert_eq!(world.follow(&heard), Concerns::Nothing, "that was known");
    let silent = Event::Delete { key: keys::presence(&host), revision };
    assert_eq!((world.follow(&silent), world.is_gone(&host)), (one(shop()), true));
}

#[test]
fn a_clock_that_steps_back_concerns_everybody_once() {
    let mut world = world(&["ready"]);
    let host: HostName = "a".parse().expect("a name");
    let mut told = |steps: &str| {
        let record = format!(
            r#"{{"version":1,"name":"a","vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":0{steps}}}"#
        );
        let value = record.into_bytes().into();
        let concerns = world.follow(&Event::Put { key: keys::host(&host), value, revision: Revision::default() });
        (concerns, world.clock_steps().get(&host).copied())
    };
    assert_eq!(told(""), (Concerns::Everything, None));
    assert_eq!(told(""), (Concerns::Nothing, None), "as an older agent tells it");
    assert_eq!(told(r#","clock_steps":1"#), (Concerns::Everything, Some(1)));
    assert_eq!(told(r#","clock_steps":1"#), (Concerns::Nothing, Some(1)), "that was known");
}

#[test]
fn a_clock_that_is_ahead_makes_no_address_rest_for_ever() {
    let mut world = world(&["ready"]);
    member_leaves(&mut world);
    put(&mut world, &released(9000));
    assert_eq!(world.expire_quarantine(1000), [].into());
    assert_eq!(world.expire_quarantine(1000 + ipam::DEPARTED_SECONDS), [shop()].into());
}

const BANK: &str = "pn-bd0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";

/// A member of another network, on host `b` or whichever it is then moved to.
fn put_stranger(world: &mut World, number: u32, host: &str) {
    let [_, _, high, low] = number.to_be_bytes();
    let mut bytes = [9; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    let key = crate::model::PublicKey::new(bytes);
    let record = format!(
        r#"{{"version":1,"network":"{BANK}","app":"{APP}","type":"web","number":{number},"address":"10.9.{high}.{low}","generation":0,"public_key":"{key}","wireguard_port":51820,"host":"{host}","state":"ready"}}"#
    );
    let container = format!("{number}.web.{APP}").parse().expect("a container");
    let key = keys::member(BANK.parse().expect("an id"), &container);
    world.follow(&Event::Put { key, value: record.into_bytes().into(), revision: Revision::default() });
    assert_eq!(world.problems().count(), 0);
}

#[test]
fn what_is_asked_of_one_network_or_host_touches_no_member_of_another() {
    let mut world = world(&["ready", "ready"]);
    let (own, other): (HostName, HostName) = ("a".parse().expect("a name"), "b".parse().expect("a name"));
    for number in 1..=500 {
        put_stranger(&mut world, number, "b");
    }
    let bank: NetworkId = BANK.parse().expect("an id");
    let strangers: Vec<Arc<Member>> = world.members(bank).cloned().collect();
    let holders = || strangers.iter().map(Arc::strong_count).max();
    let before = holders();
    let taken: Vec<Arc<Member>> = world.members(shop()).chain(world.members_on(&own)).cloned().collect();
    assert_eq!((taken.len(), strangers.len(), holders()), (4, 500, before));
    assert!(Arc::ptr_eq(&taken[0], &taken[2]), "both indexes share the member");
    assert_eq!(world.members_on(&other).count(), 500);
    assert_eq!(world.expire_quarantine(1000), [].into());
    assert_eq!(holders(), before);
}

#[test]
fn a_member_is_in_the_index_of_the_host_that_it_is_on() {
    let mut world = World::default();
    let hosts = |world: &World| ["b", "c"].map(|host| world.members_on(&host.parse().expect("a name")).count());
    put_stranger(&mut world, 1, "b");
    put_stranger(&mut world, 2, "b");
    assert_eq!(hosts(&world), [2, 0]);
    put_stranger(&mut world, 1, "c");
    assert_eq!(hosts(&world), [1, 1]);
    let container = format!("1.web.{APP}").parse().expect("a container");
    let key = keys::member(BANK.parse().expect("an id"), &container);
    world.follow(&Event::Delete { key, revision: Revision::default() });
    assert_eq!(hosts(&world), [1, 0]);
    assert_eq!(world.members(BANK.parse().expect("an id")).count(), 1);
}

fn put_member(world: &mut World, names: &[&str]) -> Concerns {
    let (first, further) = names.split_first().expect("a name");
    let fields = |name: &str| {
        let (number, kind) = name.split_once('.').expect("a number and a type");
        format!(r#""app":"{APP}","type":"{kind}","number":{number}"#)
    };
    let further: Vec<String> = further.iter().map(|name| format!("{{{}}}", fields(name))).collect();
    let record = format!(
        r#"{{"version":1,"id":"0000000000000007","network":"{SHOP}",{},"address":"{ADDRESS}","generation":0,"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","wireguard_port":51820,"host":"a","state":"ready","names":[{}]}}"#,
        fields(first),
        further.join(",")
    );
    let container = format!("{first}.{APP}").parse().expect("a container");
    let key = keys::member(shop(), &container);
    let concerns = world.follow(&Event::Put { key, value: record.into_bytes().into(), revision: Revision::default() });
    assert_eq!(world.problems().collect::<Vec<_>>(), Vec::<&String>::new());
    concerns
}

fn delete_member(world: &mut World, name: &str) -> Concerns {
    let container = format!("{name}.{APP}").parse().expect("a container");
    world.follow(&Event::Delete { key: keys::member(shop(), &container), revision: Revision::default() })
}

#[test]
fn a_membership_that_changes_its_oldest_name_stays_and_its_address_does_not_rest() {
    let mut world = world(&[]);
    let id = MemberId::new(7);
    let numbers = |world: &World, kind: &str| {
        let kind: ContainerType = kind.parse().expect("a type");
        let other = NetworkId::from_uuid(Uuid::nil());
        world.numbers_elsewhere(other, APP.parse().expect("an app"), &kind).len()
    };
    assert_eq!(put_member(&mut world, &["1.web", "4.side"]), one(shop()));
    assert_eq!((numbers(&world, "web"), numbers(&world, "side")), (1, 1));
    assert_eq!(put_member(&mut world, &["4.side", "1.log"]), one(shop()));
    assert_eq!(delete_member(&mut world, "1.web"), one(shop()));
    assert_eq!(world.members(shop()).count(), 1);
    assert_eq!(world.members_on(&"a".parse().expect("a name")).count(), 1);
    let named = world.membership(id).expect("it stays").container.to_string();
    assert!(named.starts_with("4.side"), "{named}");
    assert_eq!(world.departed(shop()), [].into());
    assert_eq!(["web", "side", "log"].map(|kind| numbers(&world, kind)), [0, 1, 1]);
    // The twin: the end of the record that stands.
    assert_eq!(delete_member(&mut world, "4.side"), one(shop()));
    assert_eq!((world.members(shop()).count(), world.membership(id)), (0, None));
    assert_eq!(world.departed(shop()), [ADDRESS].into());
    assert_eq!(["web", "side", "log"].map(|kind| numbers(&world, kind)), [0, 0, 0]);
}

/// What the store's image says of a claim is what the store itself says of it, after any history.
#[tokio::test]
async fn a_claim_from_the_image_costs_one_transaction_and_gets_what_the_store_would_give() {
    use crate::store::Store as _;
    use crate::store::claims::{self, End, MemberClaim, MemberError, NameWish, NothingSeen};
    let (seen, asked) = (crate::store::Memory::new(), crate::store::Memory::new());
    let claim = |network: NetworkId, key: u8, now: u64| MemberClaim {
        id: MemberId::new(key.into()),
        network,
        name: NameWish {
            app: APP.parse().expect("an app"),
            app_name: None,
            kind: "web".parse().expect("a type"),
            number: None,
            own: [].into(),
            elsewhere: [].into(),
            ports: [].into(),
        },
        address: None,
        host: "a".parse().expect("a host"),
        instance: None,
        public_key: crate::model::PublicKey::new([key; 32]),
        wireguard_port: 51820,
        now_unix_seconds: now,
    };
    let mut networks = Vec::new();
    for store in [&seen, &asked] {
        let mut rng: rand::rngs::StdRng = rand::SeedableRng::seed_from_u64(1);
        let wanted = claims::NewNetwork {
            name: "small".parse().expect("a name"),
            subnet: Some("10.0.0.0/29".parse().expect("a prefix")),
            avoided: Vec::new(),
            mtu: 1390,
            names: crate::model::NameOptions::default(),
            held: Vec::new(),
            now_unix_seconds: 1,
        };
        let made = claims::create_network(store, &wanted, &mut rng).await;
        networks.push(made.expect("created").id);
    }
    let listing = seen.list(&keys::everything()).await.expect("read");
    let world = SharedWorld::new(Belief::new("a".parse().expect("a host")));
    world.compare(&listing, Instant::now());
    let mut watch = seen.watch(&keys::everything(), listing.revision).await.expect("watched");
    for (key, leaves) in (1..).zip([0, 0, 0, 1, 0, 0, 0, 3, 2, 0, 0, 0, 1]) {
        let now = u64::from(key) * 1000;
        if leaves > 0 {
            for (store, network) in [(&seen, networks[0]), (&asked, networks[1])] {
                let container = format!("{leaves}.web.{APP}").parse().expect("a container");
                let member =
                    records::get_member(store, network, &container).await.expect("read").expect("a member").record;
                let end = End::by_its_host(now);
                claims::release_member(store, &member, end, &NothingSeen).await.expect("released").expect("a member");
            }
        } else {
            let from_image = claims::claim_member(&seen, &claim(networks[0], key, now), &world).await;
            let from_store = claims::claim_member(&asked, &claim(networks[1], key, now), &NothingSeen).await;
            let given = |claimed: Result<claims::Written, MemberError>| {
                claimed.map(|written| (written.member.mac(), written.member.container)).map_err(|e| e.to_string())
            };
            assert_eq!(given(from_image), given(from_store), "step {key}");
        }
        // A claim and a release change two records here.
        while let Some(Some(changes)) = futures::FutureExt::now_or_never(watch.next_transaction()) {
            world.follow(&changes, Instant::now());
        }
    }
}

#[test]
fn a_member_that_its_host_takes_for_ready_is_that_until_the_store_says_so_or_it_leaves() {
    let mut world = world(&["attaching"]);
    let said = Member::clone(world.members(shop()).next().expect("a member"));
    let state = |world: &World| world.membership(said.id).map(|member| member.state);
    assert_eq!(state(&world), Some(MemberState::Attaching));
    world.are_ready(&[said.id]);
    assert_eq!(state(&world), Some(MemberState::Ready));
    world.put_member(Member { ports: ["http=80".parse().expect("a port")].into(), ..said.clone() });
    assert_eq!(state(&world), Some(MemberState::Ready), "the store has not been told yet");
    assert_eq!(world.taken_for_ready(shop()).collect::<Vec<_>>(), [said.id]);
    world.put_member(Member { state: MemberState::Ready, ..said.clone() });
    assert_eq!((state(&world), world.ready.len()), (Some(MemberState::Ready), 0));
    world.put_member(said.clone());
    assert_eq!(state(&world), Some(MemberState::Attaching), "then it is the store's word alone");
    world.are_ready(&[said.id]);
    member_leaves(&mut world);
    assert_eq!((state(&world), world.ready.len()), (None, 0));
}
