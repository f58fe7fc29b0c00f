//! The store as a whole: made the fleet's, written into a file, and read back from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::FleetId;

/// Asks that the store be made the fleet's.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RebuildState {
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Whether it may be done where the store has records of another fleet, which are removed, or of networks that this host
    /// has not seen, which stay.
    #[serde(default)]
    pub yes: bool,
}

/// A store that was made the fleet's, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RebuiltState {
    /// The fleet.
    pub fleet: FleetId,
    /// Its epoch in the store from then on.
    pub epoch: u64,
    /// How many networks this host knows of the fleet.
    pub networks: usize,
    /// How many members this host knows of the fleet. Each host puts back its own.
    pub members: usize,
    /// How many hosts this host knows of the fleet.
    pub hosts: usize,
    /// How many networks of another fleet are removed.
    pub removed_networks: usize,
    /// How many members of another fleet are removed.
    pub removed_members: usize,
    /// Whether it was done; otherwise it would be.
    pub done: bool,
}

/// What is known of the fleet's store, to be kept, or to be given to another store. It holds no private key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ExportedState {
    /// The form of this: 1.
    pub version: u32,
    /// The fleet.
    pub fleet: FleetId,
    /// The fleet's record, as it was written.
    pub fleet_record: String,
    /// When it was written, in seconds since 1970-01-01 UTC.
    pub exported_unix_seconds: u64,
    /// How old what was known of the store was then, in seconds; absent where it was current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_age_seconds: Option<u64>,
    /// The records as they were written, by key.
    pub records: BTreeMap<String, String>,
    /// Of the fleet's record and the records.
    pub checksum: String,
    /// For an import: the networks of which neither the store nor the host has anything were lost, and come back. Otherwise
    /// they are passed over, since a network that was deleted leaves nothing either. No copy that is written has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost_networks: bool,
}

/// What was given to a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ImportedState {
    /// The fleet.
    pub fleet: FleetId,
    /// Its epoch in the store from now on.
    pub epoch: u64,
    /// How many records were read.
    pub records: usize,
    /// How many of them the store lacked, and has now.
    pub written: usize,
    /// The networks that were passed over, by name and id: neither the store nor the host has anything of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<String>,
}
