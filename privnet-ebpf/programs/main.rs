//! The TC programs; a stub on the host.

fn main() {}
