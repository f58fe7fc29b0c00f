//! `privnet doctor`: the agent's findings, or this process's own when there is no agent; and what Docker says of the plugin.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::args::{DoctorArgs, Format};
use super::client::Client;
use super::output::{print, table};
use crate::api::views::{Check, CheckStatus};
use crate::api::{ControlError, ErrorCode};
use crate::{agent, docker};

/// How long an agent may take to say that it is there: on a host that is busy, half a second was seen.
const PRESENCE: Duration = Duration::from_secs(3);

/// Prints the checks; fails when one of them did.
///
/// # Errors
/// When an agent is there and refuses to be asked.
pub async fn doctor(arguments: &DoctorArgs, format: Format) -> Result<ExitCode, ControlError> {
    let engine = docker::Engine::of_environment().with_time();
    let of_docker = docker::checks::checks(&engine, &arguments.docker_socket);
    let (of_agent, of_docker) = tokio::join!(of_agent(&arguments.agent.socket), of_docker);
    let mut checks = of_agent?;
    checks.extend(of_docker);
    checks.extend(docker::units::order().await);
    print(format, checks.as_slice(), check_table)?;
    let failed = checks.iter().any(|check| check.status == CheckStatus::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the agent finds; what is found without it where it is away, or answers nothing at all.
async fn of_agent(socket: &Path) -> Result<Vec<Check>, ControlError> {
    let client = Client::new(socket);
    let is_present = tokio::time::timeout(PRESENCE, client.status_as::<Value>()).await.is_ok();
    match if is_present { client.doctor().await } else { Err(hangs(socket)) } {
        Err(error) if !is_present || error.code == ErrorCode::AgentUnavailable => {
            Ok(agent::doctor::without_agent(&error).await)
        }
        checks => checks,
    }
}

fn hangs(socket: &Path) -> ControlError {
    let message = format!(
        "the agent at {} has answered nothing for {} s: it was stopped, or hangs; members go on",
        socket.display(),
        PRESENCE.as_secs()
    );
    ControlError::new(ErrorCode::Timeout, message, "look into its log, and start it anew: `systemctl restart privnet`")
}

fn check_table(checks: &[Check]) -> String {
    let row =
        |check: &Check| vec![check.status.to_string(), check.check.clone(), check.detail.clone(), check.remedy.clone()];
    table(&["STATUS", "CHECK", "DETAIL", "REMEDY"], checks.iter().map(row))
}
