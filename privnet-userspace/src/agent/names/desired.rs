//! What should be told: the names of the networks that have members on this host, and who asks.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::agent::host::journal::Record;
use crate::agent::world::World;
use crate::model::{HostName, Member, MemberState, NameOf, NetworkId};
use crate::names::{Catalogue, DnsClient, MemberNames, NetworkHead, NetworkNames};
use crate::netns::NetnsId;

/// A container of this host that should be able to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Where its namespace was found; each may be another's by now.
    pub paths: Vec<PathBuf>,
    /// Who it is.
    pub client: DnsClient,
}

/// The containers of this host, by their namespace. `upstreams` are the servers that they asked before.
pub fn containers<'a>(
    records: impl Iterator<Item = &'a Record>,
    server: Ipv4Addr,
    upstreams: &BTreeMap<NetnsId, Vec<SocketAddr>>,
) -> BTreeMap<NetnsId, Container> {
    let mut containers: BTreeMap<NetnsId, Container> = BTreeMap::new();
    for record in by_interface(records) {
        let none_yet = || {
            let upstreams = upstreams.get(&record.netns).cloned().unwrap_or_default();
            let client = DnsClient { server: Some(server), upstreams, ..DnsClient::default() };
            Container { paths: Vec::new(), client }
        };
        let container = containers.entry(record.netns).or_insert_with(none_yet);
        container.client.networks.push(record.network);
        for (name, path) in record.each_name() {
            if !container.client.apps.contains(&name.app) {
                container.client.apps.push(name.app);
            }
            if container.paths.iter().all(|known| known != path) {
                container.paths.push(path.to_owned());
            }
        }
    }
    containers
}

/// The networks of the container with this namespace, in the order in which its names are searched.
pub fn networks<'a>(records: impl Iterator<Item = &'a Record>, netns: NetnsId) -> Vec<NetworkId> {
    by_interface(records.filter(|record| record.netns == netns)).into_iter().map(|record| record.network).collect()
}

/// The records of members that stay, in the order of their interfaces: `wg0` is of the network that was attached first.
fn by_interface<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<&'a Record> {
    let mut records: Vec<&Record> = records.filter(|record| !record.leaving).collect();
    records.sort_by_key(|record| (record.index, record.network));
    records
}

/// The names of a network as the world has them: those that are ready of its members, on whichever host that is there and is not
/// drained; `own` is this one. A member of another host that waits for its address has none. Of a member's names the oldest of these stands for its address. Nothing when the network does not exist.
pub fn names(world: &World, network: NetworkId, own: &HostName) -> Option<NetworkNames> {
    let found = world.networks().get(&network)?;
    let head = NetworkHead { options: found.names.clone(), ..NetworkHead::new(found.name.clone(), found.subnet) };
    let mut members = BTreeMap::new();
    let has_names = |host: &HostName| !world.is_gone(host) && !world.is_draining(host);
    let now = Instant::now();
    let is_there = |member: &&Arc<Member>| has_names(&member.host) && !world.is_held_off(member, own, now);
    for member in world.members(network).filter(is_there) {
        let ready = member.each_name().filter(|name| name.state == MemberState::Ready);
        for (place, NameOf { container, ports, .. }) in ready.enumerate() {
            let container = container.clone();
            let names = MemberNames {
                container: container.clone(),
                address: member.address,
                ports: ports.clone(),
                further: place > 0,
            };
            // An agent that knows no further names may have claimed one of them: its member has it as the oldest, and keeps it.
            if container == member.container {
                members.insert(container, names);
            } else {
                members.entry(container).or_insert(names);
            }
        }
    }
    Some(NetworkNames { head, members })
}

