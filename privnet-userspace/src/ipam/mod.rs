//! Which address, VNI and subnet is whose; pure.
//!
//! Everything here is asked with what is taken and answers with what is free. Claiming it is the store's part.

pub mod address;
pub mod subnet;
pub mod vni;

pub use address::{InvalidAddress, capacity, check_address, longest_released, never_used, next_generation};
pub use subnet::{InvalidSubnet, check_subnet, next_subnet, overlaps, parse_subnet};
pub use vni::free_vni;
