//! Records as no privnet writes them: read whole, or refused by an error that names the key.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::records::{
    self, AddressRecord, FleetRecord, HostRecord, InstanceMark, MemberPointer, NetworkMark, NetworkPointer,
    PresenceRecord, Record, RecordError, decode, member_from, network_from,
};
use super::{Entry, Key, keys};
use crate::model::hostile::near_json;
use crate::model::{ContainerRef, Member, Network, NetworkId};

const CORPUS: [&str; 12] = [
    r#"{"version":1,"id":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","name":"shop","vni":4711,"subnet":"10.240.0.0/22","mtu":1390,"created_unix_seconds":1700000000,"names":{"ttl_seconds":5}}"#,
    r#"{"version":1,"network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","app":"ap-a71da13f-7c70-4c00-a644-eee8558d8053","type":"web","number":1,"address":"10.240.0.2","generation":3,"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","wireguard_port":51820,"host":"host-1","state":"ready","ports":["http=80"]}"#,
    r#"{"version":1,"holder":"1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053","generation":3,"released_unix_seconds":null}"#,
    r#"{"version":1,"network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c"}"#,
    r#"{"version":1,"holder":"1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053"}"#,
    r#"{"version":1,"name":"host-1","vtep":"192.0.2.1","agent_version":"0.1.0","applied_revision":7}"#,
    r#"{"version":1,"serial":4,"id":"00c0ffee00c0ffee","network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","app":"ap-a71da13f-7c70-4c00-a644-eee8558d8053","type":"web","number":1,"address":"10.240.0.2","generation":3,"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","wireguard_port":51820,"host":"host-1","state":"ready","app_name":"shop-api","names":[{"app":"ap-47701b62-1b53-5449-88a0-3e2e775b143b","type":"side","number":1,"ports":["admin=81"],"draining":true}],"signature":"c2lnbmVk"}"#,
    r#"{"version":1,"serial":10,"holder":null,"generation":3,"released_unix_seconds":1700000000,"count":259,"member":"00c0ffee00c0ffee","before":"0000000000000007","ended_by":"host"}"#,
    r#"{"version":1,"serial":2,"instance":"a71da13f-7c70-4c00-a644-eee8558d8053","machine":"0a1b2c3d-0000-5000-8000-000000000001","boot":"7c4d3a7e-53a4-4ae2-9ba2-5c7ac1c5d1a6"}"#,
    r#"{"version":1,"serial":1,"id":"fl-5c9f9c0e-3b61-4ab3-8a0e-2f5fd1d6f3b7","epoch":1,"vxlan_port":4789}"#,
    r#"{"version":1,"serial":1,"network":"pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c","name":"shop","by":"host-2","at_unix_seconds":1700000000}"#,
    r#"{"version":1,"serial":1,"instance":"a71da13f-7c70-4c00-a644-eee8558d8053","host":"host-1","by":"host-2","at_unix_seconds":1700000000}"#,
];

fn network() -> NetworkId {
    "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c".parse().expect("an id")
}

fn container() -> ContainerRef {
    "1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053".parse().expect("a container")
}

fn names_its_key<T>(key: &Key, read: Result<T, RecordError>) -> Result<Option<T>, TestCaseError> {
    match read {
        Ok(record) => Ok(Some(record)),
        Err(error) => {
            prop_assert!(error.to_string().contains(key.as_str()), "{}", error);
            Ok(None)
        }
    }
}

fn read<T: Record>(value: &[u8]) -> Result<Option<T>, TestCaseError> {
    let key: Key = "a/1".parse().expect("a key");
    let read = names_its_key(&key, decode::<T>(&key, value))?;
    if let Some(record) = &read {
        let entry = Entry { key: key.clone(), value: value.into(), revision: Default::default(), lease: None };
        let stored = records::read::<T>(&entry).expect("it was read");
        let again = records::encode(record, &stored.envelope.next());
        prop_assert!(decode::<T>(&key, &again).is_ok(), "what is read can be written and read again");
    }
    Ok(read)
}

proptest! {
    #[test]
    fn any_bytes_under_any_key_are_a_record_or_an_error_that_names_it(value in near_json(&CORPUS)) {
        read::<Network>(&value)?;
        read::<Member>(&value)?;
        read::<AddressRecord>(&value)?;
        read::<NetworkPointer>(&value)?;
        read::<MemberPointer>(&value)?;
        read::<HostRecord>(&value)?;
        read::<PresenceRecord>(&value)?;
        read::<FleetRecord>(&value)?;
        read::<NetworkMark>(&value)?;
        read::<InstanceMark>(&value)?;
        let entry = |key| Entry { key, value: value.clone().into(), revision: Default::default(), lease: None };
        let of_network = entry(keys::network(network()));
        if let Some(record) = names_its_key(&of_network.key, network_from(&of_network))? {
            prop_assert_eq!(record.id, network());
        }
        let of_member = entry(keys::member(network(), &container()));
        if let Some(record) = names_its_key(&of_member.key, member_from(&of_member))? {
            prop_assert_eq!((record.network, record.container), (network(), container()));
        }
    }
}

#[test]
fn the_corpus_is_read() {
    let key: Key = "a/1".parse().expect("a key");
    decode::<Network>(&key, CORPUS[0].as_bytes()).expect("a network");
    decode::<Member>(&key, CORPUS[1].as_bytes()).expect("a member");
    decode::<AddressRecord>(&key, CORPUS[2].as_bytes()).expect("an address");
    decode::<HostRecord>(&key, CORPUS[5].as_bytes()).expect("a host");
    decode::<Member>(&key, CORPUS[6].as_bytes()).expect("a member");
    decode::<AddressRecord>(&key, CORPUS[7].as_bytes()).expect("an address");
    decode::<PresenceRecord>(&key, CORPUS[8].as_bytes()).expect("a presence");
    decode::<FleetRecord>(&key, CORPUS[9].as_bytes()).expect("a fleet");
    decode::<NetworkMark>(&key, CORPUS[10].as_bytes()).expect("a mark");
    decode::<InstanceMark>(&key, CORPUS[11].as_bytes()).expect("a mark");
}

#[test]
fn numbers_out_of_range_are_refused() {
    let key: Key = "a/1".parse().expect("a key");
    let with = |corpus: &str, field: &str, value: &Value| {
        let mut record: Value = serde_json::from_str(corpus).expect("JSON");
        record[field] = value.clone();
        record.to_string().into_bytes()
    };
    for (field, last) in [("vni", 16_777_215_u64), ("mtu", u64::from(u32::MAX))] {
        assert!(decode::<Network>(&key, &with(CORPUS[0], field, &json!(last))).is_ok(), "{field} {last}");
        for wrong in [json!(last + 1), json!(-1), json!(1.5), json!(u64::MAX), json!("7")] {
            let error = decode::<Network>(&key, &with(CORPUS[0], field, &wrong)).expect_err("refused");
            assert!(error.to_string().contains("a/1"), "{error}");
        }
    }
    for (field, last) in [("generation", 255_u64), ("wireguard_port", 65_535)] {
        assert!(decode::<Member>(&key, &with(CORPUS[1], field, &json!(last))).is_ok(), "{field} {last}");
        for wrong in [json!(last + 1), json!(-1), json!(null)] {
            assert!(decode::<Member>(&key, &with(CORPUS[1], field, &wrong)).is_err(), "{field} {wrong}");
        }
    }
    assert!(decode::<Member>(&key, &with(CORPUS[1], "number", &json!(0))).is_err(), "numbers begin with 1");
    assert!(decode::<Network>(&key, &with(CORPUS[0], "vni", &json!(0))).is_err(), "so do VNIs");
}
