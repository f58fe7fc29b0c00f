//! Each rule by itself, beside its twin.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::super::import::{ComeBack, Import};
use super::super::patience::PRESENCE_PATIENCE;
use super::super::repair::Unit;
use super::super::{Belief, Pauses, Repair};
use super::{APP, key};
use crate::store::{Entry, Event, Key, Listing, Revision, Value, keys};

const SHOP: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";

fn put(key_text: &str, value: &str) -> Event {
    Event::Put { key: key(key_text), value: value.as_bytes().into(), revision: Revision(1) }
}

fn delete(key_text: &str) -> Event {
    Event::Delete { key: key(key_text), revision: Revision(2) }
}

fn believing(records: &[(&str, &str)]) -> (Belief, Instant) {
    let (mut belief, now) = (Belief::new("a".parse().expect("a host")), Instant::now());
    let puts: Vec<Event> = records.iter().map(|(key, value)| put(key, value)).collect();
    assert_eq!(belief.follow(&puts, now).len(), records.len());
    (belief, now)
}

fn member(says_id: &str) -> String {
    format!(
        r#"{{"version":1{says_id},"network":"{SHOP}","app":"{APP}","type":"web","number":1,"address":"10.240.0.2","generation":0,"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","wireguard_port":51820,"host":"b","state":"ready"}}"#
    )
}

const WITH_ID: &str = r#","serial":2,"id":"0000000000000007""#;
const NETWORK: &str = r#"{"version":1,"id":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","name":"shop","vni":7,"subnet":"10.240.0.0/22","mtu":1390,"created_unix_seconds":1}"#;
const NEW: &str = r#"{"version":1,"instance":"ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","boot":"one"}"#;
const OLD: &str = r#"{"version":1,"instance":"ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c"}"#;

#[test]
fn the_absence_of_a_member_is_its_end_only_on_a_host_of_the_build_before() {
    let (network, record) = (format!("networks/{SHOP}"), format!("members/{SHOP}/1.web.{APP}"));
    for (presence, says_id, is_end) in [
        (Some(NEW), WITH_ID, false),
        (Some(OLD), "", true),
        (Some(OLD), WITH_ID, true),
        (None, "", true),
        (None, WITH_ID, false),
    ] {
        let member = member(says_id);
        let mut records = vec![(&*network, NETWORK), (&*record, &*member)];
        records.extend(presence.map(|presence| ("presences/b", presence)));
        let (mut belief, now) = believing(&records);
        let expected =
            if is_end { vec![Event::Delete { key: key(&record), revision: Revision(0) }] } else { Vec::new() };
        assert_eq!(belief.follow(&[delete(&record)], now), expected, "{presence:?} {says_id}");
        assert_eq!(belief.stepped_back().is_some(), !is_end);
    }
}

#[test]
fn a_number_that_rises_absurdly_is_damage_and_a_lower_one_a_loss() {
    let record = |serial: u64, vtep: &str| {
        format!(
            r#"{{"version":1,"serial":{serial},"name":"a","vtep":"{vtep}","agent_version":"0.1.0","applied_revision":0}}"#
        )
    };
    let known = record(5, "192.0.2.1");
    let (mut belief, now) = believing(&[("hosts/a", &known)]);
    for (serial, is_believed) in [(5_u64, false), (6, true), (4, false), (1 << 40, false), (0, true)] {
        let event = put("hosts/a", &record(serial, "192.0.2.9"));
        let expected = if is_believed { vec![event.clone()] } else { Vec::new() };
        assert_eq!(belief.clone().follow(&[event], now), expected, "{serial}");
    }
    assert_eq!(belief.clone().follow(&[put("hosts/a", &known)], now).len(), 1, "as it was written");
    // The host's own word, in the transaction in which it says that it is there.
    let announced = [put("hosts/a", &record(1, "192.0.2.9")), put("presences/a", NEW)];
    assert_eq!(belief.follow(&announced, now), announced);
}

