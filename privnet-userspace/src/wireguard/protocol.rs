//! What the agent and a WireGuard process say to each other. Values; decides nothing.
//!
//! At birth, over the process's standard input: one [`Birth`] with its open files, answered by one [`Born`]. Later, over
//! the control socket: one line of JSON each way per connection, [`Request`] and [`Response`]. The private key is in the
//! first message alone: in no argument, no environment, no file, and nothing can ask for it.

use serde::{Deserialize, Serialize};

use super::{DeviceState, PeerChange};
use crate::companion::Anchor;
use crate::model::PublicKey;

/// Raised when a message changes; an agent and a process of different versions do not talk.
pub(super) const VERSION: u32 = 1;
/// Longest message in bytes: 10,000 peers take 3 MB.
pub(super) const MAX_MESSAGE_BYTES: u64 = 8 << 20;

/// The first message, after the 32 bytes of the private key. The files come with it: TUN, UDP socket, and the process
/// file descriptor if the anchor is a process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Birth {
    pub(super) version: u32,
    pub(super) interface: String,
    pub(super) mtu: u16,
    pub(super) anchor: Anchor,
}

/// The answer to [`Birth`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Born {
    /// The device forwards.
    Ready { public_key: PublicKey },
    /// The process ends.
    Failed { problem: String },
}

/// A line to the control socket. Of a request of another version nothing but this is understood.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request<T = Ask> {
    pub(super) version: u32,
    pub(super) request: T,
}

/// What the agent may ask. To end the process it sends SIGTERM.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    Observe,
    ChangePeers(PeerChange),
}

/// A line from the control socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Response {
    Device(DeviceState),
    Changed,
    AddressTaken { address: std::net::Ipv4Addr, holder: PublicKey, wanted: PublicKey },
    Refused { problem: String },
    OtherVersion { version: u32 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line_and_reads_back() {
        let request = Request { version: VERSION, request: Ask::ChangePeers(PeerChange::default()) };
        let line = serde_json::to_string(&request).expect("serializable");
        assert_eq!(line, r#"{"version":1,"request":{"change_peers":{"set":[],"remove":[]}}}"#);
        assert!(serde_json::from_str::<Request>(&line).is_ok());
        assert!(serde_json::from_str::<Request>(r#"{"version":1,"request":"reveal_key"}"#).is_err());
        let future = r#"{"version":2,"request":{"observe":{"since":7}}}"#;
        let understood: Request<serde::de::IgnoredAny> = serde_json::from_str(future).expect("its version is readable");
        assert_eq!(understood.version, 2);
    }
}
