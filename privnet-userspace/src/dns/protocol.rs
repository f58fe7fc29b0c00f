//! The protocol of the DNS process: the messages between the agent and the process. Values without decisions.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::engine::Counted;
use crate::companion::{Identity, Liveness, Protocol, Upgrade};
use crate::names::{Difference, DnsClient, Forwarding};
use crate::netns::NetnsId;

/// The DNS process as a companion.
#[derive(Debug)]
pub enum Dns {}

impl Protocol for Dns {
    const NAME: &'static str = "the DNS process";
    const COMMAND: &'static str = "dns";
    const COMM: &'static std::ffi::CStr = c"privnet-dns";
    const VERSION: u32 = 1;
    /// 100,000 members take 20 MB.
    const MAX_MESSAGE_OCTETS: usize = 64 << 20;
    /// Both processes answer from the same sockets while the successor takes over, so no query is lost.
    const UPGRADE: Upgrade = Upgrade::HandOver;
    type Start = Start;
    type Request = Request;
    type Response = Response;
}

/// The parameters of the process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    pub(super) threads: usize,
    pub(super) max_age_seconds: u64,
    pub(super) resolv_conf: PathBuf,
}

/// A request of the agent. The agent ends the process by SIGTERM.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The process's state.
    Observe,
    /// Serve this container. Descriptors: its UDP socket, its TCP listener, its process if that is watched, and the sockets
    /// to ask its own servers by.
    Serve {
        /// The container's namespace.
        container: NetnsId,
        /// The container as a client of the DNS.
        #[serde(rename = "asker")]
        client: DnsClient,
        /// How the process notices the end of the container.
        #[serde(rename = "anchor")]
        liveness: Liveness,
    },
    /// Change the networks and servers of a container that is served. Descriptors: the sockets to ask its own servers by.
    Change {
        /// The container's namespace.
        container: NetnsId,
        /// The container as a client of the DNS.
        #[serde(rename = "asker")]
        client: DnsClient,
    },
    /// Serve this container no longer.
    Forget {
        /// The container's namespace.
        container: NetnsId,
    },
    /// The container's sockets, for a successor.
    Sockets {
        /// The container's namespace.
        container: NetnsId,
    },
    /// All names, or their changes. They are current then.
    Names {
        /// Whether `difference` replaces all names.
        everything: bool,
        /// The names.
        difference: Difference,
    },
    /// The names are current.
    Confirm,
    /// The answer that a container would get.
    Resolve {
        /// The container's namespace.
        container: NetnsId,
        /// The name that is asked for.
        name: String,
        /// The number of the type that is asked for (IANA).
        kind: u16,
    },
}

/// An answer of the process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Observe`].
    State(ProcessState),
    /// It is done.
    Done,
    /// The container is not served.
    NotServed,
    /// To [`Request::Sockets`], with the UDP socket and the TCP listener.
    Sockets,
    /// To [`Request::Resolve`].
    Resolved(Resolved),
}

/// The state of a DNS process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessState {
    /// Which process and build it is.
    #[serde(flatten)]
    pub identity: Identity,
    /// The containers that it serves.
    pub containers: Vec<ServedContainer>,
    /// How many networks it knows names of.
    pub networks: usize,
    /// How many members it knows names of.
    pub members: usize,
    /// How long ago its names were last known to be current, in seconds; `None` when it never had any.
    pub age_seconds: Option<f64>,
    /// Whether they are too old to be answered from.
    pub is_stale: bool,
    /// Its counters.
    pub counted: Counted,
}

/// A container that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedContainer {
    /// Its namespace.
    pub container: NetnsId,
    /// It as a client of the DNS.
    #[serde(rename = "asker")]
    pub client: DnsClient,
}

/// The answer that a container would get.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    /// The origin of the answer.
    pub source: Source,
    /// The code in lower case, `noerror` or `nxdomain`; `None` when a resolver is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rcode: Option<String>,
    /// The records, one line each: `<owner> <ttl> <type> <data>`.
    pub records: Vec<String>,
    /// How long ago the names were last known to be current, in seconds.
    pub age_seconds: Option<f64>,
    /// Whether they are too old to be answered from: the container gets SERVFAIL.
    pub is_stale: bool,
    /// The container's own servers, which are asked instead of the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<SocketAddr>,
}

/// The origin of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The names that the agent sent.
    Snapshot,
    /// The resolvers that are asked.
    Forwarded(Forwarding),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::companion;

    /// Processes of builds before this one read these bytes.
    #[test]
    fn the_messages_are_those_of_the_builds_before() {
        let container = NetnsId { dev: 4, ino: 7 };
        let client = DnsClient::default();
        for (request, text) in [
            (Request::Observe, r#""observe""#),
            (Request::Forget { container }, r#"{"forget":{"container":{"dev":4,"ino":7}}}"#),
            (
                Request::Serve { container, client: client.clone(), liveness: Liveness::Process },
                r#"{"serve":{"container":{"dev":4,"ino":7},"asker":{"networks":[],"server":null},"anchor":"process"}}"#,
            ),
            (
                Request::Change { container, client },
                r#"{"change":{"container":{"dev":4,"ino":7},"asker":{"networks":[],"server":null}}}"#,
            ),
        ] {
            let request = companion::Request { version: Dns::VERSION, request };
            let expected = format!(r#"{{"version":1,"request":{text}}}"#);
            assert_eq!(serde_json::to_string(&request).expect("serializable"), expected);
            assert!(serde_json::from_str::<companion::Request<Request>>(&expected).is_ok());
        }
        let future = r#"{"version":2,"request":{"dance":{"with":"me"}}}"#;
        assert!(serde_json::from_str::<companion::Request<Request>>(future).is_err());
        let understood: companion::Request<serde::de::IgnoredAny> = serde_json::from_str(future).expect("its version");
        assert_eq!(understood.version, 2);
    }
}
