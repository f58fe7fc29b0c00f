//! Which machine a state directory belongs to: a copy of it on another machine is none of its agent.
//!
//! A virtual machine that is cloned, or a backup that is put on another one, has the identity and the journal of the first. Its
//! agent would end the first one's members, whose containers it does not have. So the directory says which machine it is of,
//! and on another one the agent takes a new instance, and sets the journal aside. A directory that is not where it was, on the
//! same machine, may be a copy too: then the agent that has the host's name is asked whether it lives.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;
use uuid::Uuid;

use super::journal::{self, remove_if_there, replace};
use super::state_dir::StateDir;
use crate::agent::config::Config;
use crate::model::{FileError, counted};
use crate::store::StoreKind;

/// The file that says which machine the directory is of.
const FILE: &str = "machine";

/// What a state directory says of where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    /// The machine; nothing where it has no id.
    machine: Option<Uuid>,
    /// The file system and the file of the directory's lock.
    lock: (u64, u64),
}

/// Finds out whether a state directory is where it was, and makes a copy from another machine one of this machine. To be
/// called before the journal is read; returns whether the directory was moved, or is a copy, on this machine.
///
/// A store that is in the directory was copied with it, and no other host shares it: its members are this host's.
///
/// # Errors
/// When a file cannot be read, moved or written.
pub fn settle(config: &Config, state_dir: &StateDir, machine: Option<Uuid>, store: StoreKind) -> Result<bool> {
    let path = config.state_dir.join(FILE);
    let now = Note { machine, lock: state_dir.lock_id()? };
    let (noted, is_damaged) = match read(&path)? {
        Found::Nothing => (None, false),
        Found::Note(note) => (Some(note), false),
        Found::Damaged => (None, true),
    };
    let is_of_another = |noted: &Note| {
        noted.machine.is_some() && now.machine.is_some() && noted.machine != now.machine && store == StoreKind::Etcd
    };
    let is_copy = noted.as_ref().is_some_and(is_of_another);
    if is_copy {
        set_aside(config)?;
    }
    // A note that is damaged does not say that the directory is no copy: the agent that has the host's name is asked.
    let is_moved = !is_copy && (is_damaged || noted.as_ref().is_some_and(|noted| noted.lock != now.lock));
    // One that was moved is noted once it is known that no other agent has it.
    if !is_moved && noted.as_ref() != Some(&now) {
        note(&config.state_dir, state_dir, machine)?;
    }
    Ok(is_moved)
}

/// Notes that the directory is where it belongs.
///
/// # Errors
/// When the file cannot be written.
pub fn note(path: &Path, state_dir: &StateDir, machine: Option<Uuid>) -> Result<()> {
    let (device, file) = state_dir.lock_id()?;
    replace(&path.join(FILE), text_of(&Note { machine, lock: (device, file) }).as_bytes())
}

/// With a checksum: a damaged digit would be that of another machine.
fn text_of(note: &Note) -> String {
    let fields = fields_of(note);
    format!("{fields} {:016x}\n", journal::checksum(fields.as_bytes()))
}

fn fields_of(Note { machine, lock: (device, file) }: &Note) -> String {
    let machine = machine.map_or_else(|| "-".to_owned(), |machine| machine.to_string());
    format!("{machine} {device} {file}")
}

/// Sets aside what belongs to the other machine's containers, the identity last: killed in between, the next agent goes on.
fn set_aside(config: &Config) -> Result<()> {
    let instance = config.state_dir.join("instance");
    let known = fs::read_to_string(&instance).unwrap_or_default();
    let suffix = known.trim().parse::<Uuid>().map_or_else(|_| "unknown".to_owned(), |instance| instance.to_string());
    let entries = fs::read_dir(config.journal_dir()).map_or(0, |entries| {
        let is_record = |path: PathBuf| path.extension().is_some_and(|extension| extension == "json");
        entries.flatten().filter(|entry| is_record(entry.path())).count()
    });
    for path in [config.journal_dir(), config.resolv_conf_dir(), config.snapshot_path()] {
        let aside = path.with_extension(format!("of-{suffix}"));
        match fs::rename(&path, &aside) {
            Ok(()) => tracing::warn!(
                "the state directory {} is a copy from another machine: {} is {} now",
                config.state_dir.display(),
                path.display(),
                aside.display()
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(FileError::at("set aside", &path)(error).into()),
        }
    }
    tracing::warn!(
        "the agent of this machine takes a new instance, and tells the store nothing of the {} that were copied",
        counted(entries, "member")
    );
    remove_if_there(&instance)
}

/// What the file holds.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Note(Note),
    /// It is set aside.
    Damaged,
}

fn read(path: &Path) -> Result<Found> {
    let text = match fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(FileError::at("read", path)(error).into()),
    };
    // What a power cut may leave of a file that was just made.
    if text.is_empty() {
        return Ok(Found::Nothing);
    }
    match parse(&text) {
        Some(note) => Ok(Found::Note(note)),
        None => {
            let then =
                "the agent that has this host's name is asked whether it lives, as where the directory is a copy";
            journal::set_aside(path, "damaged", "it does not hold a machine and a file", then).map(|()| Found::Damaged)
        }
    }
}

fn parse(text: &str) -> Option<Note> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let ([machine, device, file] | [machine, device, file, _]) = fields[..] else { return None };
    let machine = if machine == "-" { None } else { Some(machine.parse().ok()?) };
    let note = Note { machine, lock: (device.parse().ok()?, file.parse().ok()?) };
    // An earlier build wrote no checksum.
    let is_whole = text == text_of(&note) || text == fields_of(&note) + "\n";
    is_whole.then_some(note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_a_damaged_one_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(FILE);
        let state_dir = StateDir::take(directory.path()).expect("free");
        assert_eq!(read(&path).expect("there is none"), Found::Nothing);
        for machine in [None, Some(Uuid::from_u128(7))] {
            note(directory.path(), &state_dir, machine).expect("noted");
            let lock = state_dir.lock_id().expect("it has one");
            assert_eq!(read(&path).expect("read"), Found::Note(Note { machine, lock }));
        }
        // As an earlier build wrote it.
        let uuid = Uuid::from_u128(7);
        fs::write(&path, format!("{uuid} 3 4\n")).expect("written");
        assert_eq!(read(&path).expect("read"), Found::Note(Note { machine: Some(uuid), lock: (3, 4) }));
        // No flipped bit makes it that of another machine, or one without a checksum.
        note(directory.path(), &state_dir, Some(uuid)).expect("noted");
        let whole = fs::read(&path).expect("read");
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).expect("written");
            assert_eq!(read(&path).expect("set aside"), Found::Damaged, "{}", String::from_utf8_lossy(&flipped));
        }
        for length in 1..whole.len() {
            fs::write(&path, &whole[..length]).expect("written");
            assert_eq!(read(&path).expect("set aside"), Found::Damaged, "{length}");
        }
        fs::write(&path, "half of").expect("written");
        assert_eq!(read(&path).expect("set aside"), Found::Damaged);
        assert_eq!(fs::read_to_string(path.with_extension("damaged")).expect("set aside"), "half of");
        fs::write(&path, "").expect("written");
        assert_eq!(read(&path).expect("as a power cut leaves it"), Found::Nothing);
    }
}
