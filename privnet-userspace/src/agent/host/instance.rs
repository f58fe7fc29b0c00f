//! The identity of a state directory: an agent's instance.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Result;
use uuid::Uuid;

use super::journal::{remove_if_there, replace};
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::model::FileError;

/// The file that holds the identity.
const FILE: &str = "instance";
/// The file that holds the one that takes its place, while an adoption is under way.
const NEXT: &str = "instance.next";

/// The identity of this agent's state directory. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Instance(Arc<RwLock<Uuid>>);

impl Instance {
    /// That of a state directory; made when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or made.
    pub fn of(state_dir: &Path) -> Result<Self> {
        Ok(Self(Arc::new(RwLock::new(read_or_make(&state_dir.join(FILE))?))))
    }

    /// It.
    #[must_use]
    pub fn id(&self) -> Uuid {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The identity that takes its place; the same one until it has.
    ///
    /// # Errors
    /// When it cannot be read, or made.
    pub fn next(state_dir: &Path) -> Result<Uuid> {
        read_or_make(&state_dir.join(NEXT))
    }

    /// Takes the next identity.
    ///
    /// # Errors
    /// When the directory cannot be written: it has the identity of before, or the next agent that starts has the new one.
    pub fn take_next(&self, state_dir: &Path, next: Uuid) -> Result<()> {
        replace(&state_dir.join(FILE), text_of(next).as_bytes())?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        remove_if_there(&state_dir.join(NEXT))
    }
}

fn text_of(instance: Uuid) -> String {
    format!("{instance}\n")
}

fn read_or_make(path: &Path) -> Result<Uuid> {
    match fs::read_to_string(path) {
        // What a power cut may leave of a file that was just made.
        Ok(text) if text.is_empty() => make(path),
        Ok(text) => text.trim().parse().map_err(|_| {
            let message = format!("{} does not hold a UUID", path.display());
            ControlError::new(ErrorCode::Internal, message, "remove the file to get a new identity").into()
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => make(path),
        Err(error) => Err(FileError::at("read", path)(error).into()),
    }
}

fn make(path: &Path) -> Result<Uuid> {
    let instance = Uuid::new_v4();
    replace(path, text_of(instance).as_bytes())?;
    Ok(instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(state_dir: &Path) -> Result<Uuid> {
        Instance::of(state_dir).map(|instance| instance.id())
    }

    #[test]
    fn a_state_directory_keeps_its_identity_and_another_has_another() {
        let (one, two) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let first = instance(one.path()).expect("made");
        assert_eq!(instance(one.path()).expect("read"), first);
        assert_ne!(instance(two.path()).expect("made"), first);
        fs::write(two.path().join("instance"), "").expect("written");
        assert_ne!(instance(two.path()).expect("made anew"), first);
        fs::write(two.path().join("instance"), "half of").expect("written");
        assert!(instance(two.path()).expect_err("no UUID").to_string().contains("instance"));
    }

    #[test]
    fn the_next_identity_stays_the_same_until_it_is_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let own = Instance::of(path).expect("made");
        let (before, next) = (own.id(), Instance::next(path).expect("made"));
        assert_ne!(next, before);
        assert_eq!(Instance::next(path).expect("read"), next, "another attempt has the same");
        assert_eq!(instance(path).expect("read"), before, "it is not taken yet");
        own.take_next(path, next).expect("taken");
        assert_eq!((own.id(), instance(path).expect("read")), (next, next));
        assert_ne!(Instance::next(path).expect("made"), next);
    }
}
