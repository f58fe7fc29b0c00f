//! A record as text: JSON with a version, a serial, and the fields of its last writer that this build does not know.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::error::{RECORD_VERSION, RecordError};
use crate::store::path::Key;
use crate::store::transaction::Value;

/// A kind of record.
pub trait Record: Serialize + DeserializeOwned {
    /// Adds the fields that builds before this one did not write, and that follow from those that they wrote.
    fn complete(fields: &mut Map<String, Json>) {
        let _ = fields;
    }
}

/// The fields that records of every kind carry in addition to their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// How often the record has been written; 0 where a build wrote it that did not count.
    pub serial: u64,
    /// A signature of the record. Signatures are neither made nor checked yet.
    pub signature: Option<String>,
    /// Fields that this build does not know.
    unknown: Map<String, Json>,
}

impl Envelope {
    /// The envelope of a record that is written for the first time.
    #[must_use]
    pub fn first() -> Self {
        Self::default().next()
    }

    /// The envelope of the record's next form: the serial is raised, unknown fields are kept, the signature is dropped.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { serial: self.serial.saturating_add(1), signature: None, unknown: self.unknown.clone() }
    }

    /// The same with a serial above `seen`.
    #[must_use]
    pub fn above(self, seen: u64) -> Self {
        Self { serial: self.serial.max(seen.saturating_add(1)), ..self }
    }

    /// The envelope of a record that was read from `value`.
    pub(super) fn around<T: Record>(value: &[u8], record: &T) -> Self {
        let mut unknown: Map<String, Json> = serde_json::from_slice(value).unwrap_or_default();
        let serial = unknown.get(SERIAL).and_then(Json::as_u64).unwrap_or_default();
        let signature = unknown.get(SIGNATURE).and_then(Json::as_str).map(str::to_owned);
        let known = fields(record);
        unknown.retain(|name, _| !known.contains_key(name) && ![VERSION, SERIAL, SIGNATURE].contains(&name.as_str()));
        Self { serial, signature, unknown }
    }
}

const VERSION: &str = "version";
const SERIAL: &str = "serial";
const SIGNATURE: &str = "signature";

/// Writes `record` in `envelope`.
#[must_use]
pub fn encode<T: Record>(record: &T, envelope: &Envelope) -> Value {
    #[derive(Serialize)]
    struct Written<'a, T> {
        version: u32,
        #[serde(skip_serializing_if = "is_zero")]
        serial: u64,
        #[serde(flatten)]
        record: &'a T,
        #[serde(skip_serializing_if = "Option::is_none")]
        signature: &'a Option<String>,
        #[serde(flatten)]
        unknown: Map<String, Json>,
    }
    let known = fields(record);
    let Envelope { serial, signature, unknown } = envelope;
    let unknown = unknown.iter().filter(|(name, _)| !known.contains_key(*name));
    let unknown = unknown.map(|(name, value)| (name.clone(), value.clone())).collect();
    let written = Written { version: RECORD_VERSION, serial: *serial, record, signature, unknown };
    // The records are structs of this program with text keys, and writing to memory cannot fail.
    serde_json::to_vec(&written).unwrap_or_else(|error| unreachable!("a record is not JSON: {error}")).into()
}

/// What every record of every build has.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// The version of a record; nothing where the value is no record of any build.
#[must_use]
pub fn version_of(value: &[u8]) -> Option<u32> {
    serde_json::from_slice(value).ok().map(|Head { version }| version)
}

/// Reads a record that [`encode`] wrote under `key`.
///
/// # Errors
/// When it is of a newer version, or damaged.
pub fn decode<T: Record>(key: &Key, value: &[u8]) -> Result<T, RecordError> {
    let corrupt = |error: serde_json::Error| RecordError::Corrupt { key: key.clone(), detail: error.to_string() };
    // The version first: the rest of a newer record may have another form.
    let Head { version } = serde_json::from_slice(value).map_err(corrupt)?;
    if version > RECORD_VERSION {
        return Err(RecordError::NewerVersion { key: key.clone(), found: version });
    }
    let mut fields: Map<String, Json> = serde_json::from_slice(value).map_err(corrupt)?;
    T::complete(&mut fields);
    serde_json::from_value(Json::Object(fields)).map_err(corrupt)
}

fn fields<T: Record>(record: &T) -> Map<String, Json> {
    match serde_json::to_value(record) {
        Ok(Json::Object(fields)) => fields,
        other => unreachable!("a record is no JSON object: {other:?}"),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
pub(super) const fn is_zero(number: &u64) -> bool {
    *number == 0
}
