//! `privnet doctor`: the agent's findings, or this process's own when there is no agent; and what Docker says of the plugin.

use std::process::ExitCode;

use super::args::{DoctorArgs, Format};
use super::client::Client;
use super::output::{print, table};
use crate::api::views::{Check, CheckStatus};
use crate::api::{ControlError, ErrorCode};
use crate::{agent, docker};

/// Prints the checks; fails when one of them did.
///
/// # Errors
/// When an agent is there and cannot be asked.
pub async fn doctor(arguments: &DoctorArgs, format: Format) -> Result<ExitCode, ControlError> {
    let mut checks = match Client::new(&arguments.agent.socket).doctor().await {
        Ok(checks) => checks,
        Err(error) if error.code == ErrorCode::AgentUnavailable => agent::doctor::without_agent(&error).await,
        Err(error) => return Err(error),
    };
    let engine = docker::Engine::of_environment().with_time();
    checks.extend(docker::checks::checks(&engine, &arguments.docker_socket).await);
    checks.extend(docker::units::order().await);
    print(format, checks.as_slice(), check_table)?;
    let failed = checks.iter().any(|check| check.status == CheckStatus::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn check_table(checks: &[Check]) -> String {
    let row =
        |check: &Check| vec![check.status.to_string(), check.check.clone(), check.detail.clone(), check.remedy.clone()];
    table(&["STATUS", "CHECK", "DETAIL", "REMEDY"], checks.iter().map(row))
}
