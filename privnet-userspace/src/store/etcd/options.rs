//! The options of an etcd store, and its timeouts.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

/// The options of an etcd store.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The URLs of the cluster's members, `http://HOST:PORT` or `https://HOST:PORT`; at least one.
    pub endpoints: Vec<String>,
    /// The certificates for the URLs that are `https`.
    pub tls: Option<EtcdTls>,
    /// The user as which etcd is asked, where the cluster asks for a password.
    pub login: Option<EtcdLogin>,
    pub(super) timing: Timing,
}

/// The certificates of a connection by TLS.
#[derive(Clone)]
pub struct EtcdTls {
    /// The certificates that sign those of the members, in PEM.
    pub ca_pem: Vec<u8>,
    /// This host's own certificate and its private key, in PEM, where the cluster asks for one.
    pub identity_pem: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

/// A user of the cluster, and where its password is: it is read whenever etcd asks for it, so that it can be changed.
#[derive(Clone, Debug)]
pub struct EtcdLogin {
    /// The user.
    pub user: String,
    /// The file with the password; space at its end is none of it.
    pub password_file: PathBuf,
}

/// The timeouts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// For the next answer of a stream, and for a connection. etcd itself gives up after 7 s.
    pub(super) call: Duration,
    /// For all attempts of a call together. A request of a user ends within 2 s, with an answer or without.
    pub(super) patience: Duration,
    /// Between two attempts, on average.
    pub(super) retry: Duration,
    /// The time after which a silent watch asks etcd for its progress. etcd refuses that more often than every 5 s.
    pub(super) probe: Duration,
    /// How long a watch may be silent, an answer to that included.
    pub(super) silence: Duration,
    /// How long a watch that broke may try to go on before it says so.
    pub(super) bridge: Duration,
}

impl EtcdOptions {
    /// Options for these members, without TLS.
    #[must_use]
    pub const fn new(endpoints: Vec<String>) -> Self {
        Self { endpoints, tls: None, login: None, timing: Timing::DEFAULT }
    }
}

impl Timing {
    pub(super) const DEFAULT: Self = Self {
        call: Duration::from_millis(1800),
        patience: Duration::from_millis(1800),
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
