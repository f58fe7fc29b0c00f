//! Starting an agent on an etcd cluster that many hosts share: it waits for the cluster, or serves without it.

use std::sync::Arc;

use anyhow::Result;

use super::backoff::Backoff;
use super::config::Config;
use super::door::error::ControlError;
use super::door::explain::explain;
use super::host::facts::Underlay;
use super::host::fleet;
use super::host::vtep;
use super::said::Said;
use super::snapshot;
use super::start::{Agent, prepare};
use crate::store::{Etcd, EtcdOptions, Store as _};

impl Agent {
    /// Starts an agent on an etcd cluster. Where the cluster does not answer, the agent of a host that belongs to a fleet serves
    /// what it has seen; any other waits, and calls `waiting` with the reason each time.
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
        let serves_meanwhile = config.serves_alone && fleet::is_of_one(&config).map_err(|error| explain(&error))?;
        let (mut backoff, mut said) = (Backoff::new(), Said::default());
        let config = loop {
            let Err(error) = store.check().await else {
                break with_vtep(config, options).await.map_err(|error| explain(&error))?;
            };
            // While this host's network comes up, no address may lead to the store yet.
            if serves_meanwhile && let Some(config) = with_vtep_of_before(&config).await {
                break config;
            }
            if said.is_new(&error.to_string()) {
                tracing::warn!("the agent waits for etcd, and the members of this host stay as they are: {error}");
            }
            waiting(&error.into());
            tokio::time::sleep(backoff.next()).await;
        };
        Self::start(config, Arc::new(store)).await
    }
}

/// The configuration with the VTEP address that this host had when its store answered last; none while no interface has it.
async fn with_vtep_of_before(config: &Config) -> Option<Config> {
    let before = config.vtep.or_else(|| snapshot::vtep_of(&config.snapshot_path(), &config.host));
    let config = Config { vtep: before, ..config.clone() };
    before?;
    Underlay::with_address(before?).await.ok().map(|_| config)
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
