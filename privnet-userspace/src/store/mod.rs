//! The door to the truth: the Store trait and its implementations.
