//! The lab: hosts, probes, waits and the leak check.

pub mod bench;
