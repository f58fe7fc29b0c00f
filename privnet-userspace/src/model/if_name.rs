//! The name of a network interface, constructed only through the kernel's own check.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::{InvalidName, text_conversions};

/// The name of a network interface, 1 to 15 bytes (`IFNAMSIZ` 16 with its end, include/uapi/linux/if.h).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

impl IfName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = InvalidName;

    /// Follows `dev_valid_name` (net/core/dev.c): no '/', ':' or white space, not "." or "..".
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let ok = (1..=15).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c == '\0');
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new("interface name", text, "expected 1 to 15 bytes without '/', ':' and white space"))
        }
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_conversions!(IfName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_name_fits_the_kernel() {
        assert!("wg0".parse::<IfName>().is_ok());
        assert!("abcdefghijklmno".parse::<IfName>().is_ok());
        for bad in ["", ".", "..", "a/b", "a b", "a:1", "abcdefghijklmnop"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?} was accepted");
        }
    }
}
