//! A network's instance on the bpffs: created, adopted, compared with the table, attached, counted, taken down.

mod datapath;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;

use datapath::*;
use privnet::datapath::{
    Attachment, CLSACT_PRIORITY, Error, Hook, MemberRow, Method, Network, NetworkSpec, Outcome, PortRow, clsact_handle,
    features,
};
use privnet::model::IfName;
use privnet::netns::Netns;
use privnet_ebpf::maps::{MAP_MEMBERS, MAP_PORTS};
use privnet_ebpf::net::Vni;
use privnet_tests::lab::{Ground, run_in, skip, until};

#[test]
fn what_is_pinned_is_adopted_and_nothing_is_written() {
    let mut bed = Bed::new();
    bed.run(Hook::FromMember, ALICE_IF, &datagram(ALICE, BOB));
    let again = Network::open(bed.network.pin_dir(), &spec()).expect("adopted");
    assert!(!bed.network.was_adopted() && again.was_adopted());
    assert_eq!(Hook::ALL.map(|hook| again.program_id(hook)), Hook::ALL.map(|hook| bed.network.program_id(hook)));
    assert_eq!(again.members().expect("members"), bed.network.members().expect("members"));
    assert_eq!(again.ports().expect("ports"), bed.network.ports().expect("ports"));
    assert_eq!(again.vtep().expect("vtep"), Some(VTEP_IF));
    assert_eq!(again.counters().expect("counters"), bed.network.counters().expect("counters"));
    bed.network = again;
    bed.forwards(Hook::FromMember, ALICE_IF, &datagram(ALICE, BOB), ALICE.address, Outcome::ForwardedLocal);
}

#[test]
fn an_instance_that_lost_a_program_or_its_mark_loads_again_over_the_same_maps() {
    for lost in [Hook::FromVtep.program(), "mark"] {
        let bed = Bed::new();
        bed.run(Hook::FromMember, ALICE_IF, &datagram(ALICE, BOB));
        let before = bed.network.counters().expect("counters");
        let old = bed.network.program_id(Hook::FromMember);
        if lost == "mark" {
            erase_mark(bed.network.pin_dir());
        } else {
            fs::remove_file(bed.network.pin_dir().join(lost)).expect("unpin");
        }
        let again = Network::open(bed.network.pin_dir(), &spec()).expect("loaded");
        assert!(!again.was_adopted(), "{lost}");
        assert_ne!(again.program_id(Hook::FromMember), old);
        assert_eq!(again.members().expect("members").len(), 4);
        assert_eq!(again.vtep().expect("vtep"), Some(VTEP_IF));
        assert_eq!(again.counters().expect("counters"), before);
        assert!(Network::open(bed.network.pin_dir(), &spec()).expect("adopted").was_adopted());
    }
}

#[test]
fn a_changed_specification_is_written_without_loading() {
    let bed = Bed::new();
    let quiet = Network::open(bed.network.pin_dir(), &NetworkSpec { event_sample: 5, ..spec() }).expect("adopted");
    assert!(quiet.was_adopted());
    assert_eq!(quiet.vtep().expect("vtep"), Some(VTEP_IF));
}

#[test]
fn a_pinned_map_of_another_layout_is_refused_and_left_alone() {
    let bed = Bed::new();
    let wider = NetworkSpec { prefix: "10.240.0.0/16".parse().expect("prefix"), ..spec() };
    let error = Network::open(bed.network.pin_dir(), &wider).err().expect("refused");
    assert!(matches!(error, Error::Layout { .. }), "{error}");
    assert!(error.to_string().contains(MAP_PORTS.name) && error.to_string().contains("1024 entries"), "{error}");
    bed.forwards(Hook::FromMember, ALICE_IF, &datagram(ALICE, BOB), ALICE.address, Outcome::ForwardedLocal);
    assert!(Network::open(bed.network.pin_dir(), &spec()).expect("adopted").was_adopted());
}

#[test]
fn an_ordinary_directory_takes_no_pins() {
    let dir = tempfile::tempdir().expect("directory");
    let inside = dir.path().join("network");
    assert!(matches!(Network::open(&inside, &spec()), Err(Error::NotBpffs { .. })));
    assert!(!inside.exists());
}

