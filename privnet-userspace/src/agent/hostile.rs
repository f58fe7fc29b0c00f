//! This host's own records, damaged: read, or refused by an error that names the file, which stays.

use std::fs;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::belief::Belief;
use super::host::journal::tests::record;
use super::host::journal::{Journal, Record, checksum};
use super::snapshot::{Remembered, recall};
use super::store_problems::StoreProblems;
use crate::model::hostile::{near_json, near_text};
use crate::model::{MemberId, PrivateKey};

const RECORD: &str = r#"{"version":1,"network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","container":{"app":"ap-a71da13f-7c70-4c00-a644-eee8558d8053","type":"web","number":1},"address":"10.240.0.2","index":0,"netns_path":"/run/netns/a","netns":{"dev":4,"ino":4026532000},"boot_id":"boot","leaving":false}"#;
const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

proptest! {
    #[test]
    fn a_damaged_record_is_read_or_named_and_never_lost(bytes in near_json(&[RECORD])) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.json");
        fs::write(&path, &bytes).expect("written");
        match Journal::open(directory.path()) {
            // Nothing is in an empty one that could be lost.
            Ok(journal) if journal.records().is_empty() && bytes.iter().any(|byte| *byte != 0) => {
                prop_assert_eq!(fs::read(path.with_extension("json.corrupt")).expect("it is kept"), bytes);
            }
            Ok(journal) => prop_assert_eq!(journal.records().len(), usize::from(bytes.iter().any(|byte| *byte != 0))),
            Err(error) => {
                let said = format!("{error:#}");
                prop_assert!(said.contains("x.json"), "{}", said);
                let aside = path.with_extension("json.corrupt");
                let kept = if path.exists() { path } else { aside };
                prop_assert_eq!(fs::read(kept).expect("it is kept"), bytes);
            }
        }
    }

    #[test]
    fn a_damaged_key_is_never_said(bytes in near_text(&[KEY])) {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("x.json"), RECORD).expect("written");
        let journal = Journal::open(directory.path());
        prop_assume!(journal.is_ok());
        let mut journal = journal.expect("opens");
        journal.carry_over().expect("carried over");
        let id = *journal.records().keys().next().expect("one");
        fs::write(directory.path().join(format!("{id}.key")), &bytes).expect("written");
        if let Err(error) = journal.private_key(id) {
            let said = format!("{error:#}{error:?}");
            prop_assert!(said.contains(".key"), "{}", said);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            prop_assert!(text.len() < 16 || !said.contains(&text), "the error says the key");
        }
    }
}

/// A thousand state directories with one damaged file: an agent starts on each, what is whole stays, and what is damaged is
/// kept as it was.
#[test]
fn a_damaged_file_costs_no_other_and_stops_no_start() {
    let whole = tempfile::tempdir().expect("a directory");
    let mut journal = Journal::open(whole.path()).expect("opens");
    for number in 1..=3 {
        let added = Record { id: MemberId::new(number.into()), ..record() };
        journal.add(added, &PrivateKey::from_random([number; 32])).expect("adds");
    }
    let body = br#"{"presences/b":"{\"version\":1,\"instance\":\"ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c\"}"}"#;
    let snapshot = [format!("privnet-snapshot 1 {} {:016x}\n", body.len(), checksum(body)).as_bytes(), body].concat();
    fs::write(whole.path().join("snapshot"), snapshot).expect("written");
    let entries = fs::read_dir(whole.path()).expect("listed").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().expect("text")).collect();
    names.sort();
    let mut newer = 0;
    for seed in 0..1000 {
        let mut random = StdRng::seed_from_u64(seed);
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        for name in &names {
            fs::copy(whole.path().join(name), at(name)).expect("copied");
        }
        let name = &names[random.random_range(0..names.len())];
        let mut bytes = fs::read(at(name)).expect("read");
        match random.random_range(0..4) {
            0 => bytes.truncate(random.random_range(1..bytes.len())),
            1 => random.fill(&mut bytes[..]),
            _ => {
                // Several could end the checksum of a record and change what it is of.
                for _ in 0..if name.ends_with(".json") { 1 } else { random.random_range(1..4) } {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] ^= 1 << random.random_range(0..8_u32);
                }
            }
        }
        fs::write(at(name), &bytes).expect("damaged");
        let read = match Journal::open(directory.path()) {
            Ok(read) => read,
            Err(error) => {
                let said = error.to_string();
                assert!(said.contains(name.as_str()) && said.contains("of version"), "seed {seed}: {said}");
                newer += 1;
                continue;
            }
        };
        read.sweep().expect("swept");
        let (mut belief, problems) = (Belief::new("a".parse().expect("a host")), StoreProblems::default());
        let remembered = recall(&at("snapshot"), &mut belief, &problems).expect("recalled");
        for (id, expected) in journal.records() {
            let (json, key) = (format!("{id}.json"), format!("{id}.key"));
            assert!(read.may_live(*id), "seed {seed}: {name}");
            match read.records().get(id) {
                Some(found) => assert_eq!(&Record { unknown: [].into(), ..found.clone() }, expected, "seed {seed}"),
                None => {
                    assert_eq!((&json, fs::read(at(&format!("{json}.corrupt"))).ok().as_ref()), (name, Some(&bytes)))
                }
            }
            let is_key = |private: PrivateKey| {
                Some(private.public_key()) == journal.private_key(*id).ok().map(|key| key.public_key())
            };
            assert!(key == *name || read.private_key(*id).is_ok_and(is_key), "seed {seed}: {name}");
        }
        match remembered {
            Remembered::Something => assert_eq!(belief.records().count(), 1, "seed {seed}"),
            Remembered::Nothing => {
                assert_eq!((name.as_str(), fs::read(at("snapshot.damaged")).ok()), ("snapshot", Some(bytes)));
                assert_eq!(problems.lines().len(), 1);
            }
        }
    }
    assert!(newer < 10, "{newer} were taken for those of a newer agent");
}
