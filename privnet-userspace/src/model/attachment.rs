//! What a container runtime calls an attachment that it made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::{InvalidName, text_conversions};

/// The longest one, in bytes: the names that CNI makes of a network, a container and an interface fit.
const MAX_BYTES: usize = 1024;

/// The name that a container runtime has for an attachment. The agent does not read it: by it the runtime finds and ends what
/// it attached.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AttachmentName(String);

impl AttachmentName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AttachmentName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_valid = (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_valid {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidName::new("attachment", text, "expected 1 to 1024 printable characters of ASCII without blanks"))
    }
}

impl fmt::Display for AttachmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_conversions!(AttachmentName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_printable_and_bounded() {
        let longest = "a".repeat(MAX_BYTES);
        for good in ["cni/shop/0123abcd/eth0", "x", &longest] {
            assert_eq!(good.parse::<AttachmentName>().expect("valid").as_str(), good);
        }
        for bad in ["", "a b", "a\n", "é", &format!("{longest}a")] {
            assert!(bad.parse::<AttachmentName>().is_err(), "{bad:?} was accepted");
        }
    }
}
