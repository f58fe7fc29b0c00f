//! Reading a number of a request: one message with its bounds, whatever is wrong with it.

use std::fmt;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// Reads a whole number from `FIRST` to `LAST`, or nothing.
///
/// # Errors
/// With both bounds.
pub(super) fn within<'de, D, const FIRST: u32, const LAST: u32>(deserializer: D) -> Result<Option<u32>, D::Error>
where
    D: Deserializer<'de>,
{
    deserializer.deserialize_option(Within::<FIRST, LAST>)
}

struct Within<const FIRST: u32, const LAST: u32>;

impl<'de, const FIRST: u32, const LAST: u32> Visitor<'de> for Within<FIRST, LAST> {
    type Value = Option<u32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {FIRST} to {LAST}")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_u64(self)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        let known = u32::try_from(value).ok().filter(|value| (FIRST..=LAST).contains(value));
        known.map(Some).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(value), &self))
    }
}