#[test]
fn a_presence_counts_as_gone_after_ten_seconds_unless_it_comes_back() {
    let (mut belief, now) = believing(&[("presences/b", NEW)]);
    assert_eq!(belief.follow(&[delete("presences/b")], now), []);
    assert_eq!(belief.expire(now + PRESENCE_PATIENCE / 2), []);
    let mut other = belief.clone();
    other.follow(&[put("presences/b", NEW)], now);
    assert_eq!(other.expire(now + PRESENCE_PATIENCE), []);
    let gone = [Event::Delete { key: key("presences/b"), revision: Revision(0) }];
    assert_eq!(belief.expire(now + PRESENCE_PATIENCE), gone);
    assert_eq!(belief.expire(now + PRESENCE_PATIENCE * 2), [], "once");
    assert_eq!(belief.everything().count(), 0);
}

#[test]
fn what_is_lost_again_and_again_is_put_back_after_pauses_that_grow_to_a_minute() {
    let (mut pauses, start, unit) = (Pauses::default(), Instant::now(), Unit::Network(SHOP.parse().expect("an id")));
    let mut taken = Vec::new();
    for second in 0..300 {
        let now = start + Duration::from_secs(second);
        // What was tried and not written is tried again at once.
        if pauses.may(&unit, now) && second != 2 {
            pauses.note(&unit, now);
            taken.push(second);
        }
    }
    assert_eq!(taken, [0, 3, 7, 15, 31, 63, 123, 183, 243]);
    let later = start + Duration::from_secs(2000);
    pauses.forgive(later);
    assert_eq!(pauses.note(&unit, later), 1, "forgiven");
}

/// A record of another network is nothing that a host without members in it brings back.
#[test]
fn a_network_ends_with_its_record_where_this_host_has_no_member_in_it() {
    let (network, row) =
        (format!("networks/{SHOP}"), keys::address(SHOP.parse().expect("an id"), Ipv4Addr::new(10, 240, 0, 2)));
    let free = r#"{"version":1,"serial":2,"holder":null,"generation":0,"count":0,"released_unix_seconds":5}"#;
    let (mut belief, now) = believing(&[(&network, NETWORK), (row.as_str(), free)]);
    assert_eq!(belief.clone().follow(&[delete(row.as_str())], now), [], "a row of a network that is there");
    assert_eq!(belief.follow(&[delete(&network)], now).len(), 1);
    assert_eq!(belief.follow(&[delete(row.as_str())], now).len(), 1);
    assert_eq!(belief.records().count(), 0);
}

/// An agent that starts compares the store with what its predecessor saw.
#[test]
fn a_store_that_lost_something_while_no_agent_ran_has_stepped_back() {
    let (record, now) = (format!("members/{SHOP}/1.web.{APP}"), Instant::now());
    let records = [(format!("networks/{SHOP}"), NETWORK.to_owned()), (record, member(WITH_ID))];
    for (missing, has_stepped_back) in [(0, false), (1, true)] {
        let mut belief = Belief::new("a".parse().expect("a host"));
        for (key_text, value) in &records {
            belief.remember(key(key_text), value.as_bytes().into(), now).expect("a record");
        }
        let there = records[..records.len() - missing].iter().map(|(key_text, value)| Entry {
            key: key(key_text),
            value: value.as_bytes().into(),
            revision: Revision(1),
            lease: None,
        });
        let listing = Listing { entries: there.collect(), revision: Revision(1) };
        belief.compare(&listing, now);
        assert_eq!(belief.stepped_back().is_some(), has_stepped_back, "{missing} missing");
    }
}

