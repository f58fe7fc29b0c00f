//! The form of the records, in this build and the one before it; and records that cannot be read.

use super::*;
use crate::store::{Memory, Transaction};

const NETWORK: &str = r#"{"version":1,"id":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","name":"shop","vni":4711,"subnet":"10.240.0.0/22","mtu":1390,"created_unix_seconds":1700000000}"#;
const MEMBER: &str = r#"{"version":1,"network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","app":"ap-a71da13f-7c70-4c00-a644-eee8558d8053","type":"web","number":1,"address":"10.240.0.2","generation":3,"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","wireguard_port":51820,"host":"host-1","state":"ready"}"#;
const HELD: &str = r#"{"version":1,"holder":"1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053","generation":3,"released_unix_seconds":null}"#;
const FREE: &str = r#"{"version":1,"holder":null,"generation":3,"released_unix_seconds":1700000000}"#;

const HOST: &str = r#"{"version":1,"name":"host-1","vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":7}"#;
const STEPPED: &str =
    r#"{"version":1,"name":"host-1","vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":7,"clock_steps":2}"#;
const PRESENCE: &str = r#"{"version":1,"instance":"a71da13f-7c70-4c00-a644-eee8558d8053"}"#;
const FLEET: &str =
    r#"{"version":1,"serial":1,"id":"fl-5c9f9c0e-3b61-4ab3-8a0e-2f5fd1d6f3b7","epoch":1,"vxlan_port":4789}"#;
const NETWORK_POINTER: &str = r#"{"version":1,"network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c"}"#;
const MEMBER_POINTER: &str = r#"{"version":1,"holder":"1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053"}"#;

/// Each kind with every field that it has today.
const WHOLE_NETWORK: &str = r#"{"version":1,"serial":1,"id":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","name":"shop","vni":4711,"subnet":"10.240.0.0/22","mtu":1390,"created_unix_seconds":1700000000,"signature":"c2lnbmVk"}"#;
const WHOLE_MEMBER: &str = r#"{"version":1,"serial":4,"id":"00c0ffee00c0ffee","network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","app":"ap-47701b62-1b53-5449-88a0-3e2e775b143b","type":"web","number":1,"address":"10.240.0.2","generation":3,"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","wireguard_port":51820,"host":"host-1","instance":"a71da13f-7c70-4c00-a644-eee8558d8053","state":"ready","ports":["http=80"],"app_name":"shop-api","names":[{"app":"ap-47701b62-1b53-5449-88a0-3e2e775b143b","type":"side","number":1,"app_name":"shop-api","ports":["admin=81"],"draining":true},{"app":"ap-a71da13f-7c70-4c00-a644-eee8558d8053","type":"log","number":2}],"signature":"c2lnbmVk"}"#;
const WHOLE_HELD: &str = r#"{"version":1,"serial":9,"holder":"1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053","generation":3,"released_unix_seconds":null,"count":259,"member":"00c0ffee00c0ffee","before":"0000000000000007","signature":"c2lnbmVk"}"#;
const WHOLE_FREE: &str = r#"{"version":1,"serial":10,"holder":null,"generation":3,"released_unix_seconds":1700000000,"count":259,"member":"00c0ffee00c0ffee","before":"0000000000000007","ended_by":"operator"}"#;
const WHOLE_HOST: &str = r#"{"version":1,"serial":2,"name":"host-1","vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":7,"clock_steps":2,"instance":"a71da13f-7c70-4c00-a644-eee8558d8053","signature":"c2lnbmVk"}"#;
const WHOLE_PRESENCE: &str = r#"{"version":1,"serial":2,"instance":"a71da13f-7c70-4c00-a644-eee8558d8053","machine":"0a1b2c3d-0000-5000-8000-000000000001","boot":"7c4d3a7e-53a4-4ae2-9ba2-5c7ac1c5d1a6","fleet":"fl-5c9f9c0e-3b61-4ab3-8a0e-2f5fd1d6f3b7","answers":true,"asked":"0a1b2c3d-0000-4000-8000-000000000002","since_unix_seconds":1700000000,"signature":"c2lnbmVk"}"#;
const WHOLE_VTEP: &str = r#"{"version":1,"serial":2,"host":"host-1","instance":"a71da13f-7c70-4c00-a644-eee8558d8053","signature":"c2lnbmVk"}"#;
const WHOLE_DRAIN: &str = r#"{"version":1,"serial":2,"host":"host-1","draining":true,"by":"host-2","at_unix_seconds":1700000000,"signature":"c2lnbmVk"}"#;
const WHOLE_NETWORK_MARK: &str = r#"{"version":1,"serial":1,"network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","name":"shop","by":"host-2","at_unix_seconds":1700000000,"signature":"c2lnbmVk"}"#;
const WHOLE_INSTANCE_MARK: &str = r#"{"version":1,"serial":1,"instance":"a71da13f-7c70-4c00-a644-eee8558d8053","host":"host-1","by":"host-2","at_unix_seconds":1700000000,"signature":"c2lnbmVk"}"#;
const WHOLE_NETWORK_POINTER: &str =
    r#"{"version":1,"serial":1,"network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","signature":"c2lnbmVk"}"#;
