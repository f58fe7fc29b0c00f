//! The `privnet` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    privnet::cli::main()
}