/// Puts a network's names into a catalogue, with the next serial if they are not what they were; whether they are not.
pub fn renew(
    catalogue: &mut Catalogue,
    network: NetworkId,
    names: Option<NetworkNames>,
    now_unix_seconds: u64,
) -> bool {
    let Some(mut names) = names else { return catalogue.remove(&network).is_some() };
    let known = catalogue.get(&network);
    names.head.serial = known.map_or(0, |known| known.head.serial);
    if known == Some(&names) {
        return false;
    }
    // Seconds, as is usual, and more than before (RFC 1982); they go round in 2106.
    let now = u32::try_from(now_unix_seconds & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    names.head.serial = now.max(names.head.serial.wrapping_add(1));
    catalogue.insert(network, names);
    true
}

#[cfg(test)]
pub(in crate::agent) mod tests {
    use super::*;
    use crate::model::PublicKey;
    use crate::store::{Event, Revision};

    pub const SHOP: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
    pub const APP: &str = "ap-a71da13f-7c70-4c00-a644-eee8558d8053";

    fn follow(world: &mut World, key: String, value: String) {
        let key = key.parse().expect("a key");
        world.follow(&Event::Put { key, value: value.into_bytes().into(), revision: Revision::default() });
    }

    pub fn world(states: &[&str]) -> World {
        let mut world = World::default();
        let network = format!(
            r#"{{"version":1,"id":"{SHOP}","name":"shop","vni":7,"subnet":"10.240.0.0/22","mtu":1390,"created_unix_seconds":1}}"#
        );
        follow(&mut world, format!("networks/{SHOP}"), network);
        for (number, state) in (1_u8..).zip(states) {
            let key = PublicKey::new([number; 32]);
            let member = format!(
                r#"{{"version":1,"network":"{SHOP}","app":"{APP}","type":"web","number":{number},"address":"10.240.0.{}","generation":0,"public_key":"{key}","wireguard_port":51820,"host":"a","state":"{state}","ports":["http=80"]}}"#,
                number + 1
            );
            follow(&mut world, format!("members/{SHOP}/{number}.web.{APP}"), member);
        }
        assert_eq!(world.problems().collect::<Vec<_>>(), Vec::<&String>::new());
        world
    }

    /// The host that asks, on which none of the members are.
    pub fn own() -> HostName {
        "b".parse().expect("a name")
    }

    #[test]
    fn members_have_names_while_they_are_ready() {
        let names = names(&world(&["attaching", "ready", "draining"]), SHOP.parse().expect("an id"), &own())
            .expect("it exists");
        let named: Vec<String> = names.members.values().map(|member| format!("{member:?}")).collect();
        assert_eq!(named.len(), 1);
        assert!(named[0].contains("10.240.0.3") && named[0].contains("http=80"), "{named:?}");
    }

    /// A name that is further, draining, or of another membership that has it as its oldest.
    #[test]
    fn each_name_of_a_member_leads_to_its_address_and_the_oldest_ready_one_stands_for_it() {
        let mut world = world(&["ready"]);
        let put = |world: &mut World, state: &str, web_number: u32, side: &str| {
            let key = PublicKey::new([9; 32]);
            let member = format!(
                r#"{{"version":1,"network":"{SHOP}","app":"{APP}","type":"log","number":{web_number},"address":"10.240.0.9","generation":0,"public_key":"{key}","wireguard_port":51820,"host":"a","state":"{state}","names":[{{"app":"{APP}","type":"side","number":1{side}}},{{"app":"{APP}","type":"web","number":1}}]}}"#
            );
            follow(world, format!("members/{SHOP}/{web_number}.log.{APP}"), member);
            assert_eq!(world.problems().collect::<Vec<_>>(), Vec::<&String>::new());
            let names = names(world, SHOP.parse().expect("an id"), &own()).expect("it exists");
            let text = |member: &MemberNames| {
                let (container, ports) = (&member.container, member.ports.len());
                format!("{}.{} {} {} {}", container.number, container.kind, member.address, ports, member.further)
            };
            names.members.values().map(text).collect::<Vec<String>>()
        };
        let other = "1.web 10.240.0.2 1 false".to_owned();
        let log = "1.log 10.240.0.9 0 false".to_owned();
        let side = |further: bool, ports: u8| format!("1.side 10.240.0.9 {ports} {further}");
        assert_eq!(put(&mut world, "attaching", 1, ""), std::slice::from_ref(&other));
        assert_eq!(
            put(&mut world, "ready", 1, r#","ports":["admin=81"]"#),
            [log.clone(), side(true, 1), other.clone()]
        );
        assert_eq!(put(&mut world, "draining", 1, ""), [side(false, 0), other.clone()]);
        assert_eq!(put(&mut world, "ready", 1, r#","draining":true"#), [log, other]);
    }

    #[test]
    fn the_serial_grows_with_each_change_and_stays_otherwise() {
        let id: NetworkId = SHOP.parse().expect("an id");
        let mut catalogue = Catalogue::new();
        let mut serial = |states: &[&str], now: u64| {
            let before = catalogue.clone();
            let changed = renew(&mut catalogue, id, names(&world(states), id, &own()), now);
            assert_eq!(changed, catalogue != before);
            catalogue[&id].head.serial
        };
        assert_eq!(serial(&["ready"], 1000), 1000);
        assert_eq!(serial(&["ready"], 2000), 1000, "nothing changed");
        assert_eq!(serial(&["ready", "ready"], 2000), 2000);
        assert_eq!(serial(&["ready"], 2000), 2001, "twice within a second");
        assert_eq!(serial(&[], 1500), 2002, "a clock that went back");
        assert!(renew(&mut catalogue, id, None, 3000));
        assert!(!renew(&mut catalogue, id, None, 3000));
    }

    #[test]
    fn a_container_in_two_networks_is_one_asker_and_one_that_leaves_is_none() {
        let netns = NetnsId { dev: 4, ino: 7 };
        let record = |network: &str, leaving: bool| Record {
            leaving,
            network: network.parse().expect("an id"),
            netns,
            ..crate::agent::host::journal::tests::record()
        };
        let bank = SHOP.replace("pn-ad", "pn-bd");
        let server = Ipv4Addr::new(127, 0, 0, 82);
        let count = |records: [Record; 2]| {
            containers(records.iter(), server, &BTreeMap::new())
                .get(&netns)
                .map_or(0, |container| container.client.networks.len())
        };
        assert_eq!(count([record(SHOP, false), record(&bank, false)]), 2);
        assert_eq!(count([record(SHOP, false), record(&bank, true)]), 1);
        assert_eq!(count([record(SHOP, true), record(&bank, true)]), 0);
        // They are searched in the order of their interfaces, whatever their ids.
        let second = Record { index: 1, ..record(SHOP, false) };
        let searched = networks([&second, &record(&bank, false)].into_iter(), netns);
        assert_eq!(searched.iter().map(ToString::to_string).collect::<Vec<_>>(), [bank.as_str(), SHOP]);
        assert_eq!(networks([&second].into_iter(), NetnsId { ino: 8, ..netns }), []);
    }
}
