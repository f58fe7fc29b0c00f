//! An agent on a store that many hosts share: it waits for the cluster, and knows its own store when it sees it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::config::Config;
use super::error::{ControlError, ErrorCode};
use super::explain::explain;
use super::journal::Journal;
use super::shared::Shared;
use super::start::{Agent, explain_store, prepare_state_dir};
use crate::model::HostName;
use crate::store::{Etcd, EtcdOptions, Store, StoreError, keys};

/// How long to wait before asking a store again that did not answer, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// Pauses that grow, and of random length, so that the hosts of a cluster that comes back do not come all at once.
#[derive(Debug)]
pub(super) struct Pauses {
    next: Duration,
}

impl Pauses {
    pub(super) const fn new() -> Self {
        Self { next: RETRY.0 }
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.next.mul_f32(rand::Rng::random_range(&mut rand::rng(), 0.5..1.0));
        self.next = (self.next * 2).min(RETRY.1);
        pause
    }
}

impl Agent {
    /// Starts an agent on an etcd cluster. Waits for the cluster as long as it does not answer, and calls `waiting` with the
    /// reason each time: what runs on this host goes on meanwhile.
    ///
    /// # Errors
    /// As [`Agent::start`]; when an endpoint is invalid; or when the cluster does not know this host, and the host has
    /// records of members: then it is another cluster, and they would all be ended.
    pub async fn start_etcd(
        config: Config,
        options: &EtcdOptions,
        waiting: impl Fn(&ControlError) + Send,
    ) -> Result<Self, ControlError> {
        prepare_state_dir(&config.state_dir).map_err(|error| explain(&error))?;
        let store = Etcd::new(options).map_err(|error| explain_store(&error))?;
        let mut pauses = Pauses::new();
        while let Err(error) = store.check().await {
            tracing::warn!("{error}; the agent waits for it, and what runs on this host goes on as it is");
            waiting(&explain(&error.into()));
            tokio::time::sleep(pauses.next()).await;
        }
        let members = Journal::open(&config.journal_dir()).map_err(|error| explain(&error))?.records().len();
        let known = knows_host(&store, &config.host).await.map_err(|error| explain(&error.into()))?;
        if members > 0 && !known {
            let records = config.journal_dir();
            return Err(ControlError::new(
                ErrorCode::StoreUnavailable,
                format!(
                    "the etcd cluster at {} does not know host {}, and this host has records of {members} members",
                    options.endpoints.join(", "),
                    config.host
                ),
                format!(
                    "name the right cluster in --etcd-endpoints, restore its data, or remove {} to end these memberships",
                    records.display()
                ),
            ));
        }
        Self::start(config, Arc::new(store)).await
    }
}

/// Whether this is the store that this host has told about itself: an empty one in its place is none to act on.
pub(super) async fn is_ours(shared: &Shared) -> Result<bool, StoreError> {
    let is_free = shared.journal().records().is_empty();
    Ok(is_free || knows_host(&*shared.store, &shared.config.host).await?)
}

async fn knows_host(store: &dyn Store, host: &HostName) -> Result<bool, StoreError> {
    Ok(store.get(&keys::host(host)).await?.is_some())
}
