//! The files of all containers of this host, by their paths, as the agent's tasks share them.
//!
//! What reads or writes a file has the file's turn, and does so on a thread of its own: a file system that does not answer
//! holds up what concerns its file, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use anyhow::Result;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::file::{FileId, problem};
use super::kept::{Directory, Kept};
use crate::agent::door::explain::explain;
use crate::agent::door::views::ProblemView;
use crate::netns::NetnsId;

/// The files, by their paths.
#[derive(Debug)]
pub struct ResolvConfs {
    directory: Directory,
    kept: Mutex<BTreeMap<PathBuf, Kept>>,
    turns: Mutex<BTreeMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>,
}

/// The turn of one file; it ends when this is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

impl ResolvConfs {
    /// Reads what earlier agents kept in `directory`.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn open(directory: &Path) -> Result<Self> {
        let (directory, kept) = Directory::open(directory)?;
        Ok(Self { directory, kept: Mutex::new(kept), turns: Mutex::default() })
    }

    /// The servers that the files of each container named before, without the one at `ours`.
    #[must_use]
    pub fn servers(&self, ours: Ipv4Addr) -> BTreeMap<NetnsId, Vec<SocketAddr>> {
        let mut servers: BTreeMap<NetnsId, Vec<SocketAddr>> = BTreeMap::new();
        for kept in self.lock().values() {
            let of_container = servers.entry(kept.netns).or_default();
            of_container.extend(
                kept.servers(ours).into_iter().filter(|server| !of_container.contains(server)).collect::<Vec<_>>(),
            );
        }
        servers
    }

    /// Waits for the turn of the file at `path`.
    pub(super) async fn turn(&self, path: &Path) -> Turn {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let under_way = turns.get(path).and_then(Weak::upgrade);
            let turn = under_way.unwrap_or_default();
            turns.insert(path.to_owned(), Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }

    /// What is known of the file at `path`.
    pub(super) fn at(&self, path: &Path) -> Option<Kept> {
        self.lock().get(path).cloned()
    }

    /// The containers whose files these are.
    pub(super) fn containers(&self) -> BTreeSet<NetnsId> {
        self.lock().values().map(|kept| kept.netns).collect()
    }

    /// The files of the container with this namespace.
    pub(super) fn of_container(&self, netns: NetnsId) -> Vec<PathBuf> {
        self.lock().values().filter(|kept| kept.netns == netns).map(|kept| kept.path.clone()).collect()
    }

    /// Another container's file that is the same one.
    pub(super) fn same(&self, file: Option<FileId>, is_others: impl Fn(&Kept) -> bool) -> Option<Kept> {
        self.lock().values().find(|other| file.is_some() && other.file == file && is_others(other)).cloned()
    }

    /// Writes the record of a file.
    pub(super) fn keep(&self, kept: &Kept) -> Result<(), ProblemView> {
        self.directory.write(kept).map_err(|error| {
            let told = explain(&error);
            problem(
                &kept.path,
                format!("what stands in it cannot be kept, so it stays as it is: {}", told.message),
                told.remedy,
            )
        })?;
        self.lock().insert(kept.path.clone(), kept.clone());
        Ok(())
    }

    /// Removes the record of a file.
    pub(super) fn forget(&self, path: &Path) {
        let kept = self.lock().remove(path);
        if let Some(kept) = kept
            && let Err(error) = self.directory.remove(&kept)
        {
            tracing::warn!("the record of {} stays: {error:#}", path.display());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what may wait for the file system of `path`, on a thread that not even the end of the agent waits for.
pub(super) async fn on_thread(
    path: &Path,
    work: impl FnOnce() -> Result<(), ProblemView> + Send + 'static,
) -> Result<(), ProblemView> {
    let (sender, done) = oneshot::channel();
    let started = thread::Builder::new().name("resolv-conf".to_owned()).spawn(move || drop(sender.send(work())));
    if let Err(error) = started {
        let why = format!("no thread can be started to write it: {error}");
        return Err(problem(path, why, "see how many threads the agent may have, and attach again"));
    }
    let done =
        done.await.unwrap_or_else(|_| Err(problem(path, "the thread that was to write it has panicked", "report it")));
    // Also when nothing waits for it any more.
    done.inspect_err(|problem| tracing::warn!("{}: {} ({})", problem.what, problem.why, problem.remedy))
}
