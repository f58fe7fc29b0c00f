//! The end of all that privnet has on a host: every membership, with what it has in its container, and the processes.
//!
//! An agent does it: what a membership consists of is what a pass takes down. Where the store does not answer, the agent gets
//! an empty one, in which no record of this host has its membership; what the real store says of them stays there.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::config::Config;
use super::door::error::ControlError;
use super::door::explain::explain;
use super::host::fleet;
use super::host::journal::{Journal, Record};
use super::host::state_dir::StateDir;
use super::membership;
use super::start::Agent;
use crate::dns::DnsProcess;
use crate::netns::Netns;
use crate::store::{Memory, Store as _, Transaction, keys};
use crate::topology::ownership;

/// How long the passes may take that take the members down.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(20);

/// How many memberships this host has records of, and that no agent runs on its state directory.
///
/// # Errors
/// When one does, or a record cannot be read.
pub fn memberships_of(config: &Config) -> Result<usize, ControlError> {
    if !config.journal_dir().is_dir() {
        return Ok(0);
    }
    let count = || {
        let _taken = StateDir::take(&config.state_dir)?;
        Ok(Journal::open(&config.journal_dir())?.records().len())
    };
    count().map_err(|error: anyhow::Error| explain(&error))
}

impl Agent {
    /// Starts an agent on a store that is empty and is gone with it: to end the memberships of a host whose store does not
    /// answer.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub async fn start_without_store(config: Config) -> Result<Self, ControlError> {
        let store = Memory::new();
        // A store that knows the host is taken for the one of a host without a note.
        let known = Transaction::new().put(keys::host(&config.host), b"{}".to_vec());
        store.commit(known).await.context("preparing an empty store").map_err(|error| explain(&error))?;
        fleet::forget(&config.state_dir).map_err(|error| explain(&error))?;
        Self::start(config, Arc::new(store)).await
    }

    /// Ends all memberships of this host, waits until nothing of them is left, and ends the DNS process.
    ///
    /// # Errors
    /// When something is left; says what, and why.
    pub async fn purge(self) -> Result<(), ControlError> {
        let config = self.memberships.host.config.clone();
        self.end_memberships().await.map_err(|error| explain(&error))?;
        // Its tasks would start the process again.
        drop(self);
        for dir in config.dns_dirs() {
            DnsProcess::new(&dir).stop().await.context("ending the DNS process").map_err(|error| explain(&error))?;
        }
        remove_empty(&config.bpffs_dir.join("privnet"));
        Ok(())
    }

    async fn end_memberships(&self) -> Result<()> {
        let memberships = &self.memberships;
        let records: Vec<Record> = memberships.journal().records().values().cloned().collect();
        for record in records.iter().filter(|record| !record.leaving) {
            tracing::info!(network = %record.network, "{} ends with the purge of this host", record.names_text());
            for problem in membership::end(memberships, record).await?.problems().await {
                tracing::warn!("{}: {}: {}", record.names_text(), problem.what, problem.why);
            }
        }
        let is_done =
            || memberships.journal().records().is_empty() && namespaces_of(&memberships.host.config).is_empty();
        let done = async {
            while !is_done() {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(PATIENCE, done).await.is_ok() {
            return Ok(());
        }
        let mut left: Vec<String> = memberships.journal().records().values().map(Record::names_text).collect();
        left.extend(namespaces_of(&memberships.host.config));
        let problems: Vec<String> =
            memberships.workers.all().values().flat_map(|handle| handle.reports().borrow().problems.clone()).collect();
        bail!("not all was taken down: {}: {}", left.join(", "), problems.join("; "))
    }
}

/// The namespaces of privnet's that are pinned on this host: the last that a network has here.
fn namespaces_of(config: &Config) -> Vec<String> {
    let pins = Netns::list(&config.netns_dir).unwrap_or_default().into_iter().map(|pin| pin.name);
    pins.filter(|name| ownership::parse_netns(&config.netns_prefix, name).is_some()).collect()
}

/// Removes a directory of pins and those in it, where nothing is pinned any more.
fn remove_empty(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    // One that is not empty stays.
    let _ = fs::remove_dir(directory);
}
