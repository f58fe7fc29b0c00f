//! Starting an agent on an etcd cluster that many hosts share: it waits for the cluster.

use std::sync::Arc;

use anyhow::Result;

use super::backoff::Backoff;
use super::config::Config;
use super::door::error::ControlError;
use super::door::explain::explain;
use super::host::facts::Underlay;
use super::host::vtep;
use super::said::Said;
use super::start::{Agent, prepare};
use crate::store::{Etcd, EtcdOptions, Store as _};

impl Agent {
    /// Starts an agent on an etcd cluster. Waits for the cluster as long as it does not answer, and calls `waiting` with the
    /// reason each time: what runs on this host goes on meanwhile.
    ///
    /// # Errors
    /// As [`Agent::start`]; or when an endpoint is invalid.
    pub async fn start_etcd(
        config: Config,
        options: &EtcdOptions,
        waiting: impl Fn(&ControlError) + Send,
    ) -> Result<Self, ControlError> {
        prepare(&config).map_err(|error| explain(&error))?;
        let store = Etcd::new(options)?;
        let (mut backoff, mut said) = (Backoff::new(), Said::default());
        while let Err(error) = store.check().await {
            if said.is_new(&error.to_string()) {
                tracing::warn!("the agent waits for etcd, and the members of this host stay as they are: {error}");
            }
            waiting(&error.into());
            tokio::time::sleep(backoff.next()).await;
        }
        let config = with_vtep(config, options).await.map_err(|error| explain(&error))?;
        Self::start(config, Arc::new(store)).await
    }
}

/// The configuration with the VTEP address from which the store is reached, where none is given: the other hosts are likely
/// to be reached from it too.
async fn with_vtep(config: Config, options: &EtcdOptions) -> Result<Config> {
    if config.vtep.is_some() {
        return Ok(config);
    }
    let has_default_route = Underlay::of_default_route().await?.interface.is_some();
    let vtep = vtep::toward(&options.endpoints, &config.host_netns, has_default_route).await?;
    Ok(Config { vtep, ..config })
}
