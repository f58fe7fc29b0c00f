//! Counters and status as Prometheus text.
