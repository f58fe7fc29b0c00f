//! The `privnet` binary.

fn main() {}