#[test]
fn taking_down_leaves_nothing_and_may_be_repeated() {
    let ground = Ground::join();
    let dir = ground.pin_dir();
    let network = Network::open(&dir, &spec()).expect("network");
    network.unpin().expect("unpin");
    assert!(!dir.exists());
    Network::remove_pins(&dir).expect("absent is done");
}

#[test]
fn tables_say_what_was_written() {
    let mut bed = Bed::new();
    let network = &mut bed.network;
    let (bob, row) = (BOB.address, MemberRow::remote(BOB.mac, 51_999));
    network.set_member(bob, row).expect("changed");
    network.remove_member(CAROL.address).expect("removed");
    network.remove_member(CAROL.address).expect("absent is done");
    network.remove_port(BOB_IF).expect("removed");
    network.remove_port(BOB_IF).expect("absent is done");
    let alice = MemberRow::local(ALICE.mac, ALICE.port, ALICE_IF);
    let dave = MemberRow::remote(DAVE.mac, DAVE.port);
    let expected: BTreeMap<Ipv4Addr, MemberRow> =
        [(ALICE.address, alice), (bob, row), (DAVE.address, dave)].into_iter().collect();
    assert_eq!(network.members().expect("members"), expected);
    let port = PortRow::new(ALICE.address.octets(), ALICE.mac, ALICE.port);
    assert_eq!(network.ports().expect("ports"), [(ALICE_IF, port)].into_iter().collect());
}

#[test]
fn a_full_table_says_so_and_keeps_what_it_has() {
    let small = NetworkSpec { prefix: "10.240.0.0/28".parse().expect("prefix"), ..spec() };
    let mut bed = Bed::with(&small);
    let mut added = 0;
    let error = (0..).find_map(|number: u32| {
        let address = Ipv4Addr::from(0x0a63_0000 + number);
        let result = bed.network.set_member(address, MemberRow::remote(CAROL.mac, 1));
        added += u32::from(result.is_ok());
        result.err()
    });
    assert!(matches!(error, Some(Error::Full { map, .. }) if map == MAP_MEMBERS.name), "{error:?}");
    assert_eq!(bed.network.members().expect("members").len(), added as usize + 4);
    bed.forwards(Hook::FromMember, ALICE_IF, &datagram(ALICE, BOB), ALICE.address, Outcome::ForwardedLocal);
}

#[tokio::test]
async fn a_filter_is_put_on_once_and_replaced_in_place() {
    let mut bed = Bed::new();
    let interface: IfName = format!("if{ALICE_IF}").parse().expect("name");
    for hook in [Hook::FromMember, Hook::GuardEgress] {
        let side = if hook == Hook::GuardEgress { "egress" } else { "ingress" };
        assert_eq!(filters(&bed.netns, &interface, side), []);
        for _ in 0..2 {
            bed.network.attach_by(Method::Clsact, &bed.netns, &interface, hook).await.expect("attached");
            assert_eq!(filters(&bed.netns, &interface, side), [filter_of(&bed.network, hook)]);
        }
        erase_mark(bed.network.pin_dir());
        bed.network = Network::open(bed.network.pin_dir(), &spec()).expect("loaded");
        bed.network.attach_by(Method::Clsact, &bed.netns, &interface, hook).await.expect("replaced");
        assert_eq!(filters(&bed.netns, &interface, side), [filter_of(&bed.network, hook)]);
        for _ in 0..2 {
            bed.network.detach(&bed.netns, &interface, hook).await.expect("detached");
            assert_eq!(filters(&bed.netns, &interface, side), []);
        }
    }
}

#[tokio::test]
async fn a_strangers_filter_of_the_same_priority_survives_ours() {
    let bed = Bed::new();
    let interface: IfName = format!("if{ALICE_IF}").parse().expect("name");
    let pin = bed.network.program_pin(Hook::GuardEgress);
    run_in(&bed.netns, &format!("tc qdisc add dev {interface} clsact"));
    let add = format!(
        "tc filter add dev {interface} ingress protocol all pref 1 handle 1 bpf da object-pinned {}",
        pin.display()
    );
    run_in(&bed.netns, &add);
    let theirs = ("0x1".to_owned(), bed.network.program_id(Hook::GuardEgress));
    bed.network.attach(&bed.netns, &interface, Hook::GuardIngress).await.expect("attached");
    let ours = filter_of(&bed.network, Hook::GuardIngress);
    assert_eq!(filters(&bed.netns, &interface, "ingress"), [theirs.clone(), ours]);
    bed.network.detach(&bed.netns, &interface, Hook::GuardIngress).await.expect("detached");
    assert_eq!(filters(&bed.netns, &interface, "ingress"), [theirs]);
}

