//! Records there and back, half written, damaged, and carried over.

use std::os::unix::fs::PermissionsExt;

use super::record::FurtherName;
use super::*;
use crate::agent::belief::Belief;
use crate::agent::world::SharedWorld;
use crate::store::{Embedded, Key, Store as _, Value, keys};
use crate::topology::ownership::MAX_LINK_SLOTS;

pub fn record() -> Record {
    Record {
        id: MemberId::new(7),
        network: "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c".parse().expect("valid"),
        container: "1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053".parse().expect("valid"),
        address: Ipv4Addr::new(10, 240, 0, 2),
        index: 0,
        slot: None,
        binding: None,
        netns_path: PathBuf::from("/run/netns/a"),
        names: Vec::new(),
        netns: NetnsId { dev: 4, ino: 4_026_532_000 },
        netns_cookie: None,
        boot_id: "boot".to_owned(),
        leaving: false,
        clock_steps: BTreeMap::new(),
        handover: None,
        interface: None,
        attachment: None,
        stored: BTreeMap::new(),
        resolv_conf: None,
        unknown: BTreeMap::new(),
    }
}

/// The record of the build before, and its name there without an extension.
const OLD: &str = r#"{"version":1,"network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","container":{"app":"ap-a71da13f-7c70-4c00-a644-eee8558d8053","type":"web","number":1},"address":"10.240.0.2","index":0,"netns_path":"/run/netns/a","netns":{"dev":4,"ino":4026532000},"netns_cookie":77,"boot_id":"boot","leaving":true,"clock_steps":{"host-2":3}}"#;
const OLD_STEM: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c_10.240.0.2";

/// Writes what the build before wrote, and returns the private key and the id that follows from it.
fn old_files(dir: &Path) -> (PrivateKey, MemberId) {
    let key = PrivateKey::from_random([7; 32]);
    rename_over(&dir.join(format!("{OLD_STEM}.json")), Durability::ThisBoot, OLD.as_bytes()).expect("written");
    let text = key.reveal_base64();
    rename_over(&dir.join(format!("{OLD_STEM}.key")), Durability::ThisBoot, text.as_bytes()).expect("written");
    let id = MemberId::of_key(key.public_key());
    (key, id)
}

fn names(dir: &Path) -> BTreeSet<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name().into_string().expect("text");
    fs::read_dir(dir).expect("listed").map(name).collect()
}

/// What has to be true of a directory that an agent has taken over, whatever was in it of one record of the build before.
fn assert_carried_over(dir: &Path, key: &PrivateKey, id: MemberId) {
    let mut journal = Journal::open(dir).expect("opens");
    journal.carry_over().expect("carried over");
    journal.sweep().expect("swept");
    let expected = Record {
        id,
        slot: None,
        leaving: true,
        netns_cookie: Some(77),
        clock_steps: BTreeMap::from([("host-2".parse().expect("valid"), 3)]),
        ..record()
    };
    assert_eq!(journal.records().values().collect::<Vec<_>>(), [&expected]);
    assert_eq!(journal.private_key(id).expect("its key").public_key(), key.public_key());
    assert_eq!(names(dir), [format!("{id}.json"), format!("{id}.key")].into());
    assert_eq!(Journal::open(dir).expect("opens again").records(), journal.records());
}

#[test]
fn the_records_of_the_build_before_are_carried_over_with_their_keys() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (key, id) = old_files(dir.path());
    assert_eq!(Journal::open(dir.path()).expect("opens").records().len(), 1);
    assert_eq!(names(dir.path()).len(), 2, "who only looks changes nothing");
    assert_carried_over(dir.path(), &key, id);
    assert_carried_over(dir.path(), &key, id);
}