const WHOLE_MEMBER_POINTER: &str = r#"{"version":1,"serial":1,"holder":"1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053","member":"00c0ffee00c0ffee","signature":"c2lnbmVk"}"#;

fn entry(text: &str) -> Entry {
    let (key, revision) = ("a/1".parse().expect("a key"), Revision::default());
    Entry { key, value: text.as_bytes().into(), revision, lease: None }
}

/// What a record becomes that is read and written as it is.
fn again<T: Record>(text: &str) -> String {
    let stored = read::<T>(&entry(text)).expect("a record");
    String::from_utf8(encode(&stored.record, &stored.envelope).to_vec()).expect("text")
}

/// What is written today is what every later build of this version has to read.
#[test]
fn the_form_of_the_records_does_not_change() {
    for (form, text) in [
        (again::<Network> as fn(&str) -> String, WHOLE_NETWORK),
        (again::<Member>, WHOLE_MEMBER),
        (again::<AddressRecord>, WHOLE_HELD),
        (again::<AddressRecord>, WHOLE_FREE),
        (again::<HostRecord>, WHOLE_HOST),
        (again::<PresenceRecord>, WHOLE_PRESENCE),
        (again::<FleetRecord>, FLEET),
        (again::<VtepRecord>, WHOLE_VTEP),
        (again::<DrainRecord>, WHOLE_DRAIN),
        (again::<NetworkMark>, WHOLE_NETWORK_MARK),
        (again::<InstanceMark>, WHOLE_INSTANCE_MARK),
        (again::<NetworkPointer>, WHOLE_NETWORK_POINTER),
        (again::<MemberPointer>, WHOLE_MEMBER_POINTER),
    ] {
        assert_eq!(form(text), text);
    }
}

