//! What an etcd store is told, and its times.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

/// What an etcd store is told.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The URLs of the cluster's members, `http://HOST:PORT` or `https://HOST:PORT`; at least one.
    pub endpoints: Vec<String>,
    /// Whom to trust, and who to be, where a URL is `https`.
    pub tls: Option<EtcdTls>,
    pub(super) timing: Timing,
}

/// Whom to trust, and who to be.
#[derive(Clone)]
pub struct EtcdTls {
    /// The certificates that sign those of the members, in PEM.
    pub ca_pem: Vec<u8>,
    /// This host's own certificate and its private key, in PEM, where the cluster asks for one.
    pub identity_pem: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// One answer of one member. etcd itself gives up after 7 s.
    pub(super) call: Duration,
    /// All attempts of one call; the last one may end later. Outlasts the election of a leader.
    pub(super) patience: Duration,
    /// Between two attempts, on average.
    pub(super) retry: Duration,
    /// How often a watch that hears nothing asks whether anybody is there. etcd refuses to be asked more often than
    /// every 5 s.
    pub(super) probe: Duration,
    /// How long a watch may hear nothing, not even an answer to that.
    pub(super) silence: Duration,
    /// How long a watch that broke may try to go on before it says so.
    pub(super) bridge: Duration,
}

impl EtcdOptions {
    /// Options for these members, without TLS.
    #[must_use]
    pub const fn new(endpoints: Vec<String>) -> Self {
        Self { endpoints, tls: None, timing: Timing::DEFAULT }
    }
}

impl Timing {
    pub(super) const DEFAULT: Self = Self {
        call: Duration::from_secs(5),
        patience: Duration::from_secs(4),
        retry: Duration::from_millis(300),
        probe: Duration::from_secs(8),
        silence: Duration::from_secs(20),
        bridge: Duration::from_secs(10),
    };
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls").field("has_identity", &self.identity_pem.is_some()).finish_non_exhaustive()
    }
}
