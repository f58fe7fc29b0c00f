//! Names of networks, apps, containers and hosts. Each is constructed only through a check.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::explain::{ErrorCode, Explain};
#[cfg(test)]
use super::explain::{Row, rows};

/// A string that is not what it should be. Says what was expected, and the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is invalid: {expected}")]
pub struct InvalidName {
    /// The noun, for example "app".
    pub what: &'static str,
    /// The offending value, shortened to 64 characters.
    pub value: String,
    /// What a valid one looks like.
    pub expected: &'static str,
}

impl InvalidName {
    pub(crate) fn new(what: &'static str, value: &str, expected: &'static str) -> Self {
        Self { what, value: value.chars().take(64).collect(), expected }
    }
}

impl Explain for InvalidName {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }

    fn remedy(&self) -> Option<String> {
        Some(self.expected.to_owned())
    }

    fn message(&self) -> String {
        format!("{} {:?} is invalid", self.what, self.value)
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        rows![
            Self { .. } => Self::new("port", "x", "expected a number"), InvalidArgument,
                "port \"x\" is invalid", "expected a number";
        ]
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that somebody else drew.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Reads an id as a person types it: its digits may be capitals.
            ///
            /// # Errors
            /// Anything else.
            pub fn typed(text: &str) -> Result<Self, InvalidName> {
                if text.starts_with($prefix) { text.to_ascii_lowercase().parse() } else { text.parse() }
            }

            /// The UUID without its prefix.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            /// Accepts exactly the canonical lower-case form.
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let id = text.strip_prefix($prefix).and_then(|rest| Uuid::try_parse(rest).ok()).map(Self);
                match id {
                    Some(id) if id.to_string() == text => Ok(id),
                    Some(_) | None => Err(InvalidName::new(
                        $what,
                        text,
                        concat!("expected ", $prefix, "<uuid>, for example ", $prefix, "a71da13f-7c70-4c00-a644-eee8558d8053"),
                    )),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        text_conversions!($name);
    };
}

macro_rules! text_conversions {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}
pub(super) use text_conversions;

uuid_id!(
    /// A private network's identifier, `pn-<uuid>`.
    NetworkId, "network", "pn-"
);
uuid_id!(
    /// An app's identifier, `ap-<uuid>`.
    AppId, "app", "ap-"
);
uuid_id!(
    /// A fleet's identifier, `fl-<uuid>`.
    FleetId, "fleet", "fl-"
);

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if is_label(text, $max) { Ok(Self(text.to_owned())) } else { Err(InvalidName::new($what, text, $expected)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        text_conversions!($name);
    };
}

label!(
    /// A container's type: `web`, `worker`. A DNS label (RFC 1123 section 2.1), lower case, that is not a number.
    ContainerType,
    "container type",
    63,
    "expected 1 to 63 of a-z, 0-9 and '-', starting with a letter, not ending with '-'"
);
label!(
    /// A host's name: lower case, dots allowed nowhere, so that it is one key segment.
    HostName,
    "host name",
    63,
    "expected 1 to 63 of a-z, 0-9 and '-', starting with a letter, not ending with '-'"
);

impl ContainerType {
    /// `web`, the type that is meant when none is given.
    #[must_use]
    pub fn web() -> Self {
        Self("web".to_owned())
    }
}

/// A container, named by app, type and number. Displays as `1.web.ap-<uuid>`, the prefix of its domain name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerRef {
    /// The app it belongs to.
    pub app: AppId,
    /// Its type within the app.
    #[serde(rename = "type")]
    pub kind: ContainerType,
    /// Its number within the type, from 1.
    pub number: ContainerNumber,
}

impl fmt::Display for ContainerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.number, self.kind, self.app)
    }
}

impl fmt::Debug for ContainerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ContainerRef {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = || InvalidName::new("container", text, "expected <number>.<type>.ap-<uuid>");
        let mut parts = text.splitn(3, '.');
        let (Some(number), Some(kind), Some(app)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let parsed = Self { app: app.parse()?, kind: kind.parse()?, number: number.parse().map_err(|_| wrong())? };
        if parsed.to_string() == text { Ok(parsed) } else { Err(wrong()) }
    }
}

/// A container's number within its type, 1..=99999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct ContainerNumber(u32);

impl ContainerNumber {
    /// The first number.
    pub const FIRST: Self = Self(1);
    /// The last number.
    pub const MAX: Self = Self(99_999);

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for ContainerNumber {
    type Error = InvalidName;

    fn try_from(value: u32) -> Result<Self, InvalidName> {
        if (Self::FIRST.0..=Self::MAX.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(InvalidName::new("container number", &value.to_string(), "expected 1 to 99999"))
        }
    }
}

impl FromStr for ContainerNumber {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let value: u32 = text.parse().map_err(|_| InvalidName::new("container number", text, "expected 1 to 99999"))?;
        value.try_into()
    }
}

impl From<ContainerNumber> for u32 {
    fn from(value: ContainerNumber) -> Self {
        value.0
    }
}

impl fmt::Display for ContainerNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ContainerNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub(super) fn is_label(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_id_is_canonical_or_refused() {
        let good = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
        assert_eq!(good.parse::<NetworkId>().expect("canonical").to_string(), good);
        for bad in [
            "",
            "pn-",
            "ap-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c",
            "pn-AD0FD6A1-D05E-40EA-BF63-C4F8A75A9D8C",
            "pn-../../x",
        ] {
            assert!(bad.parse::<NetworkId>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn an_id_that_is_typed_may_have_capitals() {
        let good = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
        for typed in [good, "pn-AD0FD6A1-D05E-40EA-BF63-C4F8A75A9D8C"] {
            assert_eq!(NetworkId::typed(typed).expect("an id").to_string(), good);
        }
        for bad in ["PN-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c", "pn-AD0FD6A1", "shop"] {
            assert!(NetworkId::typed(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_container_type_is_a_label_that_is_no_number() {
        for good in ["web", "a", "x2-y"] {
            assert!(good.parse::<ContainerType>().is_ok(), "{good:?} was refused");
        }
        for bad in ["", "1", "Web", "web-", "-web", "a.b", "a/b", "é", &"a".repeat(64)] {
            assert!(bad.parse::<ContainerType>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_container_displays_as_the_prefix_of_its_name_and_parses_back() {
        let text = "1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053";
        assert_eq!(text.parse::<ContainerRef>().expect("valid").to_string(), text);
        for bad in [
            "01.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053",
            "web.ap-a71da13f-7c70-4c00-a644-eee8558d8053",
            "0.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053",
        ] {
            assert!(bad.parse::<ContainerRef>().is_err(), "{bad:?} was accepted");
        }
    }
}
