//! `privnet demo`: becomes `privnet-demo`, the self-test of a host, which is a program of its own.
//!
//! Its arguments and its exit code pass through, so the two are one command for a person.

use std::convert::Infallible;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::args::{DemoArgs, Format};
use super::beside;
use crate::api::{ControlError, ErrorCode};

/// The program.
const PROGRAM: &str = "privnet-demo";

/// Becomes the demo.
///
/// # Errors
/// It is not installed, or cannot be executed.
pub fn run(arguments: &DemoArgs, format: Format) -> Result<Infallible, ControlError> {
    let program = beside::find(PROGRAM).ok_or_else(|| beside::missing(PROGRAM, "the demo is"))?;
    let mut command = Command::new(&program);
    if format == Format::Json {
        command.arg("--output=json");
    }
    let error = command.args(&arguments.arguments).exec();
    let message = format!("cannot execute {}: {error}", program.display());
    Err(ControlError::new(ErrorCode::Internal, message, "see its permissions and its format"))
}
