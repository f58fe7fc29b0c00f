//! A domain name, in its uncompressed wire form (RFC 1035 section 3.1).

use std::fmt;
use std::str::FromStr;

#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain};

/// Longest name in octets, with its length octets and the root (RFC 1035 section 3.1).
pub const MAX_OCTETS: usize = 255;
/// Longest label in octets.
pub const MAX_LABEL_OCTETS: usize = 63;

/// A domain name, always absolute. Keeps the letters' case; two names are equal when they differ in nothing else.
#[derive(Clone)]
pub struct Name {
    octets: Vec<u8>,
}

/// A text or a list of labels that is no domain name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("domain name {value:?} is invalid: {reason}")]
pub struct InvalidDomainName {
    /// The offending value, shortened to 64 characters.
    pub value: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Explain for InvalidDomainName {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }

    fn remedy(&self) -> Option<String> {
        Some("give a name as `dig` takes it".to_owned())
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        rows![
            Self { .. } => Self { value: "a..b".to_owned(), reason: "a label is empty" }, InvalidArgument,
                "domain name \"a..b\" is invalid: a label is empty", "give a name as `dig` takes it";
        ]
    }
}

impl Name {
    /// The root, `.`.
    #[must_use]
    pub fn root() -> Self {
        Self { octets: vec![0] }
    }

    /// Puts labels together, from the left, without the root's empty one.
    ///
    /// # Errors
    /// When a label is empty or longer than 63 octets, or all together are longer than 255.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, InvalidDomainName> {
        let mut name = Self { octets: Vec::with_capacity(128) };
        name.refill(labels)?;
        Ok(name)
    }

    /// Replaces the name by another, without a new allocation.
    ///
    /// # Errors
    /// As [`Self::from_labels`]. It is the root then.
    pub fn refill<'a>(&mut self, labels: impl IntoIterator<Item = &'a [u8]>) -> Result<(), InvalidDomainName> {
        self.octets.clear();
        let filled = labels.into_iter().try_for_each(|label| self.push(label));
        if filled.is_err() {
            self.octets.clear();
        }
        self.octets.push(0);
        filled
    }

    /// Appends a label to a name whose root was not appended yet.
    fn push(&mut self, label: &[u8]) -> Result<(), InvalidDomainName> {
        let wrong =
            |reason| InvalidDomainName { value: String::from_utf8_lossy(label).chars().take(64).collect(), reason };
        let length = match u8::try_from(label.len()) {
            Ok(0) => return Err(wrong("a label is empty")),
            Ok(length) if label.len() <= MAX_LABEL_OCTETS => length,
            Ok(_) | Err(_) => return Err(wrong("a label is longer than 63 octets")),
        };
        if self.octets.len() + 1 + label.len() + 1 > MAX_OCTETS {
            return Err(wrong("it is longer than 255 octets"));
        }
        self.octets.push(length);
        self.octets.extend_from_slice(label);
        Ok(())
    }

    /// A name that this program wrote itself, of parts that were checked at birth.
    pub(super) fn from_valid(text: &str) -> Self {
        // Label lengths: app and network 39, type and network name at most 63, port name with '_' at most 16.
        text.parse().unwrap_or_else(|error| unreachable!("{error}"))
    }

    /// The wire form, uncompressed, up to and with the root's zero.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The labels from the left, without the root's.
    pub fn labels(&self) -> Labels<'_> {
        Labels { rest: &self.octets }
    }

    /// The same name in lower case.
    #[must_use]
    pub fn to_lowercase(&self) -> Self {
        // Length octets are at most 63, below every letter.
        Self { octets: self.octets.to_ascii_lowercase() }
    }

    /// Makes it lower case.
    pub fn make_lowercase(&mut self) {
        self.octets.make_ascii_lowercase();
    }

    /// The name without its first `count` labels; the root when it has fewer.
    #[must_use]
    pub fn parent(&self, count: usize) -> Self {
        let mut labels = self.labels();
        for _ in 0..count {
            labels.next();
        }
        Self { octets: labels.rest.to_vec() }
    }
}

/// The labels of a name, from the left.
#[derive(Clone, Debug)]
pub struct Labels<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first()?;
        if *length == 0 {
            return None;
        }
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        self.rest = rest;
        Some(label)
    }
}

impl FromStr for Name {
    type Err = InvalidDomainName;

    /// Reads `a.b.c`, with or without the final dot, and the `\.` and `\DDD` of RFC 1035 section 5.1.
    fn from_str(text: &str) -> Result<Self, InvalidDomainName> {
        let wrong = |reason| InvalidDomainName { value: text.chars().take(64).collect(), reason };
        let mut labels = vec![Vec::new()];
        let mut octets = text.bytes();
        while let Some(octet) = octets.next() {
            match (octet, labels.last_mut()) {
                (b'.', _) => labels.push(Vec::new()),
                (b'\\', Some(label)) => label.push(escaped(&mut octets).ok_or_else(|| wrong("an escape is cut off"))?),
                (octet, Some(label)) => label.push(octet),
                (_, None) => unreachable!("it starts with one label and only gains"),
            }
        }
        if labels.last().is_some_and(Vec::is_empty) {
            labels.pop();
        }
        if labels.is_empty() && text != "." {
            return Err(wrong("it is empty"));
        }
        if text == "." {
            return Ok(Self::root());
        }
        Self::from_labels(labels.iter().map(Vec::as_slice)).map_err(|error| wrong(error.reason))
    }
}

/// What follows a backslash: three digits, or one character that stands for itself.
fn escaped(octets: &mut std::str::Bytes<'_>) -> Option<u8> {
    let first = octets.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    let digits = [first, octets.next()?, octets.next()?];
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.octets.len() == 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for octet in label {
                match octet {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(*octet))?,
                    0x21..=0x7e => write!(f, "{}", char::from(*octet))?,
                    _ => write!(f, "\\{octet:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.octets.eq_ignore_ascii_case(&other.octets)
    }
}

impl Eq for Name {}
