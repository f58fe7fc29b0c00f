//! Why a record could not be read.

#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain};
use crate::store::error::StoreError;
use crate::store::path::Key;

/// The version of the records that this code writes, and the newest that it reads.
pub const RECORD_VERSION: u32 = 1;

/// A record could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecordError {
    /// It was written by a newer privnet.
    #[error("the record {key} has version {found}, and this privnet knows versions up to {RECORD_VERSION}")]
    NewerVersion {
        /// Its key.
        key: Key,
        /// Its version.
        found: u32,
    },
    /// It is damaged, or does not belong under its key.
    #[error("the record {key} is corrupt: {detail}")]
    Corrupt {
        /// Its key.
        key: Key,
        /// The damage.
        detail: String,
    },
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Explain for RecordError {
    fn code(&self) -> ErrorCode {
        ErrorCode::StoreUnavailable
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::NewerVersion { .. } => Some("upgrade privnet on this host".to_owned()),
            Self::Corrupt { .. } => Some("restore it, or delete what it belongs to and create that anew".to_owned()),
            Self::Store(error) => error.remedy(),
        }
    }

    fn can_retry(&self) -> bool {
        matches!(self, Self::Store(error) if error.can_retry())
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let key = || "networks/a".parse::<Key>().expect("a key");
        rows![
            Self::NewerVersion { .. } => Self::NewerVersion { key: key(), found: 9 }, StoreUnavailable,
                "the record networks/a has version 9, and this privnet knows versions up to 1", "upgrade privnet on this host";
            Self::Corrupt { .. } => Self::Corrupt { key: key(), detail: "missing field `version`".to_owned() }, StoreUnavailable,
                "the record networks/a is corrupt: missing field `version`",
                "restore it, or delete what it belongs to and create that anew";
            Self::Store(_) => Self::Store(StoreError::Closed), StoreUnavailable, "the store is closed", "start the agent again";
        ]
    }
}
