//! The one error that surfaces see: a stable code, a message for a person, and what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::model::ErrorCode;

/// An error that a surface shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
pub struct ControlError {
    /// For programs.
    pub code: ErrorCode,
    /// What, which object, and why; lower case, one line.
    pub message: String,
    /// What to do about it; one sentence.
    pub remedy: String,
}

impl ControlError {
    /// Makes one of its parts.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: remedy.into() }
    }

    /// What is wrong and what to do, for the user of a program that shows one text.
    #[must_use]
    pub fn sentence(&self) -> String {
        if self.remedy.is_empty() { self.message.clone() } else { format!("{}: {}", self.message, self.remedy) }
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ControlError {}
