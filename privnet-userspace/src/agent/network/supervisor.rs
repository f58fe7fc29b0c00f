//! Runs one worker for each network that needs one.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::worker::Worker;
use crate::agent::shared::Shared;

/// Starts a worker for every network that needs one, and forgets those that have nothing left to do. Never ends.
pub async fn run_workers(shared: Arc<Shared>) {
    let mut workers = JoinSet::new();
    let mut running = BTreeSet::new();
    loop {
        for (network, handle) in shared.workers.all() {
            if running.insert(network) {
                let worker = Worker::new(network, Arc::clone(&shared), handle);
                workers.spawn(async move {
                    worker.run().await;
                    network
                });
            }
        }
        tokio::select! {
            () = shared.workers.needed() => {}
            Some(ended) = workers.join_next() => match ended {
                Ok(network) => {
                    running.remove(&network);
                    shared.workers.forget(network, &shared.journal);
                }
                Err(error) => {
                    tracing::error!(%error, "the worker of a network panicked: all workers are started again");
                    running.clear();
                    workers.abort_all();
                    while workers.join_next().await.is_some() {}
                }
            },
        }
    }
}
