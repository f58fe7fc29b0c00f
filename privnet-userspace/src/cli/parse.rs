//! Reads the command line of this process, or says what is wrong with it.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use super::args::Format;
use super::output;
use crate::api::{ControlError, ErrorCode};

/// Exit code of a command line that makes no sense.
const WRONG_USAGE: u8 = 2;

/// The arguments of this process.
///
/// # Errors
/// The exit code, once the help that was asked for, or what is wrong, is printed.
pub fn own_arguments<T: Parser>() -> Result<T, ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    T::try_parse_from(&arguments).map_err(|error| refuse(&arguments, &error))
}

/// Prints what is wrong with the command line, or the help that was asked for.
fn refuse(arguments: &[OsString], error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if wants_json(arguments) {
        // The first paragraph is the error; the rest is the usage.
        let text = error.render().to_string();
        let message = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        let error = ControlError::new(ErrorCode::InvalidArgument, message, "see `privnet --help`");
        output::print_error(Format::Json, &error);
    } else {
        let _ = error.print();
    }
    ExitCode::from(WRONG_USAGE)
}

/// Whether a command line that cannot be parsed asks for JSON all the same.
fn wants_json(arguments: &[OsString]) -> bool {
    let own: Vec<&str> = arguments.iter().map_while(|argument| argument.to_str()).take_while(|a| *a != "--").collect();
    own.iter().any(|argument| matches!(*argument, "-ojson" | "-o=json" | "--output=json"))
        || own.windows(2).any(|pair| matches!(pair, ["-o" | "--output", "json"]))
}
