//! The door to WireGuard; keys stop here.