/// The files after each step of carrying one record over, and after half a step.
#[test]
fn an_agent_that_is_killed_while_it_carries_records_over_loses_none() {
    let finished = tempfile::tempdir().expect("temporary directory");
    let (key, id) = old_files(finished.path());
    assert_carried_over(finished.path(), &key, id);
    let (json, private) = (format!("{id}.json"), format!("{id}.key"));
    let temporary = |name: &str| format!("{name}.new");
    let steps: [(&[&str], &[&str], Option<&str>); 5] = [
        (&[".json", ".key"], &[], Some(&private)),
        (&[".json", ".key"], &[&private], None),
        (&[".json", ".key"], &[&private], Some(&json)),
        (&[".json", ".key"], &[&private, &json], None),
        (&[".key"], &[&private, &json], None),
    ];
    for (old, new, half) in steps {
        let dir = tempfile::tempdir().expect("temporary directory");
        old_files(dir.path());
        for extension in [".json", ".key"].iter().filter(|extension| !old.contains(extension)) {
            fs::remove_file(dir.path().join(format!("{OLD_STEM}{extension}"))).expect("removed");
        }
        for name in new {
            fs::copy(finished.path().join(name), dir.path().join(name)).expect("copied");
        }
        if let Some(half) = half {
            fs::write(dir.path().join(temporary(half)), "half").expect("written");
        }
        assert_carried_over(dir.path(), &key, id);
    }
}

#[test]
fn a_record_that_was_carried_over_is_not_taken_back_by_the_old_one() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (_, id) = old_files(dir.path());
    let mut journal = Journal::open(dir.path()).expect("opens");
    journal.carry_over().expect("carried over");
    journal.note_clock_steps(id, BTreeMap::new()).expect("noted");
    old_files(dir.path());
    let mut journal = Journal::open(dir.path()).expect("opens");
    journal.carry_over().expect("carried over");
    assert_eq!(journal.records()[&id].clock_steps, BTreeMap::new());
    assert_eq!(names(dir.path()).len(), 2);
}

#[test]
fn an_old_record_without_its_key_is_carried_over_without_one() {
    let dir = tempfile::tempdir().expect("temporary directory");
    old_files(dir.path());
    fs::remove_file(dir.path().join(format!("{OLD_STEM}.key"))).expect("removed");
    let mut journal = Journal::open(dir.path()).expect("opens");
    journal.carry_over().expect("carried over");
    let (id, carried) = journal.records().iter().next().expect("one");
    assert_eq!((carried.network, carried.address), (record().network, record().address));
    assert!(journal.private_key(*id).is_err());
    assert_eq!(Journal::open(dir.path()).expect("opens again").records(), journal.records());
}

#[test]
fn a_member_gets_a_slot_of_its_own_and_keeps_it_and_one_that_was_free_for_longest_comes_first() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut journal = Journal::open(dir.path()).expect("opens");
    let key = PrivateKey::from_random([7; 32]);
    let add = |journal: &mut Journal, id| {
        journal.add(Record { id: MemberId::new(id), ..record() }, &key).expect("added").slot.expect("a slot")
    };
    assert_eq!([1, 2, 3].map(|id| add(&mut journal, id)), [0, 1, 2]);
    journal.remove(MemberId::new(2)).expect("removed");
    assert_eq!(add(&mut journal, 4), 3, "the link of the one that left may be there still");
    let mut journal = Journal::open(dir.path()).expect("opens again");
    assert_eq!(add(&mut journal, 5), 4);
    journal.next_slot = MAX_LINK_SLOTS - 1;
    assert_eq!([6, 7].map(|id| add(&mut journal, id)), [MAX_LINK_SLOTS - 1, 1]);
    assert_eq!(journal.records()[&MemberId::new(3)].slot, Some(2));
}

