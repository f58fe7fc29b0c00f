//! The fleet: the hosts that share a store.

use std::num::NonZeroU16;

/// The UDP port of VXLAN between the hosts of a fleet, unless another one is set: the one that IANA gave (RFC 7348 section 5).
pub const DEFAULT_VXLAN_PORT: NonZeroU16 = match NonZeroU16::new(4789) {
    Some(port) => port,
    None => NonZeroU16::MIN,
};
