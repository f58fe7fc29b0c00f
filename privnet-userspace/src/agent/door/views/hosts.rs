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
    /// Since when its agent has held the lease of its presence without a gap, by that host's clock, in seconds since 1970-01-01
    /// UTC: since it was started, mostly. Absent while it is not heard, and where its build does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_since_unix_seconds: Option<u64>,
    /// The newest change of a network or a member that it is known to have applied, by the store's revision; absent where its
    /// build does not say. It is told twice a minute at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_revision: Option<u64>,
    /// How many revisions that is behind what this agent has applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// How many of its members another instance of its agent made, until `privnet host adopt` on that host.
    #[serde(default, skip_serializing_if = "is_none_of_them")]
    pub members_unadopted: usize,
    /// Whether an operator empties it: it takes no new members, and its members have no names.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// How old what is known of the store is, in seconds; absent while it is current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_age_seconds: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
const fn is_none_of_them(count: &usize) -> bool {
    *count == 0
}

/// Asks that this host takes over the members that another instance of its agent made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AdoptHost {
    /// Whether more than five members may end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub yes: bool,
    /// Whether the host's name is taken although the lease of another agent of that name lives.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// What an adoption did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Adopted {
    /// How many members go on: their containers run on this host.
    pub kept: u64,
    /// How many ended: nothing of them runs on this host.
    pub ended: u64,
}

/// Asks that a host is forgotten, which is gone for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ForgetHost {
    /// The host's name.
    #[cfg_attr(test, schemars(with = "HostName"))]
    pub host: String,
    /// Whether more than five members may end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub yes: bool,
    /// Whether it is forgotten although the lease of its agent lives.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// What a host that was forgotten took with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ForgottenHost {
    /// How many members it had.
    pub members_ended: u64,
}

/// Asks that a host is emptied, or that this is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DrainHost {
    /// The host's name.
    #[cfg_attr(test, schemars(with = "HostName"))]
    pub host: String,
    /// How long to wait until its containers have left, in seconds; 60 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_seconds: Option<u64>,
    /// Whether the host takes members again, and its members get their names back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
}

/// What is left on a host that is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DrainedHost {
    /// How many members it has.
    pub members_left: u64,
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
