//! The form of keys and prefixes. [`super::keys`] has their meaning.

use std::fmt;
use std::ops::Bound;
use std::str::FromStr;
use std::sync::Arc;

/// The longest key or prefix, in bytes. Far above what [`super::keys`] makes, far below etcd's limit of a request.
pub const MAX_KEY_BYTES: usize = 512;

/// A key of the store: segments of printable ASCII, separated by single `/`, none of them empty. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// The start of the keys that a listing or a watch asks for: a key and a final `/`, so that `a/1/` never matches `a/10/b`;
/// or nothing, with which every key starts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

/// A text that is not a key, or not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is invalid: {reason}")]
pub struct InvalidKey {
    /// `key` or `prefix`.
    pub what: &'static str,
    /// The offending text, shortened to 64 characters.
    pub value: String,
    /// Why it is invalid.
    pub reason: &'static str,
}

impl Key {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The rest of the key after `prefix`; `None` when the key is not below it.
    #[must_use]
    pub fn below(&self, prefix: &Prefix) -> Option<&str> {
        self.0.strip_prefix(&*prefix.0)
    }
}

impl Prefix {
    /// The start of every key.
    #[must_use]
    pub fn all() -> Self {
        Self("".into())
    }

    /// The text, which ends with `/` or is empty.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `key` is below this prefix.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        key.0.starts_with(&*self.0)
    }

    /// The range of keys below this prefix: `0` is the character after `/`.
    pub(super) fn range(&self) -> (Bound<Key>, Bound<Key>) {
        let Some(segments) = self.0.strip_suffix('/') else { return (Bound::Unbounded, Bound::Unbounded) };
        (Bound::Included(Key(self.0.clone())), Bound::Excluded(Key(format!("{segments}0").into())))
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        check("key", text, text).map(Self)
    }
}

impl FromStr for Prefix {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let Some(segments) = text.strip_suffix('/') else {
            return Err(InvalidKey::new("prefix", text, "it does not end with '/'"));
        };
        check("prefix", text, segments).map(Self)
    }
}

impl InvalidKey {
    fn new(what: &'static str, value: &str, reason: &'static str) -> Self {
        Self { what, value: value.chars().take(64).collect(), reason }
    }
}

fn check(what: &'static str, text: &str, segments: &str) -> Result<Arc<str>, InvalidKey> {
    let wrong = |reason| Err(InvalidKey::new(what, text, reason));
    if text.len() > MAX_KEY_BYTES {
        return wrong("it is longer than 512 bytes");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong("it has a character that is not printable ASCII");
    }
    if segments.split('/').any(str::is_empty) {
        return wrong("a segment between '/' is empty");
    }
    Ok(text.into())
}

macro_rules! prints_as_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

prints_as_text!(Key);
prints_as_text!(Prefix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_segments_of_printable_ascii() {
        for good in ["a", "networks/pn-1", "a/b/c", &"x".repeat(512)] {
            assert_eq!(good.parse::<Key>().expect("valid").as_str(), good);
        }
        for bad in ["", "/", "/a", "a/", "a//b", "a b", "a\n", "grün", &"x".repeat(513)] {
            assert!(bad.parse::<Key>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_prefix_ends_with_a_slash() {
        for good in ["a/", "members/pn-1/"] {
            assert_eq!(good.parse::<Prefix>().expect("valid").as_str(), good);
        }
        for bad in ["", "/", "a", "/a/", "a//", "ä/"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_prefix_holds_what_is_below_it_and_nothing_beside_it() {
        let prefix: Prefix = "a/1/".parse().expect("valid");
        for (key, held) in [("a/1/b", true), ("a/1/b/c", true), ("a/1", false), ("a/10/b", false), ("a/2", false)] {
            let key: Key = key.parse().expect("valid");
            assert_eq!(prefix.holds(&key), held, "{key}");
            assert_eq!(std::ops::RangeBounds::contains(&prefix.range(), &key), held, "{key}");
            assert!(Prefix::all().holds(&key) && key.below(&Prefix::all()) == Some(key.as_str()));
            assert!(std::ops::RangeBounds::contains(&Prefix::all().range(), &key));
        }
    }
}
