//! What is wrong with the store, for status.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::said::Said;

/// What can be wrong with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreProblem {
    /// It does not answer.
    Contact,
    /// It is not followed.
    Following,
    /// The others may take this host for gone.
    Presence,
    /// It has lost records.
    Lost,
    /// It has given the address of an earlier membership to one of this host.
    Contested,
    /// What was seen of it cannot be written down or read back.
    Snapshot,
}

impl StoreProblem {
    /// What the log says when it begins, and when it is over.
    const fn story(self) -> (&'static str, &'static str) {
        match self {
            Self::Contact => {
                ("the store is doubted, and running members are not affected", "the store is believed again")
            }
            Self::Following => (
                "the store is not followed, and the members of this host stay as they are",
                "the store is followed again",
            ),
            Self::Presence => (
                "other hosts may consider this one gone: its presence is not renewed",
                "the presence of this host is renewed again",
            ),
            Self::Lost => ("the store has lost what was seen in it", "the store has again all that it had lost"),
            Self::Contested => (
                "a membership of this host is kept off, since an earlier one has its address",
                "no membership of this host is kept off by an earlier one",
            ),
            Self::Snapshot => {
                ("what was seen of the store is not on disk as well", "what is seen of the store is on disk again")
            }
        }
    }
}

/// What is wrong with the store now.
#[derive(Debug, Default)]
pub struct StoreProblems(Mutex<Problems>);

#[derive(Debug, Default)]
struct Problems {
    now: BTreeMap<StoreProblem, String>,
    said: BTreeMap<StoreProblem, Said>,
}

impl StoreProblems {
    /// Says what is wrong, or that it is not any more.
    pub fn set(&self, problem: StoreProblem, text: Option<String>) {
        let Problems { now, said } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // While the store does not answer, the others follow from that.
        let is_cause = problem == StoreProblem::Contact || !now.contains_key(&StoreProblem::Contact);
        let (said, (begun, over)) = (said.entry(problem).or_default(), problem.story());
        match text {
            Some(text) => {
                if is_cause && said.is_new(&text) {
                    tracing::warn!("{begun}: {text}");
                }
                now.insert(problem, text);
            }
            None => {
                if said.is_over() {
                    tracing::info!("{over}");
                }
                now.remove(&problem);
            }
        }
    }

    /// Whether that is wrong now.
    pub fn has(&self, problem: StoreProblem) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).now.contains_key(&problem)
    }

    /// What is wrong, one line each.
    pub fn lines(&self) -> Vec<String> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problems.now.values().map(|problem| format!("store: {problem}")).collect()
    }
}
