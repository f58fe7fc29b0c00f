//! The only room with all the keys: watch, plan, observe, diff, apply, report.
//!
//! [`Control`] is its one door for the surfaces: requests go in, views come out.

pub mod control;
pub mod error;
pub mod views;

pub use control::Control;
pub use error::{ControlError, ErrorCode};
