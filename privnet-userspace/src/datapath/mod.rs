//! The door to aya: load, attach, fill tables, read counters.
