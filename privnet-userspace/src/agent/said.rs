//! What the log has said: a trouble that repeats is said once, until it is over.

use std::collections::BTreeSet;

/// What was said of a trouble since it began.
#[derive(Debug, Default)]
pub struct Said(BTreeSet<String>);

impl Said {
    /// Whether this was not said yet. A number that stands alone makes no difference, since times and counts change with each
    /// attempt; one in a name or an address does: that is another object.
    pub fn is_new(&mut self, text: &str) -> bool {
        let is_number = |word: &&str| word.trim_end_matches([',', ';', ':', ')']).parse::<f64>().is_ok();
        let words: Vec<&str> = text.split_whitespace().filter(|word| !is_number(word)).collect();
        self.0.insert(words.join(" "))
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
        for member in ["1.web.shop (10.240.0.2)", "2.web.shop (10.240.0.2)", "1.web.shop (10.240.0.3)"] {
            let text = format!("{member}: the container is gone");
            assert!(said.is_new(&text) && !said.is_new(&text), "another member is another trouble");
        }
        assert!(said.is_over() && !said.is_over());
        assert!(said.is_new("connection refused"));
    }
}
