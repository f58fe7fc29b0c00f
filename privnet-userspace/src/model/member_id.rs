//! The identity of a membership.

use std::fmt;
use std::str::FromStr;

use rand::RngCore;
use serde::{Deserialize, Serialize};

use super::ids::InvalidName;
use super::keys::PublicKey;

/// A membership's identity: 64 random bits, drawn when a container is attached, never used again, and kept while the
/// membership's key, address or names change. Displays as 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberId(u64);

impl MemberId {
    /// Draws one.
    #[must_use]
    pub fn random(rng: &mut dyn RngCore) -> Self {
        Self(rng.next_u64())
    }

    /// The identity of a membership whose record was written before memberships had one: the first 8 bytes of the public
    /// key that it was made with, which are as random, and which every host and the key's own file agree on.
    #[must_use]
    pub const fn of_key(key: PublicKey) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = key.bytes();
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// Wraps the number.
    #[must_use]
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for MemberId {
    type Err = InvalidName;

    /// Accepts exactly the form that is displayed.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let id = u64::from_str_radix(text, 16).ok().map(Self);
        id.filter(|id| id.to_string() == text)
            .ok_or_else(|| InvalidName::new("membership id", text, "expected 16 of 0-9 and a-f"))
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for MemberId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<MemberId> for String {
    fn from(id: MemberId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    proptest! {
        #[test]
        fn its_text_leads_back_to_it(number: u64) {
            let id = MemberId::new(number);
            prop_assert_eq!(id.to_string().parse::<MemberId>(), Ok(id));
            prop_assert_eq!(serde_json::from_value::<MemberId>(serde_json::json!(id)).expect("read"), id);
        }
    }

    #[test]
    fn it_has_one_form() {
        assert_eq!("00000000000000ff".parse::<MemberId>(), Ok(MemberId::new(255)));
        for wrong in ["", "ff", "00000000000000FF", "+0000000000000ff", "0x000000000000ff", "000000000000000ff"] {
            assert!(wrong.parse::<MemberId>().is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn it_is_drawn_from_the_generator_that_is_given() {
        let draw = |seed| MemberId::random(&mut StdRng::seed_from_u64(seed));
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn one_without_is_known_by_its_key() {
        let key: PublicKey = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".parse().expect("a key");
        assert_eq!(MemberId::of_key(key).to_string(), "8520f0098930a754");
    }
}
