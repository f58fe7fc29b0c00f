//! The identity of a state directory: an agent's instance.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Result;
use uuid::Uuid;

use super::journal::{remove_if_there, replace, set_aside};
use crate::model::FileError;

/// The file that holds the identity.
const FILE: &str = "instance";
/// The file that holds the one that takes its place, while an adoption is under way.
const NEXT: &str = "instance.next";

/// The identity of this agent's state directory. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Instance(Arc<RwLock<Uuid>>);

impl Instance {
    /// That of a state directory; made when there is none. One that is damaged is set aside; the identity is then that which the
    /// journal has `noted`, where it has.
    ///
    /// # Errors
    /// When it cannot be read, or made.
    pub fn of(state_dir: &Path, noted: Option<Uuid>) -> Result<Self> {
        Ok(Self(Arc::new(RwLock::new(read_or_make(&state_dir.join(FILE), noted)?))))
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
        read_or_make(&state_dir.join(NEXT), None)
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

fn read_or_make(path: &Path, noted: Option<Uuid>) -> Result<Uuid> {
    let make = |path: &Path| make(path, noted.unwrap_or_else(Uuid::new_v4));
    match fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()) {
        // What a power cut may leave of a file that was just made.
        Ok(text) if text.is_empty() => make(path),
        Ok(text) => match text.trim().parse() {
            Ok(instance) => Ok(instance),
            Err(_) => {
                let then =
                    "members that the journal does not know belong to another instance now, see `privnet status`";
                set_aside(path, "damaged", "it does not hold a UUID", then)?;
                make(path)
            }
        },
        Err(error) if error.kind() == ErrorKind::NotFound => make(path),
        Err(error) => Err(FileError::at("read", path)(error).into()),
    }
}

fn make(path: &Path, instance: Uuid) -> Result<Uuid> {
    replace(path, text_of(instance).as_bytes())?;
    Ok(instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(state_dir: &Path, noted: Option<Uuid>) -> Result<Uuid> {
        Instance::of(state_dir, noted).map(|instance| instance.id())
    }

    #[test]
    fn a_state_directory_keeps_its_identity_and_another_has_another() {
        let (one, two) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let first = instance(one.path(), None).expect("made");
        assert_eq!(instance(one.path(), None).expect("read"), first);
        assert_ne!(instance(two.path(), None).expect("made"), first);
        fs::write(two.path().join("instance"), "").expect("written");
        assert_ne!(instance(two.path(), None).expect("made anew"), first);
        let aside = || fs::read(two.path().join("instance.damaged")).expect("set aside");
        for damaged in [&b"half of"[..], &[0xff; 8]] {
            fs::write(two.path().join("instance"), damaged).expect("written");
            let anew = instance(two.path(), None).expect("made anew");
            assert_eq!(instance(two.path(), None).expect("read"), anew);
            assert_eq!(aside(), damaged);
        }
        // The journal knows it, and is not asked where the file does.
        fs::write(two.path().join("instance"), "half of").expect("written");
        for noted in [first, Uuid::new_v4()] {
            assert_eq!(instance(two.path(), Some(noted)).expect("that of the members"), first);
        }
    }

    #[test]
    fn the_next_identity_stays_the_same_until_it_is_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let own = Instance::of(path, None).expect("made");
        let (before, next) = (own.id(), Instance::next(path).expect("made"));
        assert_ne!(next, before);
        assert_eq!(Instance::next(path).expect("read"), next, "another attempt has the same");
        assert_eq!(instance(path, None).expect("read"), before, "it is not taken yet");
        own.take_next(path, next).expect("taken");
        assert_eq!((own.id(), instance(path, None).expect("read")), (next, next));
        assert_ne!(Instance::next(path).expect("made"), next);
    }
}