/// The text is that of the build that knew the fields of its version's beginning alone.
#[test]
fn the_records_of_the_build_before_are_read_and_what_they_lack_follows_from_them() {
    for (form, text) in [
        (again::<Network> as fn(&str) -> String, NETWORK),
        (again::<HostRecord>, HOST),
        (again::<HostRecord>, STEPPED),
        (again::<PresenceRecord>, PRESENCE),
        (again::<NetworkPointer>, NETWORK_POINTER),
        (again::<MemberPointer>, MEMBER_POINTER),
    ] {
        assert_eq!(form(text), text);
    }
    let with_id = MEMBER.replace(r#"{"version":1,"#, r#"{"version":1,"id":"8520f0098930a754","#);
    assert_eq!(again::<Member>(MEMBER), with_id);
    for text in [HELD, FREE] {
        assert_eq!(again::<AddressRecord>(text), text.replace('}', r#","count":3}"#));
    }
}

#[test]
fn what_this_build_does_not_know_is_kept_when_the_record_changes() {
    let colour = r#""colour":{"name":"red","shades":[1,2.5,null]}}"#;
    let text = WHOLE_MEMBER.strip_suffix('}').expect("JSON").to_owned() + "," + colour;
    let text = text.replace(r#""number":2}"#, r#""number":2,"weight":7}"#);
    assert_eq!(again::<Member>(&text), text);
    let stored = read::<Member>(&entry(&text)).expect("a member");
    let changed = Member { state: crate::model::MemberState::Draining, ..stored.record };
    let written = String::from_utf8(encode(&changed, &stored.envelope.next()).to_vec()).expect("text");
    let expected = text.replace("ready", "draining").replace(r#""serial":4"#, r#""serial":5"#);
    // What was signed is not what is written now.
    assert_eq!(written, expected.replace(r#""signature":"c2lnbmVk","#, ""));
}

#[test]
fn a_field_that_was_empty_and_unknown_to_the_form_gives_way() {
    let text = MEMBER.replace('}', r#","ports":[],"app_name":null}"#);
    let stored = read::<Member>(&entry(&text)).expect("a member");
    let changed = Member { ports: ["http=80".parse().expect("a port")].into(), ..stored.record };
    let written = String::from_utf8(encode(&changed, &stored.envelope).to_vec()).expect("text");
    assert!(written.contains(r#""ports":["http=80"]"#) && !written.contains(r#""ports":[]"#), "{written}");
}

#[test]
fn a_fleet_without_a_port_has_the_one_that_iana_gave() {
    let text = FLEET.replace(r#","vxlan_port":4789"#, "");
    assert_eq!(again::<FleetRecord>(&text), FLEET);
    assert!(read::<FleetRecord>(&entry(&FLEET.replace("4789", "0"))).is_err());
    assert!(read::<FleetRecord>(&entry(&FLEET.replace("4789", "65536"))).is_err());
}

#[test]
fn a_serial_counts_from_one_and_a_record_without_counts_as_none() {
    assert_eq!(Envelope::first().serial, 1);
    assert_eq!(Envelope::first().next().serial, 2);
    assert_eq!(read::<Network>(&entry(NETWORK)).expect("a network").envelope.next().serial, 1);
    assert_eq!(read::<Network>(&entry(WHOLE_NETWORK)).expect("a network").envelope.serial, 1);
}

#[test]
fn the_low_byte_of_an_addresss_count_is_its_generation() {
    let record: AddressRecord = read(&entry(WHOLE_HELD)).expect("a record").record;
    assert_eq!((record.count, record.generation()), (259, 3));
    let damaged = WHOLE_HELD.replace("259", "260");
    let error = read::<AddressRecord>(&entry(&damaged)).expect_err("it is damaged").to_string();
    assert!(error.contains("generation 3 is not the low byte of count 260"), "{error}");
}

#[tokio::test]
async fn a_record_is_read_whole_or_its_key_is_named() {
    let store = Memory::new();
    let id: NetworkId = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c".parse().expect("an id");
    let key = keys::network(id);
    let newer = NETWORK.replace("\"version\":1", "\"version\":2,\"colour\":\"red\"");
    let other = NETWORK.replace("pn-ad", "pn-ae");
    for (value, expected) in [
        (NETWORK, None),
        (&NETWORK.replace("\"mtu\"", "\"colour\":\"red\",\"mtu\""), None),
        (&newer, Some("has version 2, and this privnet knows versions up to 1")),
        (&other, Some("is corrupt: it belongs under networks/pn-ae0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c")),
        (&NETWORK.replace("4711", "0"), Some("is corrupt: VNI 0 is not in 1..=16777215")),
        (&NETWORK.replace("\"version\":1,", ""), Some("is corrupt: missing field `version`")),
        (&NETWORK[..40], Some("is corrupt: EOF")),
        ("", Some("is corrupt: EOF")),
    ] {
        store.commit(Transaction::new().put(key.clone(), value.as_bytes())).await.expect("committed");
        match (get_network(&store, id).await, list_networks(&store).await, expected) {
            (Ok(Some(one)), Ok(all), None) => assert_eq!(vec![one.record], all.records),
            (Err(one), Err(all), Some(expected)) => {
                assert_eq!(one.to_string(), all.to_string());
                assert!(one.to_string().contains(&format!("{key} {expected}")), "{one}");
            }
            (one, all, expected) => panic!("{value}: {one:?}, {all:?}, not {expected:?}"),
        }
    }
}

#[tokio::test]
async fn a_member_under_another_members_key_is_refused() {
    let store = Memory::new();
    let member: Member = decode(&"a/1".parse().expect("a key"), MEMBER.as_bytes()).expect("a record");
    let put = |key| store.commit(Transaction::new().put(key, MEMBER.as_bytes()));
    put(keys::member(member.network, &member.container)).await.expect("committed");
    let listed = list_members(&store, Some(member.network)).await.expect("listed");
    assert_eq!(listed.records, std::slice::from_ref(&member));
    let elsewhere = ContainerRef { number: 2.try_into().expect("in range"), ..member.container };
    put(keys::member(member.network, &elsewhere)).await.expect("committed");
    let error = list_members(&store, None).await.expect_err("two of one");
    assert!(matches!(&error, RecordError::Corrupt { key, .. } if *key == keys::member(member.network, &elsewhere)));
}

#[test]
fn a_mark_ends_the_members_of_its_instance_and_those_of_its_host_that_name_none() {
    let mark: InstanceMark = read(&entry(WHOLE_INSTANCE_MARK)).expect("a mark").record;
    let member = |text: &str| decode::<Member>(&entry(text).key, text.as_bytes()).expect("a member");
    assert!(mark.ends(&member(WHOLE_MEMBER)));
    assert!(!mark.ends(&member(&WHOLE_MEMBER.replace(r#""instance":"a"#, r#""instance":"b"#))), "the host's next one");
    assert!(mark.ends(&member(MEMBER)));
    assert!(!mark.ends(&member(&MEMBER.replace("host-1", "host-2"))), "another host's");
}
