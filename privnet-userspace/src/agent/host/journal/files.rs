//! The journal's files: their names, their versions, and how one takes another's place.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Record;
use crate::agent::door::error::{ControlError, ErrorCode};
use crate::failpoint::{self, Step};
use crate::model::{FileError, MemberId, NetworkId, PrivateKey, PublicKey};

/// The version of the record's form. Version 1 had no membership id, and its files bore the name `<pn>_<ipv4>`.
const VERSION: u32 = 2;

/// A record that was read.
pub(super) struct Read {
    /// The record.
    pub record: Record,
    /// Whether it is of version 1, and to be carried over.
    pub is_old: bool,
}

/// The text of a record.
pub(super) fn text_of(record: &Record) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Versioned<'a> {
        version: u32,
        #[serde(flatten)]
        record: &'a Record,
    }
    serde_json::to_vec_pretty(&Versioned { version: VERSION, record }).context("writing a member's record as JSON")
}

/// Reads a record; none where the host lost its power before the disk had it: no container outlived that.
pub(super) fn read(path: &Path) -> Result<Option<Read>> {
    let text = fs::read(path).map_err(FileError::at("read", path))?;
    if text.iter().all(|byte| *byte == 0) {
        tracing::warn!(
            "{} is empty, as a power cut leaves it: the member of the earlier boot is forgotten",
            path.display()
        );
        remove_if_there(path)?;
        return Ok(None);
    }
    let version = serde_json::from_slice::<Value>(&text).ok().and_then(|value| value.get("version")?.as_u64());
    if let Some(version) = version.filter(|version| *version > u64::from(VERSION)) {
        let message =
            format!("{} is of version {version}, and this agent reads up to version {VERSION}", path.display());
        return Err(ControlError::new(ErrorCode::Internal, message, "start the newer agent that wrote it").into());
    }
    match parse(path, &text) {
        Ok(read) => Ok(Some(read)),
        Err(error) => {
            let aside = path.with_extension("json.corrupt");
            fs::rename(path, &aside).map_err(FileError::at("move aside the corrupt", path))?;
            let message = format!("{} is corrupt ({error}), and was moved to {}", path.display(), aside.display());
            let remedy =
                "start the agent again: it makes the record again where the container runs, else the member ends";
            Err(ControlError::new(ErrorCode::Internal, message, remedy).into())
        }
    }
}

fn parse(path: &Path, text: &[u8]) -> serde_json::Result<Read> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let Head { version } = serde_json::from_slice(text)?;
    let mut fields: Map<String, Value> = serde_json::from_slice(text)?;
    fields.remove("version");
    let is_old = version < VERSION;
    if is_old {
        fields.insert("id".to_owned(), id_of_old(path, &fields)?.to_string().into());
    }
    Ok(Read { record: serde_json::from_value(Value::Object(fields))?, is_old })
}

/// The id of a membership whose record is of version 1: what the store's record of it says too, since both follow from the
/// member's key. Without a key that can be read, any id will do that no other record has.
fn id_of_old(path: &Path, fields: &Map<String, Value>) -> serde_json::Result<MemberId> {
    if let Ok(key) = read_key(&path.with_extension("key")) {
        return Ok(MemberId::of_key(key.public_key()));
    }
    #[derive(Deserialize)]
    struct Place {
        network: NetworkId,
        address: Ipv4Addr,
    }
    let Place { network, address } = serde_json::from_value(Value::Object(fields.clone()))?;
    let [a, b, c, d] = address.octets();
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&[a, b, c, d]);
    bytes[4..8].copy_from_slice(&network.uuid().as_bytes()[..4]);
    Ok(MemberId::of_key(PublicKey::new(bytes)))
}

/// Reads a private key.
pub(super) fn read_key(path: &Path) -> Result<PrivateKey> {
    let text = zeroize::Zeroizing::new(fs::read_to_string(path).map_err(FileError::at("read", path))?);
    PrivateKey::from_base64(&text).with_context(|| format!("reading {}", path.display()))
}

/// Writes a file of mode 0600 by rename, so that a reader sees the old content or the new one; also one that reads after
/// the power was cut, when a name may be on the disk and what was written before it not.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    rename_over(path, Durability::ForGood, content)
}

/// What a file has to outlive.
pub enum Durability {
    /// No reboot; after one it may be empty.
    ThisBoot,
    /// Everything.
    ForGood,
}

/// Writes a file of mode 0600 by rename.
///
/// # Errors
/// The file is as it was.
pub fn rename_over(path: &Path, durability: Durability, content: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let replaced = write_new(&temporary, durability, content)
        .and_then(|()| fs::rename(&temporary, path).map_err(FileError::at("replace", path)));
    if replaced.is_err() {
        // A private key may be in it. The first error is told.
        let _ = fs::remove_file(&temporary);
    }
    replaced?;
    failpoint::passed(Step::Rename);
    Ok(())
}

fn write_new(path: &Path, durability: Durability, content: &[u8]) -> Result<(), FileError> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(FileError::at("create", path))?;
    failpoint::refused(Step::Write).and_then(|()| file.write_all(content)).map_err(FileError::at("write", path))?;
    if matches!(durability, Durability::ForGood) {
        file.sync_data().map_err(FileError::at("flush", path))?;
    }
    failpoint::passed(Step::Write);
    Ok(())
}

/// Removes a file. Absent is done.
pub fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(FileError::at("remove", path)(error).into()),
        Ok(()) | Err(_) => {}
    }
    failpoint::passed(Step::Unlink);
    Ok(())
}
