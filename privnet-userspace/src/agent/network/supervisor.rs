//! Runs one worker for each network that needs one.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::worker::Worker;
use crate::agent::shared::Memberships;

/// Starts a worker for every network that needs one, and forgets those that have nothing left to do. Never ends.
pub async fn run_workers(memberships: Arc<Memberships>) {
    let mut workers = JoinSet::new();
    let mut running = BTreeSet::new();
    loop {
        for (network, handle) in memberships.workers.all() {
            if running.insert(network) {
                let worker = Worker::new(network, Arc::clone(&memberships), handle);
                workers.spawn(async move {
                    worker.run().await;
                    network
                });
            }
        }
        tokio::select! {
            () = memberships.workers.needed() => {}
            Some(ended) = workers.join_next() => match ended {
                Ok(network) => {
                    running.remove(&network);
                    memberships.workers.forget(network, &memberships.journal);
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
