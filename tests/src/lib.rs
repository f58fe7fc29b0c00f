//! What the tests share: the lab, its probes, its waits and its leak check.
//!
//! Everything here drives privnet the way a user does: the real binary, or the library's own door for the surfaces.
//! Nothing here knows an interior of the rooms.

#![forbid(unsafe_code)]

pub mod lab;
