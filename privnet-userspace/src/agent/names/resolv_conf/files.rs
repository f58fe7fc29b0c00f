//! The files of all containers of this host, by their paths, as the agent's tasks share them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use super::file::problem;
use super::kept::{Directory, Kept};
use crate::agent::door::explain::explain;
use crate::agent::door::views::ProblemView;
use crate::netns::NetnsId;

/// The files, by their paths.
#[derive(Debug)]
pub struct ResolvConfs {
    directory: Directory,
    kept: Mutex<BTreeMap<PathBuf, Kept>>,
}

impl ResolvConfs {
    /// Reads what earlier agents kept in `directory`.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn open(directory: &Path) -> Result<Self> {
        let (directory, kept) = Directory::open(directory)?;
        Ok(Self { directory, kept: Mutex::new(kept) })
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

    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
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
        })
    }

    /// Removes the record of a file.
    pub(super) fn forget(&self, all: &mut BTreeMap<PathBuf, Kept>, path: &Path) {
        if let Some(kept) = all.remove(path)
            && let Err(error) = self.directory.remove(&kept)
        {
            tracing::warn!("the record of {} stays: {error:#}", path.display());
        }
    }
}
