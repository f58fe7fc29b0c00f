//! Starting an agent on an etcd cluster that many hosts share: it waits for the cluster, and refuses another one.

use std::sync::Arc;

use super::backoff::Backoff;
use super::config::Config;
use super::door::error::{ControlError, ErrorCode};
use super::door::explain::explain;
use super::host::journal::Journal;
use super::host::presence;
use super::start::{Agent, prepare_state_dir};
use crate::store::{Etcd, EtcdOptions, Store as _};

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
        let store = Etcd::new(options)?;
        let mut backoff = Backoff::new();
        while let Err(error) = store.check().await {
            tracing::warn!("the agent waits for etcd, and the members of this host stay as they are: {error}");
            waiting(&error.into());
            tokio::time::sleep(backoff.next()).await;
        }
        let members = Journal::open(&config.journal_dir()).map_err(|error| explain(&error))?.records().len();
        let known = presence::knows_host(&store, &config.host).await?;
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
