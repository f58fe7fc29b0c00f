//! A host that is forgotten: its members end by their rows, whichever comes first, and go on where they are adopted since.

use std::time::{Duration, Instant};

use super::super::repair::Unit;
use super::super::{Belief, Repair};
use super::{APP, key};
use crate::store::{Event, Key, Revision, Value};

const SHOP: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
const BEFORE: &str = "a71da13f-7c70-4c00-a644-eee8558d8053";
const NEXT: &str = "b71da13f-7c70-4c00-a644-eee8558d8053";
const NETWORK: &str = r#"{"version":1,"id":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","name":"shop","vni":7,"subnet":"10.240.0.0/22","mtu":1390,"created_unix_seconds":1}"#;

fn put(key_text: &str, value: &str) -> Event {
    Event::Put { key: key(key_text), value: value.as_bytes().into(), revision: Revision(1) }
}

fn member(serial: u64, instance: &str) -> Event {
    let text = format!(
        r#"{{"version":1,"serial":{serial},"id":"0000000000000007","network":"{SHOP}","app":"{APP}","type":"web","number":1,"address":"10.240.0.2","generation":3,"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","wireguard_port":51820,"host":"b","instance":"{instance}","state":"ready"}}"#
    );
    put(&format!("members/{SHOP}/1.web.{APP}"), &text)
}

/// The row of its address, which it has.
fn row(count: u64, serial: u64, attached: u64) -> Event {
    let text = format!(
        r#"{{"version":1,"serial":{serial},"holder":"1.web.{APP}","generation":3,"released_unix_seconds":null,"count":{count},"member":"0000000000000007","attached_unix_seconds":{attached}}}"#
    );
    put(&format!("addresses/{SHOP}/10.240.0.2"), &text)
}

fn mark(instance: &str) -> Event {
    let text =
        format!(r#"{{"version":1,"serial":1,"instance":"{instance}","host":"b","by":"a","at_unix_seconds":50}}"#);
    put(&format!("marks/instances/{instance}"), &text)
}

fn host() -> Event {
    let rest = r#""vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":0"#;
    put("hosts/b", &format!(r#"{{"version":1,"serial":3,"name":"b",{rest},"instance":"{BEFORE}"}}"#))
}

fn believing(own: &str, events: &[Event]) -> Belief {
    let mut belief = Belief::new(own.parse().expect("a host"));
    belief.follow(events, Instant::now());
    belief
}

fn with_member(own: &str) -> Belief {
    believing(own, &[put(&format!("networks/{SHOP}"), NETWORK), row(3, 2, 9), member(2, BEFORE), host()])
}

fn believed(belief: &Belief, key_text: &str) -> Option<Value> {
    belief.records().find(|(known, _)| **known == key(key_text)).map(|(_, value)| Value::clone(value))
}

fn row_of(belief: &Belief) -> String {
    let value = believed(belief, &format!("addresses/{SHOP}/10.240.0.2")).expect("the row");
    String::from_utf8_lossy(&value).into_owned()
}

fn has_member(belief: &Belief) -> bool {
    believed(belief, &format!("members/{SHOP}/1.web.{APP}")).is_some()
}

fn units(repairs: &[Repair]) -> Vec<Unit> {
    repairs.iter().map(|repair| repair.unit.clone()).collect()
}

#[test]
fn a_mark_ends_the_members_of_its_instance_by_their_rows_and_no_others() {
    let (now, record): (Instant, Key) = (Instant::now(), key(&format!("members/{SHOP}/1.web.{APP}")));
    let mut twin = with_member("a");
    twin.follow(&[mark(NEXT)], now);
    assert!(has_member(&twin) && believed(&twin, "hosts/b").is_some());

    let [mut first, mut second] = ["a", "c"].map(with_member);
    for belief in [&mut first, &mut second] {
        let ended = belief.follow(&[mark(BEFORE)], now);
        for gone in [record.clone(), key("hosts/b")] {
            assert!(ended.contains(&Event::Delete { key: gone, revision: Revision(0) }), "{ended:?}");
        }
        assert!(!has_member(belief) && belief.stepped_back().is_none());
        let row = row_of(belief);
        let says = [r#""holder":null"#, r#""ended_by":"operator""#, r#""released_unix_seconds":50"#, r#""count":3"#];
        assert!(says.iter().all(|words| row.contains(words)), "{row}");
    }
    assert_eq!(row_of(&first), row_of(&second), "any host writes the same");
    // The host at which the operator said so is the first to write it; the others finish what it began.
    let expected = [Unit::Rows(SHOP.parse().expect("an id")), Unit::Ghost(record)];
    assert_eq!(units(&first.repairs(now)), expected);
    assert_eq!(units(&second.repairs(now)), []);
    let later = units(&second.repairs(now + Duration::from_secs(4)));
    assert!(expected.iter().all(|unit| later.contains(unit)) && later.len() == 3, "with the host: {later:?}");
}

#[test]
fn what_an_older_store_brings_back_of_a_forgotten_host_is_not_believed_before_or_after_the_mark() {
    let now = Instant::now();
    let older = [row(3, 2, 9), member(2, BEFORE), host()];
    let mut ended = with_member("a");
    ended.follow(&[mark(BEFORE)], now);
    let mut learns_first = believing("a", &[put(&format!("networks/{SHOP}"), NETWORK), mark(BEFORE)]);
    let mut at_once = Belief::new("a".parse().expect("a host"));
    let all = [vec![put(&format!("networks/{SHOP}"), NETWORK)], older.to_vec(), vec![mark(BEFORE)]].concat();
    at_once.follow(&all, now);
    for belief in [&mut ended, &mut learns_first, &mut at_once] {
        belief.follow(&older, now);
        assert!(!has_member(belief) && believed(belief, "hosts/b").is_none());
        assert!(row_of(belief).contains(r#""ended_by":"operator""#), "{}", row_of(belief));
    }
    // One record after the other, in another order.
    for turn in [[0, 1], [1, 0]] {
        let mut belief = believing("a", &[put(&format!("networks/{SHOP}"), NETWORK), mark(BEFORE)]);
        for at in turn {
            belief.follow(&older[at..=at], now);
        }
        assert!(!has_member(&belief) && row_of(&belief).contains(r#""ended_by":"operator""#), "{turn:?}");
    }
}

#[test]
fn an_adopted_member_goes_on_whatever_an_older_store_says() {
    let now = Instant::now();
    let mut belief = with_member("a");
    belief.follow(&[mark(BEFORE)], now);
    belief.follow(&[row(3 + 256, 4, 60), member(3, NEXT)], now);
    assert!(has_member(&belief));
    // A store from before the mark, and from between mark and adoption.
    belief.follow(&[row(3, 2, 9), member(2, BEFORE)], now);
    assert!(has_member(&belief) && row_of(&belief).contains(r#""count":259"#), "{}", row_of(&belief));
    belief.follow(&[Event::Delete { key: key(&format!("members/{SHOP}/1.web.{APP}")), revision: Revision(2) }], now);
    assert!(has_member(&belief));
    // A host that has seen nothing of it reads the adopted row, and the record of before.
    let mut other = believing("c", &[put(&format!("networks/{SHOP}"), NETWORK), mark(BEFORE)]);
    other.follow(&[row(3 + 256, 4, 60), member(2, BEFORE)], now);
    assert!(!has_member(&other) && row_of(&other).contains(r#""count":259"#), "{}", row_of(&other));
    assert!(!row_of(&other).contains("operator"), "the row is the adopted one's: {}", row_of(&other));
    other.follow(&[member(3, NEXT)], now);
    assert!(has_member(&other));
}
