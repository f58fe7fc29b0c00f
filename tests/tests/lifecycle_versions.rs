//! An agent of this build and one of the build before on one etcd: each acts on what the other writes.
//!
//! ```text
//!  h1: agent of this build, web-1 ──┐            ┌── h2: records of the build before, backend-1; no datapath
//!                                   ├─ underlay ─┤
//!                     h3: etcd ─────┘            └── reads all that h1 writes by the structs of the build before
//! ```

mod attacker;
mod version_before;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use attacker::device_of;
use privnet::agent::views::RebuiltState;
use privnet::model::PublicKey;
use privnet::store::{Embedded, Entry, Store as _};
use privnet_tests::lab::container::APP;
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{Container, Cut, Lab, Options, figure, runtime, underlay_address, wait_until};
use version_before::records::{self, State, rewrite};
use version_before::{OldHost, address_key, member_key};

const SUBNET: &str = "10.92.0.0/24";
const OTHER_SUBNET: &str = "10.93.0.0/24";
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 92, 0, 2);
const ANOTHER: Ipv4Addr = Ipv4Addr::new(10, 92, 0, 9);
const PORT: u16 = 7000;
/// What a build to come adds to a record.
const COLOUR: &str = r#""colour":{"name":"red","shades":[1,2.5,null]}}"#;

fn text(entry: &Entry) -> String {
    String::from_utf8(entry.value.to_vec()).expect("text")
}

/// Adds a field that neither of the two builds knows.
fn colour(old: &OldHost, key: &str) {
    let text = text(&old.entry(key).unwrap_or_else(|| panic!("{key} is not there")));
    old.overwrite(key, &format!("{},{COLOUR}", text.strip_suffix('}').expect("JSON")));
}

#[track_caller]
fn assert_coloured(old: &OldHost, key: &str) {
    let text = text(&old.entry(key).unwrap_or_else(|| panic!("{key} is not there")));
    assert!(text.ends_with(COLOUR), "{key}: {text}");
}

/// What stands in for the old build writes, byte for byte, what the old build did write.
#[test]
fn the_frozen_records_are_those_that_the_build_before_wrote() {
    let directory = tempfile::tempdir().expect("a directory");
    let written = include_bytes!("../../privnet-userspace/fixtures/version-before/store.redb");
    std::fs::write(directory.path().join("store.redb"), written).expect("the state file");
    let entries = runtime().block_on(async {
        let store = Embedded::open(directory.path()).await.expect("the store of the build before");
        let mut entries = Vec::new();
        for room in ["networks", "names", "vnis", "members", "addresses", "public-keys", "hosts"] {
            let listing = store.list(&format!("{room}/").parse().expect("a prefix")).await.expect("a listing");
            assert!(!listing.entries.is_empty(), "the build before wrote no {room}");
            entries.extend(listing.entries);
        }
        entries
    });
    for entry in entries {
        let again = rewrite(entry.key.as_str(), &entry.value).unwrap_or_else(|fault| panic!("{} {fault}", entry.key));
        assert_eq!(String::from_utf8(again).expect("text"), text(&entry), "{}", entry.key);
    }
}

