//! What the tests and the bench share: the lab, its probes, its waits and its leak check; and the bench's rows.
//!
//! The lab drives privnet the way a user does: the real binary, or the library's own door for the surfaces. It knows no
//! interior of the rooms.

pub mod bench;
pub mod lab;
pub mod machines;
pub mod soak;

/// How often to do what is done several times: a fifth of `count` on an emulated machine, where each time takes ten times
/// as long and the machine is there for its kernel.
#[must_use]
pub fn repeats(count: u32) -> u32 {
    if is_emulated() { count.div_ceil(5) } else { count }
}

/// Whether this runs on an emulated machine, where a program takes ten times as long to start.
#[must_use]
pub fn is_emulated() -> bool {
    std::env::var_os("PRIVNET_EMULATED").is_some()
}
