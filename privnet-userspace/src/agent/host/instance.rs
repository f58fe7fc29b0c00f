//! The identity of a state directory: an agent's instance.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;
use uuid::Uuid;

use super::journal::replace;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::model::FileError;

/// The identity of this state directory; made when there is none.
///
/// # Errors
/// When it cannot be read, or made.
pub fn instance(state_dir: &Path) -> Result<Uuid> {
    let path = state_dir.join("instance");
    match fs::read_to_string(&path) {
        // What a power cut may leave of a file that was just made.
        Ok(text) if text.is_empty() => make(&path),
        Ok(text) => text.trim().parse().map_err(|_| {
            let message = format!("{} does not hold a UUID", path.display());
            ControlError::new(ErrorCode::Internal, message, "remove the file to get a new identity").into()
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => make(&path),
        Err(error) => Err(FileError::at("read", &path)(error).into()),
    }
}

fn make(path: &Path) -> Result<Uuid> {
    let instance = Uuid::new_v4();
    replace(path, format!("{instance}\n").as_bytes())?;
    Ok(instance)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