/// A container can be in several networks: each puts its guard on the same foreign interfaces.
#[tokio::test]
async fn the_guards_of_two_networks_share_an_interface() {
    let bed = Bed::new();
    let other = NetworkSpec { vni: Vni::new(8).expect("VNI"), ..spec() };
    let other = open(&bed.ground, &other);
    let interface: IfName = format!("if{ALICE_IF}").parse().expect("name");
    for network in [&bed.network, &other, &bed.network] {
        network.attach(&bed.netns, &interface, Hook::GuardIngress).await.expect("attached");
    }
    let first = filter_of(&bed.network, Hook::GuardIngress);
    let second = (format!("{:#x}", clsact_handle(Vni::new(8).expect("VNI"))), other.program_id(Hook::GuardIngress));
    assert_eq!(filters(&bed.netns, &interface, "ingress"), [first.clone(), second]);
    other.detach(&bed.netns, &interface, Hook::GuardIngress).await.expect("detached");
    assert_eq!(filters(&bed.netns, &interface, "ingress"), [first]);
    other.unpin().expect("unpin");
}

#[tokio::test]
async fn a_tcx_link_is_pinned_replaced_and_seen() {
    if !features().tcx {
        return skip("TCX");
    }
    let bed = Bed::new();
    let (interface, hook): (IfName, _) = (format!("if{VTEP_IF}").parse().expect("name"), Hook::FromVtep);
    let seen = |network: &Network| {
        let (network, netns, interface) = (network.pin_dir().to_owned(), bed.netns.clone(), interface.clone());
        async move {
            let network = Network::open(&network, &spec()).expect("adopted");
            network.attached_by_tcx(&netns, &interface, hook).await.expect("query")
        }
    };
    assert_eq!(seen(&bed.network).await, Attachment::Absent);
    for _ in 0..2 {
        bed.network.attach_by(Method::Tcx, &bed.netns, &interface, hook).await.expect("attached");
        assert_eq!(seen(&bed.network).await, Attachment::Current);
    }
    erase_mark(bed.network.pin_dir());
    let newer = Network::open(bed.network.pin_dir(), &spec()).expect("loaded");
    assert_eq!(seen(&newer).await, Attachment::Older);
    newer.attach_by(Method::Tcx, &bed.netns, &interface, hook).await.expect("replaced");
    assert_eq!(seen(&newer).await, Attachment::Current);
    for _ in 0..2 {
        newer.detach(&bed.netns, &interface, hook).await.expect("detached");
    }
    until("the link is gone", async || seen(&newer).await == Attachment::Absent).await;
}

/// A program of TCX that passes a packet passes it by every filter.
#[tokio::test]
async fn a_guard_is_put_before_whoever_came_before_it() {
    if !features().tcx {
        return skip("TCX");
    }
    let bed = Bed::new();
    let (interface, hook): (IfName, _) = (format!("if{ALICE_IF}").parse().expect("name"), Hook::GuardIngress);
    let seen = async || bed.network.attached_by_tcx(&bed.netns, &interface, hook).await.expect("query");
    let ours = || filters(&bed.netns, &interface, "ingress");
    bed.network.attach(&bed.netns, &interface, hook).await.expect("attached");
    assert_eq!((seen().await, ours().len()), (Attachment::Absent, 1), "the twin: a filter is enough");
    // Programs of other names are foreign on this hook.
    for stranger in [Hook::FromMember, Hook::FromVtep] {
        bed.network.attach_by(Method::Tcx, &bed.netns, &interface, stranger).await.expect("attached");
        assert_eq!(seen().await, Attachment::Preceded);
        for _ in 0..2 {
            bed.network.attach(&bed.netns, &interface, hook).await.expect("put before it");
            assert_eq!((seen().await, ours()), (Attachment::Current, vec![]));
        }
        bed.network.detach(&bed.netns, &interface, stranger).await.expect("detached");
        assert_eq!(seen().await, Attachment::Current);
    }
    let links = || fs::read_dir(bed.network.pin_dir()).expect("pins").flatten().filter(is_link).count();
    assert_eq!(links(), 1);
    bed.network.unpin_links_of(bed.netns.id()).expect("forgotten");
    assert_eq!(links(), 0);
    until("the link is gone", async || seen().await == Attachment::Absent).await;
}