#[test]
fn what_the_store_was_told_and_what_this_build_does_not_know_is_kept() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut journal = Journal::open(dir.path()).expect("opens");
    let unknown = BTreeMap::from([("colour".to_owned(), serde_json::json!({"red": 1}))]);
    journal.add(Record { unknown, ..record() }, &PrivateKey::from_random([7; 32])).expect("adds");
    let key: Key = "members/a/b".parse().expect("a key");
    let text = |state: &str| format!(r#"{{"version":1,"state":"{state}"}}"#);
    for state in ["attaching", "ready"] {
        journal.note_stored(&written(&[(&key, &text(state))])).expect("noted");
    }
    let again = Journal::open(dir.path()).expect("opens again");
    assert_eq!(again.records(), journal.records());
    let kept = &again.records()[&record().id];
    assert_eq!(kept.stored.get("members/a/b"), Some(&text("ready")));
    assert!(kept.unknown.contains_key("colour") && kept.unknown.len() == 1, "{:?}", kept.unknown);
}

/// The store's member of [`record`], and what was written to make it so.
fn written(records: &[(&Key, &str)]) -> Written {
    let member = r#"{"version":1,"id":"0000000000000007","network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","app":"ap-a71da13f-7c70-4c00-a644-eee8558d8053","type":"web","number":1,"address":"10.240.0.2","generation":0,"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","wireguard_port":51820,"host":"host-1","state":"ready"}"#;
    let member = crate::store::records::decode(&"a/1".parse().expect("a key"), member.as_bytes()).expect("a member");
    let records = records.iter().map(|(key, text)| ((*key).clone(), Value::from(text.as_bytes()))).collect();
    Written { member, records, deleted: Vec::new() }
}

fn container(text: &str) -> ContainerRef {
    format!("{text}.ap-a71da13f-7c70-4c00-a644-eee8558d8053").parse().expect("a container")
}

/// [`written`] under these names.
fn named(names: &[&str]) -> Written {
    let (first, further) = names.split_first().expect("a name");
    let name_of = |text: &&str| crate::model::MemberName {
        container: container(text),
        app_name: None,
        ports: [].into(),
        draining: false,
        unknown: [].into(),
    };
    let mut written = written(&[]);
    written.member.container = container(first);
    written.member.names = further.iter().map(name_of).collect();
    written
}

fn names_and_paths(record: &Record) -> Vec<String> {
    record.each_name().map(|(name, path)| format!("{}.{} {}", name.number, name.kind, path.display())).collect()
}

#[test]
fn the_names_of_a_membership_come_and_go_and_each_keeps_the_path_of_its_attach() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut journal = Journal::open(dir.path()).expect("opens");
    let before = journal.add(record(), &PrivateKey::from_random([7; 32])).expect("added");
    let side = Path::new("/proc/7/ns/net");
    for (names, path, expected) in [
        (&["1.web", "1.side"][..], Some(side), &["1.web /run/netns/a", "1.side /proc/7/ns/net"][..]),
        // An agent died between the store and the journal: the next one learns of the name, and not of its path.
        (&["1.web", "1.side", "2.log"], None, &["1.web /run/netns/a", "1.side /proc/7/ns/net", "2.log /run/netns/a"]),
        (&["1.side", "2.log"], None, &["1.side /proc/7/ns/net", "2.log /run/netns/a"]),
        (&["1.side", "1.web"], Some(Path::new("/run/netns/b")), &["1.side /proc/7/ns/net", "1.web /run/netns/b"]),
    ] {
        journal.note_names(&named(names), path).expect("noted");
        let journal = Journal::open(dir.path()).expect("opens again");
        let now = &journal.records()[&before.id];
        assert_eq!(names_and_paths(now), expected);
        assert_eq!(now.binding(), before.binding(), "its binding netns keeps its name");
    }
    journal.note_path(before.id, &container("1.web"), Path::new("/run/netns/c")).expect("noted");
    assert_eq!(names_and_paths(&journal.records()[&before.id])[1], "1.web /run/netns/c");
}

