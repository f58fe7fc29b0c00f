//! Which network of Docker's is which of privnet's: told once, when it is created, and kept on the disk, since dockerd does
//! not tell again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::agent::{Durability, rename_over};

/// The networks of Docker's, by their ids, and the name or id of privnet's.
#[derive(Debug)]
pub struct Networks {
    path: PathBuf,
    known: Mutex<BTreeMap<String, String>>,
}

impl Networks {
    /// Reads what is known. A file that cannot be read is said in the log, and Docker asked instead.
    pub fn open(path: &Path) -> Self {
        let known = match fs::read(path).map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(known)) => known,
            Ok(Err(error)) => {
                tracing::warn!("{} is corrupt, and Docker is asked instead: {error}", path.display());
                BTreeMap::new()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!("cannot read {}, and Docker is asked instead: {error}", path.display());
                BTreeMap::new()
            }
        };
        Self { path: path.to_owned(), known: Mutex::new(known) }
    }

    /// The network of privnet's.
    pub fn get(&self, network: &str) -> Option<String> {
        self.lock().get(network).cloned()
    }

    /// Keeps, or forgets, what a network is.
    ///
    /// # Errors
    /// The sentence for the user; it is as it was.
    pub fn set(&self, network: &str, ours: Option<String>) -> Result<(), String> {
        let mut known = self.lock();
        if known.get(network) == ours.as_ref() {
            return Ok(());
        }
        let mut changed = known.clone();
        match ours {
            Some(ours) => drop(changed.insert(network.to_owned(), ours)),
            None => drop(changed.remove(network)),
        }
        let text = serde_json::to_vec_pretty(&changed).map_err(|error| error.to_string())?;
        rename_over(&self.path, Durability::ForGood, &text).map_err(|error| format!("{error:#}"))?;
        *known = changed;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_known_after_a_restart_and_forgotten_when_the_network_goes() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("docker.json");
        let networks = Networks::open(&path);
        networks.set("a", Some("shop".to_owned())).expect("written");
        networks.set("b", Some("bank".to_owned())).expect("written");
        networks.set("b", None).expect("written");
        assert_eq!(networks.get("a"), Some("shop".to_owned()));
        let again = Networks::open(&path);
        assert_eq!((again.get("a"), again.get("b")), (Some("shop".to_owned()), None));
        fs::write(&path, "{").expect("written");
        assert_eq!(Networks::open(&path).get("a"), None, "a corrupt file is no reason not to start");
    }
}
