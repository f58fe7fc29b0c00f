//! WireGuard keys. The private one cannot be printed, compared, copied or serialized by accident.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::ids::InvalidName;

/// The length of a Curve25519 key in bytes (RFC 7748 section 5).
pub const KEY_LENGTH_BYTES: usize = 32;

/// A member's WireGuard public key. Displays as base64, as `wg` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; KEY_LENGTH_BYTES]);

impl PublicKey {
    /// Wraps the 32 bytes.
    #[must_use]
    pub const fn new(bytes: [u8; KEY_LENGTH_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; KEY_LENGTH_BYTES] {
        self.0
    }
}

impl FromStr for PublicKey {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| InvalidName::new("public key", text, "expected 32 bytes in base64"))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// A member's WireGuard private key: no `Debug`, no `Display`, no `Serialize`, wiped when dropped.
///
/// It leaves this type in two places only: the key file of the state directory (as base64) and the door to WireGuard.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; KEY_LENGTH_BYTES]);

impl PrivateKey {
    /// Clamps 32 random bytes into a Curve25519 scalar (RFC 7748 section 5).
    #[must_use]
    pub fn from_random(mut bytes: [u8; KEY_LENGTH_BYTES]) -> Self {
        bytes[0] &= 0b1111_1000;
        bytes[31] = (bytes[31] & 0b0111_1111) | 0b0100_0000;
        let key = Self(bytes);
        bytes.zeroize();
        key
    }

    /// Reads the base64 form that [`Self::reveal_base64`] wrote.
    ///
    /// # Errors
    /// When it is not 32 bytes in base64; the value is not part of the error.
    pub fn from_base64(text: &str) -> Result<Self, InvalidName> {
        let mut bytes: [u8; KEY_LENGTH_BYTES] = STANDARD
            .decode(text.trim())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| InvalidName::new("private key", "(not shown)", "expected 32 bytes in base64"))?;
        let key = Self(bytes);
        bytes.zeroize();
        Ok(key)
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// The 32 bytes, for the door to WireGuard alone.
    #[must_use]
    pub fn reveal_bytes(&self) -> &[u8; KEY_LENGTH_BYTES] {
        &self.0
    }

    /// The base64 form, for the key file alone; wiped when dropped.
    #[must_use]
    pub fn reveal_base64(&self) -> zeroize::Zeroizing<String> {
        zeroize::Zeroizing::new(STANDARD.encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key pair of RFC 7748 section 6.1 (Alice).
    const ALICE_PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const ALICE_PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn the_public_half_follows_rfc_7748() {
        let private = PrivateKey::from_base64(ALICE_PRIVATE).expect("valid");
        assert_eq!(private.public_key().to_string(), ALICE_PUBLIC);
    }

    #[test]
    fn an_invalid_private_key_is_refused_without_showing_it() {
        let secret = "c2VjcmV0LXRoYXQtbXVzdC1ub3QtYmUtc2hvd24=";
        let error = PrivateKey::from_base64(&format!("{secret}AAAA")).err().expect("too long");
        assert!(!format!("{error} {error:?}").contains("c2Vj"));
    }

    #[test]
    fn random_bytes_are_clamped() {
        let key = PrivateKey::from_random([0xff; 32]);
        assert_eq!(key.reveal_bytes()[0], 0xf8);
        assert_eq!(key.reveal_bytes()[31], 0x7f);
    }
}
