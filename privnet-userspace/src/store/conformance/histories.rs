//! Random histories, which every store has to answer as the reference does.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// One step of a random history. Revisions are counted back from the newest.
#[derive(Clone, Debug)]
enum Step {
    Commit { compares: Vec<(usize, Option<Option<u64>>)>, writes: Vec<(usize, Option<u8>)> },
    Reopen,
}

const NAMES: [&str; 5] = ["a/1", "a/10", "a/2", "a/2/x", "b/1"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let compares = prop::collection::vec((0..NAMES.len(), prop::option::of(prop::option::of(0u64..4))), 0..3);
    let writes = prop::collection::vec((0..NAMES.len(), prop::option::of(any::<u8>())), 0..4);
    let commit = (compares, writes).prop_map(|(compares, writes)| Step::Commit { compares, writes });
    prop::collection::vec(prop_oneof![20 => commit, 1 => Just(Step::Reopen)], 1..40)
}

fn transaction(
    newest: Revision,
    compares: &[(usize, Option<Option<u64>>)],
    writes: &[(usize, Option<u8>)],
) -> Transaction {
    let mut transaction = Transaction::new();
    for (name, expected) in compares {
        let expected = match expected {
            None => Expected::Absent,
            Some(None) => Expected::Exists,
            Some(Some(back)) => Expected::Revision(Revision(newest.0.saturating_sub(*back))),
        };
        transaction = transaction.require(key(NAMES[*name]), expected);
    }
    for (name, value) in writes {
        transaction = match value {
            Some(value) => transaction.put(key(NAMES[*name]), [*value]),
            None => transaction.delete(key(NAMES[*name])),
        };
    }
    transaction
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_random_history_gives_the_same_answers_in_both_stores(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let directory = tempfile::tempdir().expect("a directory");
            let memory = Memory::new();
            let mut embedded = Embedded::open(directory.path()).await.expect("opened");
            let mut since = Revision(0);
            let mut newest = Revision(0);
            for step in &steps {
                match step {
                    Step::Commit { compares, writes } => {
                        let transaction = transaction(newest, compares, writes);
                        let expected = memory.commit(transaction.clone()).await;
                        let answer = embedded.commit(transaction).await;
                        assert_eq!(format!("{expected:?}"), format!("{answer:?}"));
                        newest = expected.unwrap_or(newest);
                    }
                    Step::Reopen => {
                        drop(embedded);
                        embedded = Embedded::open(directory.path()).await.expect("opened again");
                        since = newest;
                    }
                }
                for below in ["a/", "a/2/", "b/"] {
                    let expected = memory.list(&prefix(below)).await.expect("listed");
                    assert_eq!(embedded.list(&prefix(below)).await.expect("listed"), expected);
                }
            }
            // What both remember of it is the same, too.
            let mut changes = BTreeMap::new();
            for (name, store) in [("memory", &memory as &dyn Store), ("embedded", &embedded)] {
                let mut watch = store.watch(&prefix("a/"), since).await.expect("watching");
                store.commit(Transaction::new().put(key("a/end"), [])).await.expect("committed");
                let mut seen = vec![next(&mut watch).await];
                while !matches!(seen.last(), Some(Event::Put { key, .. }) if key.as_str() == "a/end") {
                    seen.push(next(&mut watch).await);
                }
                changes.insert(name, seen);
            }
            assert_eq!(changes["memory"], changes["embedded"]);
        });
    }
}
