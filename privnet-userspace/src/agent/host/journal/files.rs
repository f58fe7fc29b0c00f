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

/// What the text of a record ends with: a checksum of the text without it. Builds before this one keep the field, and may
/// change what is before it: then the record is made again from what is in the kernel.
const CHECKSUM: &str = ",\n  \"checksum\": \"";
/// The end of a record without it.
const END: &str = "\n}";

/// The text of a record.
pub(super) fn text_of(record: &Record) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Versioned<'a> {
        version: u32,
        #[serde(flatten)]
        record: &'a Record,
    }
    let mut text = serde_json::to_vec_pretty(&Versioned { version: VERSION, record })
        .context("writing a member's record as JSON")?;
    let sum = checksum(&text);
    text.truncate(text.len() - END.len());
    text.extend(format!("{CHECKSUM}{sum:016x}\"{END}").bytes());
    Ok(text)
}

/// FNV-1a: it finds what a disk or a power cut does to a file, not what an attacker does, who has the directory then.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Whether the checksum at the end of a record is that of the text before it; also where there is none.
fn is_whole(text: &[u8]) -> bool {
    let length = CHECKSUM.len() + 16 + 1 + END.len();
    let Some((body, end)) = text.len().checked_sub(length).and_then(|at| text.split_at_checked(at)) else {
        return true;
    };
    let Some(sum) = end.strip_prefix(CHECKSUM.as_bytes()) else { return true };
    sum.starts_with(format!("{:016x}\"", checksum(&[body, END.as_bytes()].concat())).as_bytes())
}

/// What became of the file of a record.
pub(super) enum Found {
    /// It is a record.
    Record(Box<Read>),
    /// The host lost its power before the disk had it: no container outlived that.
    Empty,
    /// It was damaged, and is set aside.
    SetAside,
}

/// Reads a record. One that is damaged is set aside and named: where the container runs, it is made again.
pub(super) fn read(path: &Path) -> Result<Found> {
    let text = fs::read(path).map_err(FileError::at("read", path))?;
    if text.iter().all(|byte| *byte == 0) {
        tracing::warn!(
            "{} is empty, as a power cut leaves it: the member of the earlier boot is forgotten",
            path.display()
        );
        remove_if_there(path)?;
        return Ok(Found::Empty);
    }
    let version = serde_json::from_slice::<Value>(&text).ok().and_then(|value| value.get("version")?.as_u64());
    if let Some(version) = version.filter(|version| *version > u64::from(VERSION)) {
        let message =
            format!("{} is of version {version}, and this agent reads up to version {VERSION}", path.display());
        return Err(ControlError::new(ErrorCode::Internal, message, "start the newer agent that wrote it").into());
    }
    if !is_whole(&text) {
        return set_record_aside(path, "its checksum is that of another text");
    }
    match parse(path, &text) {
        Ok(read) => Ok(Found::Record(Box::new(read))),
        Err(error) => set_record_aside(path, &error.to_string()),
    }
}

/// A record as it is, for one that has no right to change anything; nothing where it is damaged or empty.
pub(super) fn look(path: &Path) -> Result<Option<Record>> {
    let text = fs::read(path).map_err(FileError::at("read", path))?;
    Ok(parse(path, &text).ok().filter(|_| is_whole(&text)).map(|read| read.record))
}

fn set_record_aside(path: &Path, why: &str) -> Result<Found> {
    let then = "it is made again where the container runs, else the member ends";
    set_aside(path, "json.corrupt", why, then).map(|()| Found::SetAside)
}

/// Gives a damaged file another extension, and names it, with what happens then.
///
/// # Errors
/// The file is as it was.
pub fn set_aside(path: &Path, extension: &str, why: &str, then: &str) -> Result<()> {
    let aside = path.with_extension(extension);
    fs::rename(path, &aside).map_err(FileError::at("set aside the damaged", path))?;
    tracing::warn!("{} is damaged ({why}), and is {} now: {then}", path.display(), aside.display());
    Ok(())
}

fn parse(path: &Path, text: &[u8]) -> serde_json::Result<Read> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let Head { version } = serde_json::from_slice(text)?;
    let mut fields: Map<String, Value> = serde_json::from_slice(text)?;
    fields.remove("version");
    fields.remove("checksum");
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
