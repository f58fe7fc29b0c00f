//! The agent's state.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::NamesView;
use crate::model::HostName;
use crate::store::StoreKind;
use crate::topology::Datapath;
use crate::wireguard::Backend;

/// The agent's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Status"))]
pub struct StatusView {
    /// Its version.
    pub version: String,
    /// The host's name.
    pub host: HostName,
    /// The VTEP's address on the underlay.
    pub vtep: Ipv4Addr,
    /// The MTU of the underlay, in bytes.
    pub underlay_mtu: u32,
    /// The datapath in use.
    pub datapath: Datapath,
    /// The WireGuard in use.
    pub wireguard: Backend,
    /// The store in use.
    pub store: StoreKind,
    /// How many networks have members on this host.
    pub networks: usize,
    /// How many members are on this host.
    pub members: usize,
    /// How many of them are ready.
    pub members_ready: usize,
    /// When the last complete pass ended, in seconds since 1970-01-01 UTC.
    pub last_pass_unix_seconds: Option<u64>,
    /// What the last pass could not do, one line each; empty when all is as it should be.
    pub problems: Vec<String>,
    /// How names are answered; nothing when they are not.
    #[serde(default)]
    pub names: Option<NamesView>,
    /// How often the host's clock was seen to step back.
    #[serde(default)]
    pub clock_steps: u64,
    /// How many hosts share the store.
    #[serde(default)]
    pub hosts: usize,
    /// Those of them that are not heard.
    #[serde(default)]
    pub hosts_unreachable: Vec<HostName>,
    /// How many members are on these.
    #[serde(default)]
    pub members_unreachable: usize,
    /// How old what is known of the store is, in seconds; absent while it is current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_age_seconds: Option<u64>,
}
