//! `privnet hosts`.

use super::args::{AgentSocket, Format, HostVerb};
use super::client::Client;
use super::human;
use super::output::{print, print_age, table};
use crate::api::views::{AdoptHost, DrainHost, ForgetHost, HostState, HostView};
use crate::api::{ControlError, ErrorCode};
use crate::model::counted;

/// `privnet hosts`.
///
/// # Errors
/// The agent's, or why it cannot be asked.
pub async fn hosts(agent: &AgentSocket, format: Format) -> Result<(), ControlError> {
    let client = Client::new(&agent.socket);
    let views = client.hosts().await?;
    print(format, views.as_slice(), host_table)?;
    print_age(format, client.age());
    Ok(())
}

/// `privnet host`.
///
/// # Errors
/// The agent's, or why it cannot be asked.
pub async fn host(verb: HostVerb, format: Format) -> Result<(), ControlError> {
    match verb {
        HostVerb::Adopt { yes, force, agent } => {
            let adopted = Client::new(&agent.socket).adopt_host(&AdoptHost { yes, force }).await?;
            print(format, &adopted, |adopted| format!("kept {} and ended {}\n", adopted.kept, adopted.ended))
        }
        HostVerb::Drain { host, wait, cancel, agent } => {
            let request = DrainHost { host, wait_seconds: Some(wait), cancel };
            let drained = Client::new(&agent.socket).drain_host(&request).await?;
            // One that waits for nothing has what it asked for.
            if !cancel && wait > 0 && drained.members_left > 0 {
                return Err(not_empty(&request.host, drained.members_left, wait));
            }
            print(format, &drained, |drained| match drained.members_left {
                _ if cancel => "takes members again\n".to_owned(),
                0 => "drained\n".to_owned(),
                left => {
                    format!("drains, with {} left\n", counted(usize::try_from(left).unwrap_or(usize::MAX), "member"))
                }
            })
        }
        HostVerb::Forget { host, yes, force, agent } => {
            let forgotten = Client::new(&agent.socket).forget_host(&ForgetHost { host, yes, force }).await?;
            print(format, &forgotten, |it| format!("forgotten, with {} members\n", it.members_ended))
        }
    }
}

/// That a host has members when the wait for its owners ends. It stays drained.
fn not_empty(host: &str, left: u64, wait_seconds: u64) -> ControlError {
    let members = counted(usize::try_from(left).unwrap_or(usize::MAX), "member");
    ControlError::new(
        ErrorCode::Timeout,
        format!("host {host} still has {members} after {wait_seconds} s"),
        format!(
            "it stays drained: stop the containers that `privnet members` shows there, and repeat the command to wait on; \
             `privnet host drain {host} --cancel` takes members again"
        ),
    )
}

/// That a host is not heard, and for how long.
pub(super) fn unreachable_text(since: u64) -> String {
    format!("unreachable for {}", human::age(since))
}

fn host_table(views: &[HostView]) -> String {
    let row = |view: &HostView| {
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        vec![
            view.name.to_string(),
            view.vtep.to_string(),
            view.version.clone(),
            view.members.to_string(),
            match (view.state, view.unreachable_since_unix_seconds) {
                (HostState::Unreachable, Some(since)) => unreachable_text(since),
                (HostState::Present, _) if view.members_unadopted > 0 => {
                    format!("present, {} of them not adopted: `privnet host adopt` there", view.members_unadopted)
                }
                (state, _) if view.draining => format!("{state}, drained"),
                (state, _) => state.to_string(),
            },
            view.lease_since_unix_seconds.map_or_else(|| "-".to_owned(), human::age),
            number(view.applied_revision),
            number(view.lag),
        ]
    };
    table(&["NAME", "VTEP", "VERSION", "MEMBERS", "STATE", "LEASE AGE", "APPLIED", "LAG"], views.iter().map(row))
}
