//! The one calculation of the maximum transmission units of every device.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::explain::{ErrorCode, Explain};
#[cfg(test)]
use super::explain::{Row, rows};

/// What VXLAN over IPv4 adds to a frame's payload: inner Ethernet 14, VXLAN 8, UDP 8, IPv4 20 (RFC 7348 section 5).
pub const VXLAN_OVERHEAD_BYTES: u32 = 50;
/// What WireGuard over IPv4 adds: data message 32, UDP 8, IPv4 20 (WireGuard white paper section 5.4.6).
pub const WIREGUARD_OVERHEAD_BYTES: u32 = 60;
/// The smallest MTU that `wg0` may have: every IPv4 host accepts 576 bytes (RFC 791 section 3.1).
pub const MIN_WIREGUARD_MTU_BYTES: u32 = 576;
/// The largest packet IPv4 can express (RFC 791 section 3.1).
pub const MAX_UNDERLAY_MTU_BYTES: u32 = 65_535;

/// The MTUs of one host, all derived from the underlay's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mtu {
    /// The underlay interface.
    pub underlay: u32,
    /// `vxlan0`, the members' veth pairs and `br0`: what the carrier may hold.
    pub carrier: u32,
    /// `wg0`: what the application may send.
    pub wireguard: u32,
}

/// An underlay whose MTU leaves no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidMtu {
    /// The underlay's MTU in bytes.
    pub underlay: u32,
}

impl Mtu {
    /// Derives the MTUs from the underlay's, in bytes.
    ///
    /// WireGuard pads its payload to 16 bytes but never beyond the device's MTU, so the sums are exact.
    ///
    /// # Errors
    /// [`InvalidMtu`] when `wg0` would get less than [`MIN_WIREGUARD_MTU_BYTES`], or IPv4 could not carry it.
    pub const fn from_underlay(underlay: u32) -> Result<Self, InvalidMtu> {
        if underlay < MIN_WIREGUARD_MTU_BYTES + VXLAN_OVERHEAD_BYTES + WIREGUARD_OVERHEAD_BYTES {
            return Err(InvalidMtu { underlay });
        }
        // The loopback's 65536 is one more than a packet can have.
        let usable = if underlay > MAX_UNDERLAY_MTU_BYTES { MAX_UNDERLAY_MTU_BYTES } else { underlay };
        let carrier = usable - VXLAN_OVERHEAD_BYTES;
        Ok(Self { underlay, carrier, wireguard: carrier - WIREGUARD_OVERHEAD_BYTES })
    }
}

impl fmt::Display for InvalidMtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "underlay MTU {} is too small: VXLAN takes {VXLAN_OVERHEAD_BYTES} and WireGuard {WIREGUARD_OVERHEAD_BYTES} bytes, \
             and {MIN_WIREGUARD_MTU_BYTES} must remain",
            self.underlay
        )
    }
}

impl std::error::Error for InvalidMtu {}

impl Explain for InvalidMtu {
    fn code(&self) -> ErrorCode {
        ErrorCode::MtuTooSmall
    }

    fn remedy(&self) -> Option<String> {
        Some("raise the MTU of the underlay's interface, or choose another interface with --vtep".to_owned())
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        rows![
            Self { .. } => Self { underlay: 600 }, MtuTooSmall,
                "underlay MTU 600 is too small: VXLAN takes 50 and WireGuard 60 bytes, and 576 must remain",
                "raise the MTU of the underlay's interface, or choose another interface with --vtep";
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_mtus() {
        for (underlay, carrier, wireguard) in
            [(1500, 1450, 1390), (9000, 8950, 8890), (1280, 1230, 1170), (686, 636, 576), (65_536, 65_485, 65_425)]
        {
            assert_eq!(Mtu::from_underlay(underlay), Ok(Mtu { underlay, carrier, wireguard }));
        }
    }

    #[test]
    fn an_underlay_one_byte_too_small_is_refused() {
        assert_eq!(Mtu::from_underlay(685), Err(InvalidMtu { underlay: 685 }));
        assert!(Mtu::from_underlay(686).is_ok());
    }
}
