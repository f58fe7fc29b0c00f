//! `privnet state`: the store as a whole.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::{AgentSocket, Format, StateVerb};
use super::client::Client;
use super::human;
use super::output::{fields, print, print_text};
use crate::api::views::{ExportedState, ImportedState, RebuildState, RebuiltState};
use crate::api::{ControlError, ErrorCode};
use crate::model::{FleetId, counted};

/// `privnet state`.
///
/// # Errors
/// The agent's, or why it cannot be asked.
pub async fn state(verb: StateVerb, format: Format) -> Result<(), ControlError> {
    match verb {
        StateVerb::Export { file, close, agent } => export(file.as_deref(), close, &agent, format).await,
        StateVerb::Import { file, lost_networks, agent } => {
            let text = std::fs::read(&file).map_err(|error| of_file("read", &file, &error))?;
            let mut copy: ExportedState = serde_json::from_slice(&text).map_err(|error| {
                let message = format!("{} is no copy of a store: {error}", file.display());
                ControlError::new(
                    ErrorCode::InvalidArgument,
                    message,
                    "give the file that `privnet state export` wrote",
                )
            })?;
            copy.lost_networks |= lost_networks;
            let imported = Client::new(&agent.socket).import_state(&copy).await?;
            print(format, &imported, imported_text)
        }
        StateVerb::Rebuild { dry_run, yes, agent } => {
            let request = RebuildState { dry_run, yes };
            print(format, &Client::new(&agent.socket).rebuild_state(&request).await?, rebuilt_text)
        }
    }
}

async fn export(file: Option<&Path>, close: bool, agent: &AgentSocket, format: Format) -> Result<(), ControlError> {
    let client = Client::new(&agent.socket);
    let Some(file) = file else {
        let copy = client.export_state().await?;
        return print_text(&text_of(&copy)?);
    };
    // Before the store is closed: a file that cannot be written is no reason to close it.
    let unwritable = |error: std::io::Error| of_file("write", file, &error);
    let part = part_of(file);
    let mut writing = std::fs::File::create(&part).map_err(unwritable)?;
    let copied = if close { client.close_state().await } else { client.export_state().await };
    let written = copied.and_then(|copy| {
        writing.write_all(text_of(&copy)?.as_bytes()).map_err(unwritable)?;
        writing.sync_all().map_err(unwritable)?;
        std::fs::rename(&part, file).map_err(unwritable)?;
        Ok(copy)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    let ExportedState { fleet, records, store_age_seconds, .. } = written?;
    let summary = Exported { fleet, file: file.to_owned(), records: records.len(), closed: close, store_age_seconds };
    print(format, &summary, |summary| {
        let age =
            summary.store_age_seconds.map(|age| format!(", as of {} ago", human::duration(age))).unwrap_or_default();
        let mut rows = vec![
            ("fleet", summary.fleet.to_string()),
            ("file", summary.file.display().to_string()),
            ("has", format!("{}{age}", counted(summary.records, "record"))),
        ];
        if summary.closed {
            rows.push((
                "then",
                "the store is closed: give the agents the new one, and import the file there".to_owned(),
            ));
        }
        fields(&rows)
    })
}

/// What was written.
#[derive(Serialize)]
struct Exported {
    fleet: FleetId,
    file: PathBuf,
    records: usize,
    closed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    store_age_seconds: Option<u64>,
}

fn text_of(copy: &ExportedState) -> Result<String, ControlError> {
    let text = serde_json::to_string_pretty(copy);
    let text =
        text.map_err(|error| ControlError::new(ErrorCode::Internal, error.to_string(), "report it as a fault"))?;
    Ok(text + "\n")
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn of_file(what: &str, file: &Path, error: &std::io::Error) -> ControlError {
    let message = format!("cannot {what} {}: {error}", file.display());
    ControlError::new(ErrorCode::InvalidArgument, message, "give another path, or make this one usable")
}

fn imported_text(view: &ImportedState) -> String {
    let mut rows = vec![
        ("fleet", view.fleet.to_string()),
        ("epoch", view.epoch.to_string()),
        ("written", format!("{} of {}", view.written, counted(view.records, "record"))),
    ];
    if !view.passed_over.is_empty() {
        let why = "neither the store nor this host has anything of it: deleted since, or lost; `--lost-networks` brings it back";
        rows.push(("passed over", format!("{} ({why})", view.passed_over.join(", "))));
    }
    fields(&rows)
}

fn rebuilt_text(view: &RebuiltState) -> String {
    let count = |networks, members| format!("{} and {}", counted(networks, "network"), counted(members, "member"));
    let mut rows = vec![
        ("fleet", view.fleet.to_string()),
        ("epoch", view.epoch.to_string()),
        ("known", format!("{} of {}", count(view.networks, view.members), counted(view.hosts, "host"))),
    ];
    if view.removed_networks + view.removed_members > 0 {
        rows.push(("removed", format!("{} of another fleet", count(view.removed_networks, view.removed_members))));
    }
    let done = "the hosts put back what the store lacks; `privnet status` names what is still lost";
    let would = "nothing was done; without --dry-run, this store gets the fleet's record with that epoch";
    rows.push(("then", if view.done { done } else { would }.to_owned()));
    fields(&rows)
}