/// A mark beats each record of its network, whichever came first; the twin is a network without one.
#[test]
fn a_mark_ends_a_network_with_its_members_before_and_after_and_is_put_back_itself() {
    let (network, record) = (format!("networks/{SHOP}"), format!("members/{SHOP}/1.web.{APP}"));
    let (member, mark) = (member(WITH_ID), format!("marks/networks/{SHOP}"));
    let text = format!(r#"{{"version":1,"serial":1,"network":"{SHOP}","name":"shop","by":"c","at_unix_seconds":5}}"#);
    let records = [(&*network, NETWORK), (&*record, &*member), ("presences/b", NEW)];
    let (mut belief, now) = believing(&records);
    let puts = [put(&network, NETWORK), put(&record, &member)];
    assert_eq!(belief.clone().follow(&puts, now).len(), 2, "the twin");
    let ended = belief.follow(&[put(&mark, &text)], now);
    let is_end_of = |of: &str| ended.contains(&Event::Delete { key: key(of), revision: Revision(0) });
    assert!(is_end_of(&network) && is_end_of(&record), "{ended:?}");
    assert_eq!(belief.stepped_back(), None);
    // What an older copy of the store brings back is not believed.
    assert_eq!(belief.follow(&puts, now), []);
    assert_eq!(belief.repairs(now), [], "the others may be at it");
    let repairs = belief.repairs(now + Duration::from_secs(4));
    assert!(matches!(&repairs[..], [Repair { unit: Unit::Beaten(_), .. }]), "{repairs:?}");
    // Nor by an agent that learns of the mark first, or starts with a memory of the network.
    let (mut other, _) = believing(&[(&mark, &text)]);
    other.remember(key(&record), member.as_bytes().into(), now).expect("readable");
    assert_eq!(other.follow(&puts, now), []);
    assert_eq!(other.records().count(), 1);
    // The mark itself is never taken back.
    assert_eq!(belief.follow(&[delete(&mark)], now), []);
    let repairs = belief.repairs(now);
    assert!(matches!(&repairs[..], [Repair { unit: Unit::Mark(_), .. }]), "{repairs:?}");
}

#[test]
fn nothing_is_lost_before_the_store_has_been_read() {
    let start = Instant::now();
    let mut belief = Belief::new("a".parse().expect("a host"));
    let member = member(WITH_ID).replace(r#""host":"b""#, r#""host":"a""#);
    let record = format!("members/{SHOP}/1.web.{APP}");
    for (remembered, text) in [(&*format!("networks/{SHOP}"), NETWORK), (&*record, &*member), ("presences/b", NEW)] {
        belief.remember(key(remembered), text.as_bytes().into(), start).expect("readable");
    }
    let later = start + Duration::from_secs(3_600);
    assert_eq!((belief.repairs(later).len(), belief.expire(later).len()), (0, 0), "the store was not read yet");
    assert_eq!(belief.lost_for(Duration::ZERO, later), Vec::<String>::new());
    // An empty store: what was remembered is lost from now on.
    let empty = Listing { entries: Vec::new(), revision: Revision(1) };
    assert_eq!(belief.compare(&empty, later), Vec::new());
    assert_eq!(belief.expire(later), Vec::new(), "its host has its time to say again that it is there");
    assert_eq!(belief.repairs(later).len(), 2, "the network and the member");
    assert_eq!(belief.expire(later + PRESENCE_PATIENCE).len(), 1);
    assert_eq!(belief.records().count(), 2, "the presence is none by now");
}

/// A row of the member's address.
fn row(count: u64, rest: &str) -> String {
    format!(r#"{{"version":1,"serial":1,"generation":0,"count":{count}{rest}}}"#)
}

#[test]
fn a_copy_brings_back_what_was_lost_and_not_what_was_ended() {
    let (record, address) = (format!("members/{SHOP}/1.web.{APP}"), format!("addresses/{SHOP}/10.240.0.2"));
    let holds = row(256, &format!(r#","holder":"1.web.{APP}","member":"0000000000000007""#));
    let ended = row(256, r#","holder":null,"member":"0000000000000007","released_unix_seconds":9"#);
    let ended = ended.replace(r#""serial":1"#, r#""serial":2"#);
    let next = row(512, &format!(r#","holder":"2.web.{APP}","member":"0000000000000009""#));
    let member = member(WITH_ID);
    let saved: BTreeMap<Key, Value> = [
        (key(&format!("networks/{SHOP}")), NETWORK.as_bytes().into()),
        (key(&record), member.as_bytes().into()),
        (key(&address), holds.as_bytes().into()),
        (key("presences/b"), NEW.as_bytes().into()),
        (key("fences/networks"), b"".as_slice().into()),
    ]
    .into();
    let written = |stored: &[(&str, &str)], believed: &[(&str, &str)]| -> Vec<String> {
        let mut belief = Belief::new("a".parse().expect("a host"));
        for (known, text) in believed {
            belief.remember(key(known), text.as_bytes().into(), Instant::now()).expect("readable");
        }
        let entry = |(stored, text): &(&str, &str)| Entry {
            key: key(stored),
            value: text.as_bytes().into(),
            revision: Revision(3),
            lease: None,
        };
        let listing = Listing { entries: stored.iter().map(entry).collect(), revision: Revision(3) };
        let import = belief.lacking(&listing, &saved, ComeBack::of(&listing, false)).expect("readable");
        assert!(import.passed_over.is_empty());
        written_by(&import)
    };
    let network = format!("networks/{SHOP}");
    let all = [address.clone(), record.clone(), network.clone()];
    assert_eq!(written(&[], &[]), all, "an empty store");
    assert_eq!(written(&[(&network, NETWORK)], &[]), all[..2], "a store that has a part of it");
    // Its end, or the next holder of its address, whether the store says so or this host knows.
    for later in [&ended, &next] {
        let known: &[(&str, &str)] = &[(&network, NETWORK), (&address, later)];
        assert_eq!(written(known, &[]), Vec::<String>::new(), "{later}");
        assert_eq!(written(&[], known), all[2..], "{later}");
    }
    assert_eq!(written(&[(&network, NETWORK), (&address, "{}")], &[]), Vec::<String>::new(), "a damaged row");
    // What is believed is put back by the hosts, but a network in a new store: it may have no members.
    assert_eq!(written(&[], &[(&network, NETWORK)]), all);
    assert_eq!(written(&[("fences/networks", "")], &[(&network, NETWORK)]), all[..2]);
}

fn written_by(import: &Import) -> Vec<String> {
    import.transactions.iter().flat_map(|transaction| transaction.writes.keys().map(ToString::to_string)).collect()
}

#[test]
fn a_copy_brings_a_deleted_network_back_at_an_operators_word_alone() {
    let (network, record) = (format!("networks/{SHOP}"), format!("members/{SHOP}/1.web.{APP}"));
    let member = member(WITH_ID);
    let saved: BTreeMap<Key, Value> =
        [(key(&network), NETWORK.as_bytes().into()), (key(&record), member.as_bytes().into())].into();
    let imported = |stored: &[(&str, &str)], are_lost| {
        let entry = |(stored, text): &(&str, &str)| {
            let (key, value) = (key(stored), text.as_bytes().into());
            Entry { key, value, revision: Revision(3), lease: None }
        };
        let listing = Listing { entries: stored.iter().map(entry).collect(), revision: Revision(3) };
        let belief = Belief::new("a".parse().expect("a host"));
        let import = belief.lacking(&listing, &saved, ComeBack::of(&listing, are_lost)).expect("readable");
        (written_by(&import), import.passed_over.len())
    };
    let all = vec![record.clone(), network.clone()];
    assert_eq!(imported(&[("hosts/b", "{}")], false), (all.clone(), 0), "a store without any network");
    // A network was created or deleted there, or is there.
    let other = NETWORK.replace("ad0f", "bd0f");
    let other_key = format!("networks/{}", SHOP.replace("ad0f", "bd0f"));
    for stored in [("fences/networks", ""), (&*other_key, &*other)] {
        assert_eq!(imported(&[stored], false), (Vec::new(), 1), "{stored:?}");
        assert_eq!(imported(&[stored], true), (all.clone(), 0), "{stored:?}");
    }
    // A network that was deleted has no rows.
    let row = row(256, &format!(r#","holder":"1.web.{APP}","member":"0000000000000007""#));
    let stored = [("fences/networks", ""), (&*format!("addresses/{SHOP}/10.240.0.2"), &*row)];
    assert_eq!(imported(&stored, false), (all, 0));
}
