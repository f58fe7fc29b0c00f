//! What the tests and the bench share: the lab, its probes, its waits and its leak check; and the bench's rows.
//!
//! The lab drives privnet the way a user does: the real binary, or the library's own door for the surfaces. It knows no
//! interior of the rooms.

pub mod bench;
pub mod lab;
