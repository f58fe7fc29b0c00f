//! `privnet audit`: whether what this host's members send goes into their tunnels and nowhere else, read from the kernel.

use std::path::Path;
use std::process::ExitCode;

use super::args::StoreKind;
use super::config::AgentOptions;
use super::config_of;
use crate::agent::{self, Audit, ControlError, Finding};
use crate::cli::args::{AuditArgs, Format};
use crate::cli::output::{print, table};
use crate::cli::runtime::no_runtime;
use crate::model::counted;

/// The file that the package's unit starts the agent with.
const PACKAGED: &str = "/etc/privnet/privnet.toml";

/// Prints what was found; fails when anything was.
///
/// # Errors
/// Without root, or when something cannot be read: then nothing is proved.
pub fn run(mut arguments: AuditArgs, format: Format) -> Result<ExitCode, ControlError> {
    let config = &mut arguments.agent.config;
    if config.is_none() && Path::new(PACKAGED).exists() {
        *config = Some(PACKAGED.into());
    }
    let options = AgentOptions::resolve(arguments.agent, &rustix::system::uname().nodename().to_string_lossy())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let audited = runtime.map_err(|error| no_runtime(&error))?.block_on(audited(&options))?;
    print(format, &audited, text_of)?;
    Ok(if audited.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn audited(options: &AgentOptions) -> Result<Audit, ControlError> {
    agent::audit(&config_of(options)?, options.store == StoreKind::Etcd).await
}

fn text_of(audit: &Audit) -> String {
    let mut text = String::new();
    if !audit.findings.is_empty() {
        text += &table(&["NETWORK", "MEMBER", "CHECK", "FOUND", "REMEDY"], audit.findings.iter().map(row));
        text.push('\n');
    }
    for left_out in &audit.left_out {
        text += &format!("not looked at: {left_out}\n");
    }
    for unread in &audit.unread {
        text += &format!("cannot be looked at: {unread}\n");
    }
    let looked_at = format!("{} of {} looked at", counted(audit.members, "member"), counted(audit.networks, "network"));
    text + &match (audit.findings.len(), audit.members) {
        (0, _) if !audit.unread.is_empty() => format!("{looked_at}: nothing found, and not all is proved\n"),
        (0, 0) => format!("{looked_at}: there is nothing to prove\n"),
        (0, _) => format!("{looked_at}: every way out is the tunnel's\n"),
        (count, _) => format!("{looked_at}: {}\n", counted(count, "finding")),
    }
}

fn row(finding: &Finding) -> Vec<String> {
    let Finding { network, member, check, detail, remedy } = finding;
    let member = member.clone().unwrap_or_else(|| "–".to_owned());
    vec![network.to_string(), member, (*check).to_owned(), detail.clone(), remedy.clone()]
}
