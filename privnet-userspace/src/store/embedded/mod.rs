//! The store of one host: one file in the state directory, every commit on the disk before it is answered.
//!
//! Readers are served from memory. One thread owns the file: it checks a transaction, writes it to the disk, and then
//! applies it in memory, so a watch never delivers a change that a crash could undo.
//!
//! After a disk error the file is opened again before the next commit, and memory follows what the file says. Leases do
//! not outlive the process: their keys are deleted when the file is opened.

mod disk;
mod open;
mod writer;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::contract::{Entry, Listing, Store, StoreKind, Watch};
use super::error::{CommitError, OpenError, StoreError};
use super::history::HISTORY_CHANGES;
use super::path::{Key, Prefix};
use super::state::{Shared, lease_expired};
use super::transaction::{LeaseId, Revision, Transaction};
use super::watches;
pub use open::Beginning;
use open::disk_error;
use writer::Command;

/// How long the end of a lease waits for the disk to recover before it is tried again.
const LEASE_RETRY: Duration = Duration::from_secs(1);

/// A store in a file. Dropping it waits for the commits under way, and ends its watches with a resync.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    /// To the thread that owns the file; taken only when dropped.
    commands: Option<mpsc::UnboundedSender<Command>>,
    writer: Option<JoinHandle<()>>,
    beginning: Beginning,
}

impl Embedded {
    /// Opens the state directory, and makes it and the state file if they do not exist.
    ///
    /// # Errors
    /// [`OpenError`]: another agent uses it, the file is corrupt (and has been moved aside), the file is of a newer
    /// version (and has not been touched), or the disk refused.
    pub async fn open(directory: &Path) -> Result<Self, OpenError> {
        let owned = directory.to_owned();
        let opened = tokio::task::spawn_blocking(move || open::open(&owned)).await;
        let opened = opened.map_err(|error| disk_error("open", directory, std::io::Error::other(error)))??;
        let shared = Shared::new(opened.contents.revision, opened.contents.entries, HISTORY_CHANGES);
        let (commands, received) = mpsc::unbounded_channel();
        let writer = writer::start(shared.clone(), opened.file, received)
            .map_err(|source| disk_error("start the thread for", directory, source))?;
        Ok(Self { shared, commands: Some(commands), writer: Some(writer), beginning: opened.beginning })
    }

    /// Whether the state directory holds a state file; a file that was moved aside does not count.
    #[must_use]
    pub fn exists(directory: &Path) -> bool {
        directory.join(open::FILE_NAME).exists()
    }

    /// The content of the state directory when it was opened.
    #[must_use]
    pub const fn beginning(&self) -> &Beginning {
        &self.beginning
    }

    /// Hands `command` to the thread that owns the file, and waits for its answer.
    async fn ask<T, E: From<StoreError>>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Command,
    ) -> Result<T, E> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.as_ref().is_some_and(|commands| commands.send(command(reply)).is_ok());
        if !sent {
            return Err(StoreError::Closed.into());
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.close();
        self.commands = None;
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the thread that owns the state file panicked");
        }
    }
}

#[async_trait]
impl Store for Embedded {
    fn kind(&self) -> StoreKind {
        StoreKind::Embedded
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.shared.get(key)
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing, StoreError> {
        self.shared.list(prefix)
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch, StoreError> {
        self.shared.lock().open()?;
        Ok(watches::watch(&self.shared, prefix, after))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        self.ask(|reply| Command::Commit { transaction, reply }).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let commands = self.commands.as_ref().ok_or(StoreError::Closed)?.downgrade();
        let lease = self.shared.grant_lease(ttl)?;
        tokio::spawn(expire(Arc::downgrade(&self.shared), commands, lease));
        Ok(lease)
    }

    async fn keep_lease_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.keep_lease_alive(lease)
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Command::EndLease { lease, reply }).await
    }
}

/// Waits for the end of `lease`, and has the keys attached to it deleted.
async fn expire(shared: Weak<Shared>, commands: mpsc::WeakUnboundedSender<Command>, lease: LeaseId) {
    while lease_expired(&shared, lease).await {
        let Some(commands) = commands.upgrade() else { return };
        let (reply, answer) = oneshot::channel();
        if commands.send(Command::EndLease { lease, reply }).is_err() {
            return;
        }
        drop(commands);
        match answer.await {
            Ok(Ok(())) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!(%lease, %error, "cannot delete the keys of an expired lease yet");
                tokio::time::sleep(LEASE_RETRY).await;
            }
        }
    }
}
