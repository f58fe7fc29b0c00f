//! Reads the agent's Prometheus text back into samples, for `privnet metrics -o json`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::agent::{ControlError, ErrorCode};

/// One sample.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// Reads text of format 0.0.4 without timestamps, which is what the agent writes.
///
/// # Errors
/// On the first line that is not a comment and not a sample.
pub fn parse(text: &str) -> Result<Vec<Sample>, ControlError> {
    let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    samples.map(|line| sample(line).ok_or_else(|| unreadable(line))).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = rest.strip_prefix('}')?;
    }
    Some(Sample { name: name.to_owned(), labels, value: rest.trim().parse().ok()? })
}

/// The text up to the closing quote, without its escapes, and what follows the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

fn unreadable(line: &str) -> ControlError {
    let message = format!("the agent's metrics hold a line that is no sample: {line:?}");
    ControlError::new(ErrorCode::Internal, message, "compare `privnet version` with the version in `privnet status`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_back_with_their_escapes() {
        let text = "# HELP a b\n# TYPE a gauge\na 1\nb{c=\"d\\\"e\\\\f\\ng,}\",h=\"\"} 2.5\n";
        let labels = [("c", "d\"e\\f\ng,}"), ("h", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(
            parse(text).expect("readable"),
            [
                Sample { name: "a".to_owned(), labels: BTreeMap::new(), value: 1.0 },
                Sample { name: "b".to_owned(), labels, value: 2.5 },
            ]
        );
    }

    #[test]
    fn what_is_no_sample_is_refused() {
        for bad in ["a", "a{b=\"c} 1", "a{b=\"c\" 1", "a{} x", "a{b} 1"] {
            assert!(parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
