//! This host's own records, damaged: read, or refused by an error that names the file, which stays.

use std::fs;

use proptest::prelude::*;

use super::host::journal::Journal;
use crate::model::hostile::{near_json, near_text};

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
