//! `privnet curl`: this host's curl as a member of a network, by `privnet run`.

use std::env;
use std::path::Path;
use std::process::ExitCode;

use super::args::{CurlArgs, Format, MemberArgs, RunArgs};
use super::beside;
use super::run;
use crate::api::{ControlError, ErrorCode};

/// The app of the member, unless the caller says another.
const APP: &str = "privnet";
/// The type of the member.
const TYPE: &str = "curl";

/// Runs curl; answers with its exit code.
///
/// # Errors
/// As `privnet run`, and when this host has no curl.
pub fn curl(arguments: CurlArgs, format: Format) -> Result<ExitCode, ControlError> {
    let CurlArgs { app, agent, network, arguments } = arguments;
    let curl = beside::on_path("curl").ok_or_else(missing)?;
    let member =
        MemberArgs { network, app: app.unwrap_or_else(|| APP.to_owned()), kind: Some(TYPE.to_owned()), number: None };
    let command = std::iter::once(curl.into()).chain(arguments).collect();
    run::run(&RunArgs { member, ports: Vec::new(), agent, command }, format)
}

fn missing() -> ControlError {
    let search = env::var_os("PATH").unwrap_or_default();
    let message = format!("cannot run curl: this host has none on its PATH, {}", Path::new(&search).display());
    ControlError::new(ErrorCode::Unsupported, message, "install curl, or reach the port itself with `privnet connect`")
}
