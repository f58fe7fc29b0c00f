//! The thread that owns the state file.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot};

use super::disk;
use super::open::{self, StateFile};
use crate::store::error::{CommitError, StoreError};
use crate::store::state::{Prepared, Shared};
use crate::store::transaction::{LeaseId, Revision, Transaction};

/// A command for the thread. It drops the answer when the caller has stopped waiting.
#[derive(Debug)]
pub(super) enum Command {
    Commit { transaction: Transaction, reply: oneshot::Sender<Result<Revision, CommitError>> },
    EndLease { lease: LeaseId, reply: oneshot::Sender<Result<(), StoreError>> },
}

/// Starts the thread. It ends, and closes the file, when every sender of `commands` is gone.
pub(super) fn start(
    shared: Arc<Shared>,
    file: StateFile,
    commands: mpsc::UnboundedReceiver<Command>,
) -> io::Result<JoinHandle<()>> {
    let writer = Writer { shared, file, uncertain: None };
    thread::Builder::new().name("store".to_owned()).spawn(move || writer.run(commands))
}

struct Writer {
    shared: Arc<Shared>,
    file: StateFile,
    /// The transaction during which the disk failed: the file tells whether it happened, once it can be read again.
    uncertain: Option<Prepared>,
}

impl Writer {
    fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        while let Some(command) = commands.blocking_recv() {
            match command {
                Command::Commit { transaction, reply } => drop(reply.send(self.commit(&transaction))),
                Command::EndLease { lease, reply } => drop(reply.send(self.end_lease(lease))),
            }
        }
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<Revision, CommitError> {
        self.recover()?;
        let prepared = self.shared.lock().prepare(transaction)?;
        Ok(self.write(prepared)?)
    }

    fn end_lease(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        self.recover()?;
        let prepared = {
            let mut state = self.shared.lock();
            state.open()?.expire_now(lease);
            state.prepare_lease_end(lease)
        };
        self.write(prepared)?;
        self.shared.lock().forget_lease(lease);
        Ok(())
    }

    /// Writes a prepared transaction to the file, and then lets it happen in memory.
    fn write(&mut self, prepared: Prepared) -> Result<Revision, StoreError> {
        if prepared.changes.is_empty() {
            return Ok(prepared.revision);
        }
        let written = match &self.file.database {
            Some(database) => disk::write(database, &prepared),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        if let Err(error) = written {
            // Only reading the file again tells what the disk holds.
            self.file.database = None;
            self.uncertain = Some(prepared);
            return Err(self.disk_error("write", error));
        }
        let revision = prepared.revision;
        self.shared.lock().apply(prepared);
        self.shared.announce(revision);
        Ok(revision)
    }

    /// Opens the file again after a disk error, and applies in memory a transaction that the disk turns out to hold.
    fn recover(&mut self) -> Result<(), StoreError> {
        if self.file.database.is_some() {
            return Ok(());
        }
        let database = open::reopen(&self.file.path).map_err(|error| self.disk_error("open", error))?;
        let contents = disk::read(&database).map_err(|error| self.disk_error("read", error.into()))?;
        let known = self.shared.lock().revision;
        match self.uncertain.take() {
            Some(prepared) if contents.revision == prepared.revision => {
                self.shared.lock().apply(prepared);
                self.shared.announce(contents.revision);
            }
            uncertain if contents.revision != known => {
                self.uncertain = uncertain;
                let detail = format!("it is at revision {}, and {known} was acknowledged", contents.revision);
                return Err(self.disk_error("trust", io::Error::new(io::ErrorKind::InvalidData, detail)));
            }
            Some(_) | None => {}
        }
        tracing::info!(revision = %contents.revision, "the state file is in use again after a disk error");
        self.file.database = Some(database);
        Ok(())
    }

    fn disk_error(&self, operation: &'static str, source: io::Error) -> StoreError {
        tracing::warn!(path = %self.file.path.display(), %operation, error = %source, "the state file cannot be used");
        StoreError::Disk { operation, path: self.file.path.clone(), source: Arc::new(source) }
    }
}
