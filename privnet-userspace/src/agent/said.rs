//! What the log has said: a trouble that repeats is said once, until it is over.

use std::collections::BTreeSet;

/// What was said of a trouble since it began.
#[derive(Debug, Default)]
pub struct Said(BTreeSet<String>);

impl Said {
    /// Whether this was not said yet; numbers make no difference, since times and counts change with each attempt.
    pub fn is_new(&mut self, text: &str) -> bool {
        self.0.insert(text.chars().filter(|c| !c.is_ascii_digit()).collect())
    }

    /// Whether something was said: it is over now.
    pub fn is_over(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_said_once_until_it_is_over() {
        let mut said = Said::default();
        assert!(!said.is_over(), "nothing was wrong");
        assert!(said.is_new("no answer within 1.8 s") && !said.is_new("no answer within 1.7 s"));
        assert!(said.is_new("connection refused") && !said.is_new("no answer within 1.8 s"));
        assert!(said.is_over() && !said.is_over());
        assert!(said.is_new("connection refused"));
    }
}
