//! The only room with all the keys: watch, plan, observe, diff, apply, report.
