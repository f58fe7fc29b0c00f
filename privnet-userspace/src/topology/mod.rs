//! From intent to operations; pure.
