//! The eBPF object that is embedded in this binary.

use super::Error;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/privnet-programs"));

/// The object's bytes.
///
/// # Errors
/// [`Error::NoObject`] when the binary was built without it.
pub fn bytes() -> Result<&'static [u8], Error> {
    if OBJECT.is_empty() { Err(Error::NoObject) } else { Ok(OBJECT) }
}

/// A mark of the object's bytes, never 0. Pinned programs with the same mark are of the same object.
pub const BUILD: u64 = parse(env!("PRIVNET_EBPF_MARK"));

/// The decimal number that the build script wrote.
const fn parse(text: &str) -> u64 {
    let digits = text.as_bytes();
    let (mut number, mut at) = (0_u64, 0);
    while at < digits.len() {
        number = number * 10 + (digits[at] - b'0') as u64;
        at += 1;
    }
    number
}
