//! Failpoints of a host's agent, as `privnet::failpoint` describes them: a test arms one step at a time.

use std::fs;
use std::path::{Path, PathBuf};

use super::host::Shared;
use super::say;
use super::wait::{SOON, holds_within};

/// What becomes of the agent at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The agent is killed behind the step.
    Kill,
    /// The step fails, and the agent goes on.
    Refuse,
    /// The task that passes the step waits behind it, with what it holds, until [`Failpoints::let_go`].
    Hold,
    /// As [`Self::Hold`], before the step, of those that can be refused.
    Halt,
}

/// A step that an agent passes: its name, and for which time since something began, from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passage {
    /// The step.
    pub step: String,
    /// For which time.
    pub time: u32,
}

/// The failpoints of one host, whose agent listens to them.
#[derive(Clone, Debug)]
pub struct Failpoints {
    file: PathBuf,
}

impl Failpoints {
    pub(super) fn new(directory: &Path) -> Self {
        Self { file: directory.join("failpoint") }
    }

    /// What an agent is told that is started by hand, in [`privnet::failpoint::VARIABLE`].
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Has the agent come to an end, or fail, at a step that it passes from now on.
    ///
    /// # Panics
    /// When it cannot be told.
    pub fn arm(&self, action: Action, passage: &Passage) {
        let Passage { step, time } = passage;
        let word = match action {
            Action::Kill => "kill",
            Action::Refuse => "refuse",
            Action::Hold => "hold",
            Action::Halt => "halt",
        };
        say(&format!("{word} at time {time} of `{step}`"));
        // By rename, as the agent may look at any time.
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, format!("{word} {time} {step}\n")).expect("a file");
        fs::rename(&fresh, &self.file).expect("a file");
    }

    /// Whether nothing is armed any more: the step was reached.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        !self.file.exists()
    }

    /// Lets the task go that is held.
    ///
    /// # Panics
    /// When none is.
    pub fn let_go(&self) {
        fs::remove_file(self.file.with_extension("held")).expect("a task that is held");
    }

    /// Arms nothing any more; whether the step was reached.
    #[must_use]
    pub fn disarm(&self) -> bool {
        fs::remove_file(&self.file).is_err()
    }

    /// Begins to note what the agent passes.
    ///
    /// # Panics
    /// When it cannot be told.
    pub fn record(&self) {
        fs::write(self.passed_file(), "").expect("a file");
    }

    /// What the agent has passed since [`Self::record`], in this order.
    #[must_use]
    pub fn passed(&self) -> Vec<Passage> {
        let text = fs::read_to_string(self.passed_file()).unwrap_or_default();
        let steps: Vec<&str> = text.lines().collect();
        let time = |at: usize| steps[..=at].iter().filter(|step| **step == steps[at]).count();
        let passage = |at: usize| Passage { step: steps[at].to_owned(), time: u32::try_from(time(at)).expect("few") };
        (0..steps.len()).map(passage).collect()
    }

    fn passed_file(&self) -> PathBuf {
        self.file.with_extension("passed")
    }
}

impl Shared {
    /// Starts the agent, which may end by itself.
    pub fn begin(&self) {
        say(&format!("[{}] the agent starts, and may end", self.name));
        self.driver.borrow_mut().start(self);
    }

    /// Starts the agent and waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start_and_end(&self) {
        say(&format!("[{}] the agent starts, and is to end", self.name));
        self.driver.borrow_mut().start(self);
        assert!(holds_within(SOON, || self.has_ended()), "the agent goes on:\n{}", self.log_tail());
    }

    /// The steps at which the agent ends or fails when it is told; see [`super::Options::failpoints`].
    #[must_use]
    pub fn failpoints(&self) -> Failpoints {
        Failpoints::new(self.paths.state.parent().expect("the host's directory"))
    }
}
