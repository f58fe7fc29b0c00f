//! The door to rtnetlink: observe links, apply link operations.
