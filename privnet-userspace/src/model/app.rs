//! The readable name of an app, and the id that follows from it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::{Uuid, uuid};

use super::ids::{AppId, InvalidName, is_label};

/// The namespace of app names: the UUIDv5 of `private-network.internal` in the namespace of domain names (RFC 9562, section
/// 5.5). It never changes: every app's id follows from it.
const NAMESPACE: Uuid = uuid!("de038725-6b9e-5859-95ba-d6011e95f9e0");
/// The longest name, in bytes: that of a DNS label.
const MAX_BYTES: usize = 63;

/// An app's readable name: a DNS label in lower case, for example `shop-api`. The same name is the same app on every host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppName(String);

impl AppName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the app that bears the name: the UUIDv5 of the name.
    #[must_use]
    pub fn id(&self) -> AppId {
        AppId::from_uuid(Uuid::new_v5(&NAMESPACE, self.0.as_bytes()))
    }
}

impl FromStr for AppName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        // An id, or a number in a domain name, is never taken for a name.
        if is_label(text, MAX_BYTES) && !text.starts_with("ap-") && !text.starts_with("pn-") {
            return Ok(Self(text.to_owned()));
        }
        let expected = "expected 1 to 63 of a-z, 0-9 and '-', starting with a letter, not ending with '-', \
                        not beginning with ap- or pn-";
        Err(InvalidName::new("app name", text, expected))
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for AppName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<AppName> for String {
    fn from(name: AppName) -> Self {
        name.0
    }
}

/// An app as a person gives it: by its id, or by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its id.
    pub id: AppId,
    /// Its name, when it was given by name.
    pub name: Option<AppName>,
}

impl FromStr for App {
    type Err = InvalidName;

    /// Accepts a name, or `ap-<uuid>` with digits in either case. A UUID alone is neither: half of them would be names.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if Uuid::try_parse(text).is_ok() {
            return Err(InvalidName::new("app", text, "an id of an app begins with ap-: write ap-<uuid>"));
        }
        if text.starts_with("ap-") {
            return Ok(Self { id: AppId::typed(text)?, name: None });
        }
        let name: AppName = text.parse()?;
        Ok(Self { id: name.id(), name: Some(name) })
    }
}

impl From<AppId> for App {
    fn from(id: AppId) -> Self {
        Self { id, name: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_app_everywhere_and_for_ever() {
        let app: App = "shop-api".parse().expect("a name");
        assert_eq!(app.id.to_string(), "ap-47701b62-1b53-5449-88a0-3e2e775b143b");
        assert_eq!(app.name.as_ref().map(AppName::as_str), Some("shop-api"));
        assert_eq!("shop-api".parse::<App>(), Ok(app));
        assert_ne!("shop-apis".parse::<App>().expect("a name").id, "shop-api".parse::<App>().expect("a name").id);
        assert_eq!(NAMESPACE, Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"private-network.internal"));
    }

    #[test]
    fn an_id_is_accepted_in_either_case_and_has_one_form() {
        let lower: App = "ap-a71da13f-7c70-4c00-a644-eee8558d8053".parse().expect("an id");
        assert_eq!("ap-A71DA13F-7C70-4C00-A644-EEE8558D8053".parse(), Ok(lower.clone()));
        assert_eq!((lower.id.to_string().as_str(), lower.name), ("ap-a71da13f-7c70-4c00-a644-eee8558d8053", None));
        // In records and keys an id has one form.
        assert!("ap-A71DA13F-7C70-4C00-A644-EEE8558D8053".parse::<AppId>().is_err());
    }

    #[test]
    fn what_could_be_an_id_or_a_number_is_no_name() {
        for (wrong, right) in [
            ("4711", "a4711"),
            ("ap-shop", "apshop"),
            ("pn-shop", "pns-shop"),
            ("ap-a71da13f", "a-a71da13f"),
            ("Shop", "shop"),
            ("shop_api", "shop-api"),
            ("shop-", "shop"),
            ("-shop", "shop"),
            ("1shop", "shop1"),
            ("a.b", "a-b"),
            ("", "a"),
            ("a71da13f-7c70-4c00-a644-eee8558d8053", "ap-a71da13f-7c70-4c00-a644-eee8558d8053"),
            ("471da13f-7c70-4c00-a644-eee8558d8053", "ap-471da13f-7c70-4c00-a644-eee8558d8053"),
            ("a71da13f7c704c00a644eee8558d8053", "a71da13f7c704c00a644eee8558d805"),
        ] {
            let error = wrong.parse::<App>().expect_err(wrong);
            assert!(error.expected.contains("expected") || error.expected.contains("ap-<uuid>"), "{error}");
            assert!(right.parse::<App>().is_ok(), "{right:?} was refused");
        }
        assert!("a".repeat(63).parse::<App>().is_ok());
        assert!("a".repeat(64).parse::<App>().is_err());
    }
}
