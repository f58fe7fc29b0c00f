//! The protocol of a WireGuard process: what the agent and the process say to each other. Values; decides nothing.
//!
//! The private key precedes the first message: it is in no argument, no environment and no message. An agent whose state
//! directory was lost, and with it the file of the key, is given it through a pipe.

use std::ffi::CStr;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::offload::Offloads;
use super::{DeviceState, PeerChange};
use crate::companion::{Liveness, Protocol, Upgrade};
use crate::model::PublicKey;
use crate::model::keys::KEY_LENGTH_BYTES;

/// The process of one userspace device as a companion.
#[derive(Debug)]
pub enum WireGuard {}

impl Protocol for WireGuard {
    const NAME: &'static str = "the WireGuard process";
    const COMMAND: &'static str = "wireguard-process";
    const COMM: &'static CStr = c"privnet-wg";
    const VERSION: u32 = 1;
    /// 10,000 peers take 3 MB.
    const MAX_MESSAGE_OCTETS: usize = 8 << 20;
    const SECRET_OCTETS: usize = KEY_LENGTH_BYTES;
    /// The sessions with the peers are in the process's memory and cannot be handed over, so a process in its place would have
    /// to make each handshake anew.
    const UPGRADE: Upgrade = Upgrade::KeepRunning;
    type Start = Start;
    type Request = Request;
    type Response = Response;
}

/// What the process is started with, after the private key. Descriptors: the TUN link, the UDP socket, and the container's
/// process if that is watched.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    pub(super) interface: String,
    pub(super) mtu: u16,
    pub(super) liveness: Liveness,
    /// The public half of the private key that precedes this message.
    pub(super) public_key: PublicKey,
    /// Those that the TUN link was made with.
    pub(super) offloads: Offloads,
}

/// What the agent may ask. To end the process it sends SIGTERM.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The device's state.
    Observe,
    /// Add, correct and remove peers.
    ChangePeers(PeerChange),
    /// Begin a session with each of these peers that is there and has none. A process of a build before this one refuses it.
    BeginSessions(Vec<PublicKey>),
    /// Pass a pipe from which the private key can be read. A process of a build before this one refuses it.
    PassKey,
}

/// What the process answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Observe`].
    Device(DeviceState),
    /// The peers are as they should be, what is to be begun is begun, or the key is in the pipe that comes with this.
    Changed,
    /// A peer that stays holds a wanted address; no peer was changed.
    AddressTaken {
        /// The address.
        address: Ipv4Addr,
        /// The peer that has it.
        holder: PublicKey,
        /// The peer that should have had it.
        wanted: PublicKey,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::companion;

    /// Processes of builds before this one read these bytes.
    #[test]
    fn the_messages_are_those_of_the_builds_before() {
        for (request, text) in [
            (Request::Observe, r#""observe""#),
            (Request::ChangePeers(PeerChange::default()), r#"{"change_peers":{"set":[],"remove":[]}}"#),
            (Request::BeginSessions(Vec::new()), r#"{"begin_sessions":[]}"#),
            (Request::PassKey, r#""pass_key""#),
        ] {
            let line = serde_json::to_string(&companion::Request { version: WireGuard::VERSION, request });
            let line = line.expect("serializable");
            assert_eq!(line, format!(r#"{{"version":1,"request":{text}}}"#));
            assert!(serde_json::from_str::<companion::Request<Request>>(&line).is_ok());
        }
        let reveal = r#"{"version":1,"request":"reveal_key"}"#;
        assert!(serde_json::from_str::<companion::Request<Request>>(reveal).is_err());
        let future = r#"{"version":2,"request":{"observe":{"since":7}}}"#;
        let understood: companion::Request<serde::de::IgnoredAny> = serde_json::from_str(future).expect("its version");
        assert_eq!(understood.version, 2);
    }
}
