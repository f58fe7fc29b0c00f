//! The hosts that share the store.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::model::{HostName, published};

/// A host as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Host"))]
pub struct HostView {
    /// Its name.
    pub name: HostName,
    /// Its VTEP's address on the underlay.
    pub vtep: Ipv4Addr,
    /// The version of its agent.
    pub version: String,
    /// How many members it has.
    pub members: usize,
    /// Whether its agent is heard.
    pub state: HostState,
    /// Since when its agent is not heard, as far as this agent knows, in seconds since 1970-01-01 UTC; absent while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable_since_unix_seconds: Option<u64>,
    /// The newest change of a network or a member that it is known to have applied, by the store's revision; absent where its
    /// build does not say. It is told twice a minute at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_revision: Option<u64>,
    /// How many revisions that is behind what this agent has applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// How old what is known of the store is, in seconds; absent while it is current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_age_seconds: Option<u64>,
}

published! {
    /// Whether a host's agent is heard.
    HostState {
        /// It holds the lease of its presence.
        Present "present",
        /// Its lease ended. Its members may go on; their names are withdrawn.
        Unreachable "unreachable",
    }
}