#[test]
fn agents_of_two_builds_share_an_etcd_and_each_acts_on_what_the_other_writes() {
    let lab = Lab::new("agents_of_two_builds_share_an_etcd_and_each_acts_on_what_the_other_writes");
    let ([first, second], etcd) = lab.underlay_with_etcd();
    let mut old = OldHost::start(second, 2, etcd.url());
    let shop = old.create_network("shop", 4711, SUBNET);
    let backend_container = format!("1.backend.{APP}");
    let backend = old.attach(&shop, &backend_container, BACKEND, PublicKey::new([7; 32]));

    // The agent of this build finds what the old one wrote.
    let one = lab.host_in(first, 1, &Options::ebpf().with_etcd(etcd.url()));
    let networks = one.networks().expect("networks");
    let network = networks.into_iter().find(|network| network.name.as_str() == "shop").expect("the old host's");
    assert_eq!(
        (network.id.to_string(), network.vni, network.subnet.to_string().as_str()),
        (shop.id.0.clone(), 4711, SUBNET)
    );
    let members = one.members().expect("members");
    let found: Vec<_> = members.iter().map(|view| (view.member.address, view.host.as_str(), view.public_key)).collect();
    assert_eq!(found, [(BACKEND, "h2", backend.public_key)]);

    // A container that it attaches meets the old host's member: as a peer, by the way to its host, and by name.
    let web = lab.member(&one, &network, "web-1");
    let (device, runtime) = device_of(&one, &web);
    let peer = |key: &PublicKey| {
        let peers = runtime.block_on(device.observe()).expect("the device").expect("it is there").peers;
        let peer = peers.get(key)?;
        Some(peer.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let is_peer = |key: &PublicKey| peer(key) == Some(vec![format!("{BACKEND}/32")]);
    wait_until("the old host's member is a peer", || is_peer(&backend.public_key));
    wait_until("its host is found", || web.network.run("bridge fdb show dev vxlan0").contains("dst 192.168.77.2"));
    let name = format!("{backend_container}.{}.private-network.internal", shop.id);
    let address = BACKEND.to_string();
    wait_until("its name is told", || web.told(&name) == address);

    // The old one reads what the new one wrote, as its own structs have it.
    let web_container = format!("1.web.{APP}");
    let web_key = format!("members/{}/{web_container}", shop.id);
    wait_until("the old agent sees that web is ready", || {
        old.seen(&web_key).is_some_and(|member: records::Member| member.state == State::Ready)
    });
    let seen: records::Member = old.seen(&web_key).expect("a member");
    assert_eq!((seen.address, seen.generation, seen.host.0.as_str()), (web.address(), 0, "h1"));
    let row = old.row(&shop, web.address()).expect("a row");
    assert_eq!((row.holder.map(|holder| holder.0), row.generation), (Some(web_container), 0));
    let bank = one.network("bank", OTHER_SUBNET);
    let mut named = lab.container("named-1");
    named.app = "shop-api".to_owned();
    one.attach(&bank, &named, None).expect("attached");
    old.restart();
    assert_eq!(old.faults(), Vec::<String>::new());
    let seen: records::Network = old.seen(&format!("networks/{}", bank.id)).expect("a network");
    assert_eq!((seen.name.0.as_str(), seen.vni), ("bank", bank.vni));

    // An agent that starts anew writes of itself again. It keeps what it does not know, and leaves the old host's alone.
    let own = old.own(&shop, &[&backend]);
    let of_one = ["hosts/h1", "presences/h1"];
    for key in of_one {
        colour(&old, key);
    }
    let before: Vec<Entry> = of_one.iter().map(|key| old.entry(key).expect("there")).collect();
    one.kill();
    one.start();
    one.wait_until_settled();
    for (key, before) in of_one.iter().zip(before) {
        assert_coloured(&old, key);
        assert!(old.entry(key).expect("there").revision > before.revision, "{key} was written again");
    }
    assert_eq!(old.own(&shop, &[&backend]), own);
    assert!(is_peer(&backend.public_key) && web.told(&name) == address);
    assert_eq!(old.faults(), Vec::<String>::new());

    // Neither acts on a record of a higher version; what it said before holds.
    let key = member_key(&backend);
    let as_it_was = text(&old.entry(&key).expect("there"));
    old.overwrite(&key, &as_it_was.replace(r#""version":1"#, r#""version":2"#).replace("ready", "waiting"));
    wait_until("the agent says that it cannot read the record", || {
        let problems = one.status().expect("status").problems;
        problems.iter().any(|problem| problem.contains(&key) && problem.contains("version 2"))
    });
    assert!(is_peer(&backend.public_key) && web.told(&name) == address);
    let faults = old.faults();
    assert!(faults.len() == 1 && faults[0].starts_with(&format!("{key} has version 2")), "{faults:?}");
    old.overwrite(&key, &as_it_was);
    one.wait_until_settled();

    // The old host's presence says whether its members have names.
    old.is_not_heard();
    wait_until("the name is gone", || web.told(&name).is_empty());
    assert!(is_peer(&backend.public_key), "nothing but the name is");
    old.announce();
    wait_until("the name is told again", || web.told(&name) == address);

    // An address goes from the old build to this one and back: each raises the generation that the other left.
    let row_key = address_key(&shop, BACKEND);
    old.detach(&shop, &backend, 1_700_000_000);
    wait_until("the old host's member is gone", || peer(&backend.public_key).is_none() && web.told(&name).is_empty());
    colour(&old, &row_key);
    let other = lab.container("other-1");
    one.attach(&network, &other, Some(BACKEND)).expect("the address is free");
    assert_coloured(&old, &row_key);
    let row = old.row(&shop, BACKEND).expect("a row");
    assert_eq!((row.holder.map(|holder| holder.0), row.generation), (Some(format!("1.other.{APP}")), 1));
    assert!(one.detach(&network, &other).expect("detach").detached);
    assert_coloured(&old, &row_key);
    let row = old.row(&shop, BACKEND).expect("a row");
    assert!(row.holder.is_none() && row.generation == 1 && row.released_unix_seconds.is_some(), "{row:?}");
    let backend = old.attach(&shop, &backend_container, BACKEND, PublicKey::new([8; 32]));
    assert_eq!(backend.generation, 2);
    wait_until("the old host's member is a peer again", || is_peer(&backend.public_key));
    wait_until("its name is told again", || web.told(&name) == address);

    // The store loses its records while a host of the build before shares it. What this build wrote is back as it was, and the
    // old agent reads it; of the old host's member, absence is the end, as ever.
    let db = lab.member(&one, &network, "db-1");
    let server = Server::echo(&db.app, PORT);
    wait_until("web reaches db", || web.pings(db.address()));
    let stream = Stream::start(&web.app, (db.address(), PORT), Duration::from_millis(1));
    stream.flows();
    let lost = ["members/", "public-keys/", "networks/", "names/", "vnis/", "hosts/h1"];
    let of_this_build = || -> BTreeMap<String, String> {
        let records = etcd.records(&["fences/"]).into_iter();
        let records = records.filter(|(key, _)| lost.iter().any(|prefix| key.starts_with(prefix)));
        let records =
            records.filter(|(key, value)| !key.contains(&backend_container) && !value.contains(&backend_container));
        // A host tells anew how far it has come: of its record the key is compared.
        records
            .map(|(key, value)| if key.starts_with("hosts/") { (key, String::new()) } else { (key, value) })
            .collect()
    };
    wait_until("each member is ready in the store", || {
        !of_this_build().values().any(|text| text.contains("attaching"))
    });
    let before = of_this_build();
    let begun = Instant::now();
    etcd.delete(&lost);
    wait_until("what this build wrote is back", || of_this_build() == before);
    let took = begun.elapsed();
    wait_until("the old host's member has ended", || peer(&backend.public_key).is_none() && web.told(&name).is_empty());
    stream.flows();
    assert_eq!(old.faults(), Vec::<String>::new());
    let seen: records::Member = old.seen(&web_key).expect("a member");
    assert_eq!((seen.address, seen.state), (web.address(), State::Ready));
    // Its agent attaches the container again, at another address: of this one the end is not recorded.
    let backend = old.attach(&shop, &backend_container, ANOTHER, PublicKey::new([9; 32]));
    wait_until("the old host's member is a peer again", || peer(&backend.public_key).is_some());
    wait_until("its name is told again", || web.told(&name) == ANOTHER.to_string());
    assert_eq!(old.faults(), Vec::<String>::new());
    let (sent, missed) = stream.finish();
    figure(&format!(
        "a loss beside a host of the build before: {} records back after {} ms, {} of {sent} datagrams lost",
        before.len(),
        took.as_millis(),
        missed.len()
    ));
    assert!(missed.is_empty(), "{} of {sent} were lost: {missed:?}", missed.len());
    drop(server);
    assert!(one.detach(&network, &db.container).expect("detach").detached);

    // A further name of web's membership has a key that the old build does not read: it goes on seeing one member.
    let own = old.own(&shop, &[&backend]);
    let side = Container { kind: "side".to_owned(), ..web.container.clone() };
    assert_eq!(one.attach(&network, &side, None).expect("a further name").member.address, web.address());
    assert_eq!(old.faults(), Vec::<String>::new());
    let side_key = format!("members/{}/1.side.{APP}", shop.id);
    assert!(old.entry(&side_key).is_none());

    // A member's record changes, and keeps what its agent does not know; then its oldest name goes, and the old build sees
    // the membership under the other one.
    colour(&old, &web_key);
    let arguments = ["detach", "--network", "shop", "--app", APP, "--type", "web", "--number", "1", "--drain"];
    let mut draining = one.cli().command(&arguments).spawn().expect("privnet starts");
    let mut drained = String::new();
    wait_until("web is draining", || {
        drained = old.entry(&web_key).map(|entry| text(&entry)).unwrap_or_default();
        drained.contains("draining")
    });
    assert!(drained.ends_with(COLOUR), "{drained}");
    assert!(draining.wait().expect("its end").success());
    assert!(old.entry(&web_key).is_none(), "the name has left");
    assert_coloured(&old, &side_key);
    assert_eq!(old.faults(), Vec::<String>::new());
    let seen: records::Member = old.seen(&side_key).expect("a member");
    assert_eq!((seen.address, seen.generation, seen.state), (web.address(), 0, State::Ready));
    let row = old.row(&shop, web.address()).expect("a row");
    assert_eq!((row.holder.map(|holder| holder.0), row.generation), (Some(format!("1.side.{APP}")), 0));

    // Then the member leaves, and nothing else does.
    assert!(one.detach(&network, &side).expect("detach").detached);
    assert!(old.entry(&side_key).is_none(), "the member has left");
    let row = old.row(&shop, web.address()).expect("a row");
    assert!(row.holder.is_none() && row.generation == 0 && row.released_unix_seconds.is_some(), "{row:?}");
    assert_eq!(old.own(&shop, &[&backend]), own);
    assert_eq!(old.faults(), Vec::<String>::new());
    for room in ["networks", "members", "addresses", "hosts", "presences", "names", "vnis", "public-keys"] {
        assert!(old.read(room) > 1, "the old agent read {} {room}", old.read(room));
    }
    drop(old);
    lab.finish();
}

#[test]
fn a_host_of_the_build_before_is_beside_a_restore_a_partition_and_a_rebuild() {
    let lab = Lab::new("a_host_of_the_build_before_is_beside_a_restore_a_partition_and_a_rebuild");
    let ([first, second], mut etcd) = lab.underlay_with_etcd();
    let mut old = OldHost::start(second, 2, etcd.url());
    let shop = old.create_network("shop", 4711, SUBNET);
    let attach = |old: &OldHost, kind: &str, last: u8| {
        old.attach(&shop, &format!("1.{kind}.{APP}"), Ipv4Addr::new(10, 92, 0, last), PublicKey::new([last; 32]))
    };
    let (backend, gone) = (attach(&old, "backend", 2), attach(&old, "gone", 8));
    let one = lab.host_in(first, 1, &Options::ebpf().with_etcd(etcd.url()));
    let network = one.networks().expect("networks").remove(0);
    let (web, db) = (lab.member(&one, &network, "web-1"), lab.member(&one, &network, "db-1"));
    let server = Server::echo(&db.app, PORT);
    wait_until("web reaches db", || web.pings(db.address()));
    let stream = Stream::start(&web.app, (db.address(), PORT), Duration::from_millis(1));
    let (device, runtime) = device_of(&one, &web);
    let has = |member: &records::Member| {
        let peers = runtime.block_on(device.observe()).expect("the device").expect("it is there").peers;
        let name = format!("{}.{}.private-network.internal", member.container, shop.id);
        peers.contains_key(&member.public_key) && web.told(&name) == member.address.to_string()
    };
    let has_not = |member: &records::Member| {
        let peers = runtime.block_on(device.observe()).expect("the device").expect("it is there").peers;
        !peers.contains_key(&member.public_key)
    };
    wait_until("web has both of the old host", || has(&backend) && has(&gone));

    // An older copy of the store. What this build wrote since is put back. Of the old host's members those in the copy go on;
    // one that came since has no record, which is its end, and one that ended since ends once more.
    etcd.kill();
    etcd.back_up_data();
    etcd.start();
    one.wait_until_settled();
    old.restart();
    old.detach(&shop, &gone, 1_700_000_000);
    let since = attach(&old, "since", 9);
    let late = lab.member(&one, &network, "late-1");
    wait_until("web has what came since", || has(&since) && has_not(&gone) && web.pings(late.address()));
    etcd.kill();
    etcd.put_data_back();
    etcd.start();
    let begun = Instant::now();
    old.restart();
    let late_key = format!("members/{}/1.late.{APP}", shop.id);
    wait_until("what this build wrote is back", || old.entry(&late_key).is_some());
    let restore = begun.elapsed();
    one.wait_until_settled();
    assert!(has(&backend) && web.pings(late.address()));
    old.detach(&shop, &gone, 1_700_000_000);
    wait_until("the copy's records have no other of its members", || has_not(&since) && has_not(&gone));
    stream.flows();

    // The host of this build is cut off from the store: it keeps what it has, and hears afterwards what the old host did.
    let cuts = Cut::between((&one.space, underlay_address(1)), (etcd.space(), underlay_address(3)));
    wait_until("the trouble is said", || !one.status().expect("status").problems.is_empty());
    let meanwhile = attach(&old, "meanwhile", 11);
    assert!(has(&backend) && has_not(&meanwhile));
    stream.flows();
    drop(cuts);
    wait_until("web has what came meanwhile", || has(&meanwhile) && has(&backend));
    one.wait_until_settled();

    // Everything is deleted. Until an operator says that this is the store, the old host's members go on. Then the host of this
    // build puts back its own; the old host's have no record, which is their end, until its agent attaches them again.
    etcd.delete(&[""]);
    wait_until("the agent does not act on it", || {
        one.status().expect("status").problems.iter().any(|problem| problem.contains("has no record of fleet"))
    });
    old.announce();
    stream.flows();
    assert!(has(&backend) && has(&meanwhile));
    let begun = Instant::now();
    let rebuilt: RebuiltState =
        one.cli().json(&["state", "rebuild"]).expect("the old host's word of itself is in no way");
    assert_eq!((rebuilt.epoch, rebuilt.networks), (2, 1));
    wait_until("what this build wrote is back", || old.entry(&late_key).is_some());
    let rebuild = begun.elapsed();
    one.wait_until_settled();
    wait_until("the old host's members have ended", || has_not(&backend) && has_not(&meanwhile));
    let backend = attach(&old, "backend", 2);
    wait_until("web has it once more", || has(&backend) && web.pings(late.address()));
    assert!(old.faults().iter().all(|fault| fault.starts_with("the watch ended")), "of etcd's own ends");
    let (sent, lost) = stream.finish();
    figure(&format!(
        "beside a host of the build before: what this build wrote was back {restore:.1?} after a restore, {rebuild:.1?} after a \
         rebuild; {} of {sent} datagrams were lost",
        lost.len()
    ));
    assert!(lost.is_empty(), "{} of {sent} were lost: {lost:?}", lost.len());
    drop(server);
    drop(old);
    lab.finish();
}
