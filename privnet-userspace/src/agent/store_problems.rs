//! What is wrong with the store, for status.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What can be wrong with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreProblem {
    /// It does not answer.
    Contact,
    /// It is not followed.
    Following,
    /// The others may take this host for gone.
    Presence,
}

/// What is wrong with the store now.
#[derive(Debug, Default)]
pub struct StoreProblems(Mutex<BTreeMap<StoreProblem, String>>);

impl StoreProblems {
    /// Says what is wrong, or that it is not any more.
    pub fn set(&self, problem: StoreProblem, text: Option<String>) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match text {
            Some(text) => drop(problems.insert(problem, text)),
            None => drop(problems.remove(&problem)),
        }
    }

    /// Whether that is wrong now.
    pub fn has(&self, problem: StoreProblem) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&problem)
    }

    /// What is wrong, one line each.
    pub fn lines(&self) -> Vec<String> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problems.values().map(|problem| format!("store: {problem}")).collect()
    }
}
