//! A namespace is a thread: create, pin, enter, run, remove.
