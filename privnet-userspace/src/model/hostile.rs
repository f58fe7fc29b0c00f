//! Bytes from outside that are nearly right, for the tests of every parser; and what the nouns make of such text.
//!
//! `PROPTEST_CASES` says how many are tried, 256 unless it is set.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::{AppId, ContainerRef, ContainerType, HostName, IfName, NetworkId, NetworkName, Port, PublicKey};

/// Bytes near a document of `corpus`: some changed, a value replaced by one of another kind, or no document at all.
pub(crate) fn near_json(corpus: &[&str]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let corpus: Vec<Vec<u8>> = corpus.iter().map(|text| text.as_bytes().to_vec()).collect();
    let document = prop::sample::select(corpus);
    let replaced = (document.clone(), any::<Index>(), odd_value()).prop_map(|(document, which, value)| {
        let mut document: Value = serde_json::from_slice(&document).expect("the corpus is JSON");
        let places = pointers(&document, "");
        *document.pointer_mut(&places[which.index(places.len())]).expect("a place of the document") = value;
        serde_json::to_vec(&document).expect("JSON")
    });
    let deep =
        (1..3000_usize, prop::sample::select(vec!["[", "{\"a\":"])).prop_map(|(n, open)| open.repeat(n).into_bytes());
    prop_oneof![5 => replaced, 4 => damaged(document), 1 => prop::collection::vec(any::<u8>(), 0..300), 1 => deep]
}

/// Bytes near a text of `corpus`.
pub(crate) fn near_text(corpus: &[&str]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let corpus: Vec<Vec<u8>> = corpus.iter().map(|text| text.as_bytes().to_vec()).collect();
    prop_oneof![4 => damaged(prop::sample::select(corpus)), 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

/// Text that somebody might try as a name.
pub(crate) fn odd_text() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(ODD_TEXTS.to_vec()).prop_map(str::to_owned),
        "[a-z0-9-]{0,70}",
        "(pn|ap)-[0-9a-f-]{30,40}",
        "[0-9]{1,12}(\\.[a-z]{0,8}){0,3}",
        "\\PC{0,40}",
        any::<String>(),
    ]
}

const ODD_TEXTS: [&str; 16] = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\0b",
    "-rf",
    "$(reboot)",
    "a b",
    "a\nb",
    "pn-",
    "pn-AD0FD6A1-D05E-40EA-BF63-C4F8A75A9D8C",
    "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c",
    "1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053",
    "\u{202e}dnuora",
];

fn odd_value() -> impl Strategy<Value = Value> {
    let numbers = [json!(-1), json!(0), json!(256), json!(65_536), json!(16_777_216), json!(u64::MAX), json!(1e300)];
    prop_oneof![
        prop::sample::select(numbers.to_vec()),
        prop::sample::select(vec![json!(null), json!(true), json!([]), json!({}), json!([[]]), json!({"a": 1})]),
        odd_text().prop_map(Value::from),
    ]
}

fn pointers(value: &Value, at: &str) -> Vec<String> {
    let mut all = vec![at.to_owned()];
    match value {
        Value::Object(fields) => {
            // RFC 6901: what parts the names is escaped in them.
            let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
            all.extend(fields.iter().flat_map(|(name, value)| pointers(value, &format!("{at}/{}", escaped(name)))));
        }
        Value::Array(items) => {
            all.extend(items.iter().enumerate().flat_map(|(n, value)| pointers(value, &format!("{at}/{n}"))));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    all
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Cut,
    Remove,
    Insert(u8),
    Set(u8),
    Double,
}

fn damaged(document: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte = || prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\0-9e.u".to_vec())];
    let damage = prop_oneof![
        1 => Just(Damage::Cut),
        2 => Just(Damage::Remove),
        3 => byte().prop_map(Damage::Insert),
        3 => byte().prop_map(Damage::Set),
        1 => Just(Damage::Double),
    ];
    (document, prop::collection::vec((any::<Index>(), damage), 0..4)).prop_map(|(mut bytes, damages)| {
        for (place, damage) in damages {
            let at = place.index(bytes.len() + 1);
            match damage {
                Damage::Cut => bytes.truncate(at),
                Damage::Insert(byte) => bytes.insert(at, byte),
                Damage::Remove | Damage::Set(_) | Damage::Double if at == bytes.len() => {}
                Damage::Remove => drop(bytes.remove(at)),
                Damage::Set(byte) => bytes[at] = byte,
                Damage::Double => bytes.extend_from_within(at..),
            }
        }
        bytes
    })
}

/// Whether a text can be one component of a path, and an argument that is no option.
fn stays_in_its_directory(text: &str) -> bool {
    !text.is_empty() && !text.contains(['/', '\0']) && text != "." && text != ".." && !text.starts_with('-')
}

proptest! {
    #[test]
    fn what_parses_as_a_name_cannot_leave_a_directory(text in odd_text()) {
        let names = [
            text.parse::<NetworkId>().ok().map(|name| name.to_string()),
            text.parse::<AppId>().ok().map(|name| name.to_string()),
            text.parse::<NetworkName>().ok().map(|name| name.to_string()),
            text.parse::<ContainerType>().ok().map(|name| name.to_string()),
            text.parse::<ContainerRef>().ok().map(|name| name.to_string()),
            text.parse::<HostName>().ok().map(|name| name.to_string()),
        ];
        for name in names.into_iter().flatten() {
            prop_assert_eq!(&name, &text, "a name has one form");
            prop_assert!(stays_in_its_directory(&name), "{:?}", name);
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", name);
        }
        // The kernel allows more in an interface's name than we would.
        if let Ok(name) = text.parse::<IfName>() {
            prop_assert!(!name.as_str().contains(['/', '\0']) && ![".", "..", ""].contains(&name.as_str()));
        }
        let _ = (text.parse::<Port>(), text.parse::<PublicKey>());
    }

    #[test]
    fn a_refused_name_says_why_in_one_line(text in odd_text()) {
        let refused = [
            text.parse::<NetworkId>().err().map(|error| error.to_string()),
            text.parse::<AppId>().err().map(|error| error.to_string()),
            text.parse::<NetworkName>().err().map(|error| error.to_string()),
            text.parse::<ContainerRef>().err().map(|error| error.to_string()),
            text.parse::<HostName>().err().map(|error| error.to_string()),
        ];
        for said in refused.into_iter().flatten() {
            prop_assert!(!said.is_empty() && !said.chars().any(char::is_control), "{:?}", said);
        }
    }
}

#[test]
fn the_names_that_are_meant_do_parse() {
    assert!("pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c".parse::<NetworkId>().is_ok());
    assert!("1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053".parse::<ContainerRef>().is_ok());
    assert!("shop".parse::<NetworkName>().is_ok() && "wg0".parse::<IfName>().is_ok());
}
