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

    /// What is wrong, one line each. A problem that another one ends with is its consequence, and is told once.
    pub fn lines(&self) -> Vec<String> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told: Vec<&String> = Vec::new();
        for problem in problems.now.values() {
            if !told.iter().any(|cause| problem.ends_with(cause.as_str())) {
                told.push(problem);
            }
        }
        told.into_iter().map(|problem| format!("store: {problem}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Explain as _;
    use crate::store::FleetError;

    const PAGE: &str = include_str!("../../../docs/operations.md");

    /// The one after it: a new one does not compile until it stands here.
    const fn next(problem: StoreProblem) -> Option<StoreProblem> {
        Some(match problem {
            StoreProblem::Contact => StoreProblem::Following,
            StoreProblem::Following => StoreProblem::Presence,
            StoreProblem::Presence => StoreProblem::Lost,
            StoreProblem::Lost => StoreProblem::Contested,
            StoreProblem::Contested => StoreProblem::Snapshot,
            StoreProblem::Snapshot => return None,
        })
    }

    #[test]
    fn a_problem_is_told_once_and_its_consequences_are_not() {
        let problems = StoreProblems::default();
        let tell = |problem, text: &str| problems.set(problem, Some(text.to_owned()));
        tell(StoreProblem::Contact, "it is another one");
        tell(StoreProblem::Following, "it is another one");
        tell(StoreProblem::Presence, "looking whether the name is free: it is another one");
        tell(StoreProblem::Snapshot, "it is another one, and the disk is full");
        assert_eq!(problems.lines(), ["store: it is another one", "store: it is another one, and the disk is full"]);
        problems.set(StoreProblem::Contact, None);
        problems.set(StoreProblem::Following, None);
        assert_eq!(problems.lines()[0], "store: looking whether the name is free: it is another one");
    }

    #[test]
    fn the_operators_page_has_what_the_log_says_of_each_problem() {
        for problem in std::iter::successors(Some(StoreProblem::Contact), |problem| next(*problem)) {
            let (begun, _) = problem.story();
            assert!(PAGE.contains(begun), "docs/operations.md has nothing of {begun:?}");
        }
    }

    #[test]
    fn the_operators_page_has_each_reason_why_a_store_is_not_the_fleets() {
        for row in FleetError::rows() {
            let mut text = row.message.split(':').next().unwrap_or_default().replace("fleet/record", "…");
            for number in ["1", "2"] {
                text = text.replace(&format!("fl-00000000-0000-0000-0000-00000000000{number}"), "fl-…");
            }
            let words =
                text.split(' ').map(|word| if word.trim_end_matches(',').parse::<u64>().is_ok() { "N" } else { word });
            let text: String = words.collect::<Vec<_>>().join(" ");
            assert!(PAGE.contains(&text), "docs/operations.md has nothing of {text:?}");
        }
    }
}
