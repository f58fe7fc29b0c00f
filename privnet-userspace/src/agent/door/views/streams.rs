//! A connection from a process of the host into a network.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

#[cfg(test)]
use super::schemas;
use super::within;

/// Asks for a TCP connection to a container of a network. The bytes follow in frames, when the answer is 101: a length of
/// four bytes, big-endian, and as many bytes, at most 65536. The length 0 says that no more bytes come from this side; the
/// length 4294967295, from the agent, that the stream has failed, and an error as JSON follows. The agent closes the
/// connection when both sides have sent all, and ends the stream when the caller closes it before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OpenStream {
    /// The network's id or name.
    #[cfg_attr(test, schemars(with = "schemas::NetworkIdOrName"))]
    pub network: String,
    /// The container: its address, or a name, full or short, as a container of the network asks for it.
    pub host: String,
    /// The TCP port.
    pub port: NonZeroU16,
    /// The app that the stream's member is of, whose types are names by themselves; `privnet` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<schemas::AppIdOrName>"))]
    pub app: Option<String>,
    /// How long the container may take to accept, in seconds; 15 when absent.
    #[serde(default, deserialize_with = "within::<_, 1, 60>", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 60)))]
    pub timeout_seconds: Option<u32>,
}