#[test]
fn a_namespace_is_alive_by_any_of_its_paths_and_a_name_by_its_own() {
    let own = PathBuf::from("/proc/self/ns/net");
    let netns = crate::netns::Netns::identify(&own).expect("a namespace");
    let gone = PathBuf::from("/run/netns/there-is-no-such");
    let record = |first: &Path, second: &Path| Record {
        netns,
        netns_path: first.to_owned(),
        names: vec![FurtherName { container: container("1.side"), netns_path: second.to_owned() }],
        ..record()
    };
    for (first, second, alive, dead) in [
        (&own, &own, Some(&own), &[][..]),
        (&gone, &own, Some(&own), &["1.web"]),
        (&own, &gone, Some(&own), &["1.side"]),
        (&gone, &gone, None, &["1.web", "1.side"]),
    ] {
        let record = record(first, second);
        assert_eq!(record.living_path("boot"), alive.map(PathBuf::as_path));
        assert_eq!(record.dead_names(), dead.iter().map(|name| container(name)).collect::<Vec<_>>());
        assert!(!record.is_alive("another boot"));
    }
}

#[test]
fn what_was_written_later_is_not_replaced_by_what_was_written_before() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut journal = Journal::open(dir.path()).expect("opens");
    let id = journal.add(record(), &PrivateKey::from_random([7; 32])).expect("added").id;
    let (key, pointer): (Key, Key) = ("members/a/b".parse().expect("a key"), "names/a/b".parse().expect("a key"));
    let text = |serial: u32| format!(r#"{{"version":1,"serial":{serial}}}"#);
    for (serial, stays) in [(2, 2), (1, 2), (3, 3)] {
        journal.note_stored(&written(&[(&key, &text(serial)), (&pointer, "{}")])).expect("noted");
        assert_eq!(journal.records()[&id].stored["members/a/b"], text(stays));
    }
    let deleted = Written { deleted: vec![pointer], ..written(&[]) };
    journal.note_stored(&deleted).expect("noted");
    assert_eq!(journal.records()[&id].stored.keys().collect::<Vec<_>>(), ["members/a/b"]);
    // Another task has moved the membership to another name meanwhile.
    journal.note_names(&named(&["1.side"]), None).expect("noted");
    journal.note_stored(&written(&[(&key, &text(9))])).expect("noted");
    assert_eq!(journal.records()[&id].stored["members/a/b"], text(3));
}

#[test]
fn a_record_and_its_key_come_back_until_they_are_removed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let id = record().id;
    let key = PrivateKey::from_random([7; 32]);
    let mut journal = Journal::open(dir.path()).expect("opens");
    journal.add(record(), &key).expect("adds");
    let clock_steps = BTreeMap::from([("host-2".parse().expect("valid"), 3)]);
    journal.note_clock_steps(id, clock_steps.clone()).expect("notes");
    journal.mark_leaving(id).expect("marks");

    let mut journal = Journal::open(dir.path()).expect("opens again");
    assert!(journal.records()[&id].leaving);
    assert_eq!(journal.records()[&id].clock_steps, clock_steps);
    assert_eq!(journal.private_key(id).expect("key").public_key(), key.public_key());
    journal.remove(id).expect("removes");
    journal.remove(id).expect("removes what is gone");
    assert!(Journal::open(dir.path()).expect("opens again").records().is_empty());
}

#[test]
fn what_was_half_written_goes_and_what_is_whole_stays() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut journal = Journal::open(dir.path()).expect("opens");
    let id = record().id;
    journal.add(record(), &PrivateKey::from_random([7; 32])).expect("adds");
    fs::write(journal.path(MemberId::new(9), "key"), "of nobody").expect("writes");
    fs::write(dir.path().join("x.json.new"), "half").expect("writes");
    for of_corrupt in ["y.json.corrupt", "y.key"] {
        fs::write(dir.path().join(of_corrupt), "aside").expect("writes");
    }
    let names = || fs::read_dir(dir.path()).expect("lists").count();
    assert_eq!(names(), 6);
    journal.sweep().expect("sweeps");
    assert_eq!(names(), 4);
    assert!(Journal::open(dir.path()).expect("opens").private_key(id).is_ok());
}

