//! Which address, VNI and subnet is whose; pure.
//!
//! Everything here is asked with what is taken and answers with what is free. Claiming it is the store's part.

pub mod address;
pub mod foreign;
pub mod subnet;
pub mod vni;

pub use address::{
    DEPARTED_SECONDS, InvalidAddress, capacity, check_address, has_rested, longest_released, never_used, next_count,
    rest_seconds,
};
pub use foreign::{Conflict, ForeignRange, Reach};
pub use subnet::{InvalidSubnet, check_subnet, next_subnet, overlaps, parse_subnet};
pub use vni::free_vni;
