//! The benchmark that `cargo xtask bench` starts as root.

use std::process::ExitCode;

fn main() -> ExitCode {
    privnet_tests::bench::main()
}