#[test]
fn nobody_else_can_read_a_key() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut journal = Journal::open(dir.path()).expect("opens");
    journal.add(record(), &PrivateKey::from_random([7; 32])).expect("adds");
    for entry in fs::read_dir(dir.path()).expect("lists") {
        let metadata = entry.expect("entry").metadata().expect("metadata");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_corrupt_record_is_kept_aside_and_a_newer_one_is_left_alone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("x.json");
    fs::write(&path, b"{").expect("writes");
    assert!(Journal::open(dir.path()).expect("goes on without it").records().is_empty());
    assert_eq!(fs::read(dir.path().join("x.json.corrupt")).expect("kept aside"), b"{");

    for lost in [&b""[..], &[0; 300]] {
        fs::write(&path, lost).expect("writes");
        assert!(Journal::open(dir.path()).expect("power was lost").records().is_empty());
        assert!(!path.exists());
    }

    // Every octet of a record counts, also where it stays one.
    let mut journal = Journal::open(dir.path()).expect("opens");
    let id = journal.add(record(), &PrivateKey::from_random([7; 32])).expect("adds").id;
    let whole = fs::read(journal.path(id, "json")).expect("reads");
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(journal.path(id, "json"), &damaged).expect("writes");
        match Journal::open(dir.path()) {
            Ok(read) if read.records().is_empty() => {
                assert!(read.may_live(id) && read.members() == 1, "at {at}");
                assert_eq!(fs::read(journal.path(id, "json.corrupt")).expect("kept aside"), damaged, "at {at}");
            }
            // The name of the checksum, or what stands around it.
            Ok(read) => assert_eq!(
                read.records()[&id],
                Record { unknown: read.records()[&id].unknown.clone(), ..journal.records()[&id].clone() }
            ),
            Err(error) => assert!(error.to_string().contains("version 3"), "at {at}: {error}"),
        }
    }

    fs::write(&path, br#"{"version":99}"#).expect("writes");
    let error = Journal::open(dir.path()).expect_err("newer").to_string();
    assert!(error.contains("version 99"), "{error}");
    assert!(path.exists());
}

/// State that the build before membership ids wrote, with members of two types: the store and the journal are read by
/// different code, and have to agree on the id of each membership.
#[tokio::test]
async fn state_of_the_build_before_is_carried_over_and_store_and_journal_agree_on_each_id() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/version-before");
    let dir = tempfile::tempdir().expect("temporary directory");
    let members = dir.path().join("members");
    fs::create_dir(&members).expect("a directory");
    fs::copy(fixture.join("store.redb"), dir.path().join("store.redb")).expect("the store");
    for entry in fs::read_dir(fixture.join("members")).expect("lists") {
        let path = entry.expect("entry").path();
        fs::copy(&path, members.join(path.file_name().expect("a name"))).expect("a record or a key");
    }
    let store = Embedded::open(dir.path()).await.expect("the store of the build before");
    let listing = store.list(&keys::everything()).await.expect("its records");
    let world = SharedWorld::new(Belief::new("a".parse().expect("a host")));
    world.compare(&listing, std::time::Instant::now());
    let mut journal = Journal::open(&members).expect("the journal of the build before");
    journal.carry_over().expect("carried over");
    assert_eq!(journal.records().len(), 2);
    for (id, record) in journal.records() {
        let member = world.read(|world| world.member(record.network, &record.container).cloned());
        let member = member.expect("a member of the store");
        assert_eq!((member.id, member.address), (*id, record.address), "{}", record.container);
        assert_eq!(journal.private_key(*id).expect("its key").public_key(), member.public_key);
        assert_eq!(record.slot, None, "its link keeps its name");
    }
    assert_eq!(Journal::open(&members).expect("opens again").records(), journal.records());
}