#[tokio::test]
async fn the_links_of_a_network_netns_before_are_unpinned_and_those_of_guards_stay() {
    if !features().tcx {
        return skip("TCX");
    }
    let bed = Bed::new();
    let [before] = bed.ground.namespaces();
    let lo: IfName = "lo".parse().expect("name");
    for (netns, hook) in [(&before, Hook::FromVtep), (&before, Hook::GuardIngress), (&bed.netns, Hook::FromVtep)] {
        bed.network.attach_by(Method::Tcx, netns, &lo, hook).await.expect("attached");
    }
    let links = || {
        let entries = fs::read_dir(bed.network.pin_dir()).expect("pins").flatten().filter(is_link);
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<BTreeSet<_>>()
    };
    let name = |netns: &Netns, hook: Hook| format!("link-{}-{}-lo", hook.program(), netns.id().ino);
    let [guard, now] = [name(&before, Hook::GuardIngress), name(&bed.netns, Hook::FromVtep)];
    assert_eq!(links(), BTreeSet::from([name(&before, Hook::FromVtep), guard.clone(), now.clone()]));
    bed.network.unpin_links_before(bed.netns.id()).expect("unpinned");
    assert_eq!(links(), BTreeSet::from([guard, now]));
}

fn is_link(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with("link-")
}

#[tokio::test]
async fn the_pinned_link_of_a_namespace_that_is_gone_gives_way() {
    if !features().tcx {
        return skip("TCX");
    }
    let bed = Bed::new();
    let (interface, hook): (IfName, _) = ("lo".parse().expect("name"), Hook::FromVtep);
    let [doomed] = bed.ground.namespaces();
    bed.network.attach_by(Method::Tcx, &doomed, &interface, hook).await.expect("attached");
    let stale = bed.network.pin_dir().join(format!("link-from_vtep-{}-lo", doomed.id().ino));
    let recycled = bed.network.pin_dir().join(format!("link-from_vtep-{}-lo", bed.netns.id().ino));
    drop(doomed);
    fs::rename(&stale, &recycled).expect("as if the inode were recycled");
    until("a program is attached in the new namespace", async || {
        bed.network.attach_by(Method::Tcx, &bed.netns, &interface, hook).await.expect("attached");
        bed.network.attached_by_tcx(&bed.netns, &interface, hook).await.expect("query") == Attachment::Current
    })
    .await;
}

#[tokio::test]
async fn an_interface_that_is_not_there_is_named_and_detaching_from_it_is_done() {
    let bed = Bed::new();
    let nowhere: IfName = "nowhere".parse().expect("name");
    for method in [Method::Clsact, Method::Tcx] {
        let error = bed.network.attach_by(method, &bed.netns, &nowhere, Hook::GuardIngress).await.expect_err("refused");
        assert_eq!(error.to_string(), "no interface nowhere for program guard_ingress");
    }
    bed.network.detach(&bed.netns, &nowhere, Hook::GuardIngress).await.expect("absent is done");
}

/// Handle and program of the filters on one side of an interface.
fn filters(netns: &Netns, interface: &IfName, side: &str) -> Vec<(String, u32)> {
    let text = run_in(netns, &format!("tc filter show dev {interface} {side}"));
    let after = |line: &str, word: &str| {
        line.split_whitespace().skip_while(|other| *other != word).nth(1).map(ToOwned::to_owned)
    };
    let mut filters: Vec<(String, u32)> = text
        .lines()
        .filter_map(|line| Some((after(line, "handle")?, after(line, "id")?.parse().expect("program id"))))
        .collect();
    filters.sort_unstable();
    filters
}

fn filter_of(network: &Network, hook: Hook) -> (String, u32) {
    assert_eq!(CLSACT_PRIORITY, 1);
    (format!("{:#x}", clsact_handle(spec().vni)), network.program_id(hook))
}
