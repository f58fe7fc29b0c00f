//! Two hosts with a member each, a stream between the members, and the etcd that the agents share.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use privnet::agent::views::NetworkView;
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{Etcd, Host, Joined, Lab, say, wait_until, wait_within};

const SUBNET: &str = "10.92.0.0/24";
pub const PORT: u16 = 7000;
pub const PACE: Duration = Duration::from_millis(2);
pub const LATER: Duration = Duration::from_secs(90);
/// What is not put back byte for byte: what is held under a lease is written anew, a fence only moves, and a rebuild gives the
/// fleet another epoch.
const PASSING: [&str; 4] = ["presences/", "vteps/", "fences/", "fleet/"];

/// Two hosts with a member each, and the etcd that they share.
pub struct Cluster {
    // In the order in which they go: the stream needs its members.
    stream: RefCell<Option<Stream>>,
    _server: Server,
    pub web: Joined,
    pub backend: Joined,
    pub network: NetworkView,
    pub hosts: [Host; 2],
    pub etcd: Etcd,
}

impl Cluster {
    /// Makes the members, and lets the stream flow.
    #[track_caller]
    pub fn of(lab: &Lab, hosts: [Host; 2], etcd: Etcd) -> Self {
        let [one, two] = &hosts;
        let network = one.network("shop", SUBNET);
        let web = lab.member(one, &network, "web-1");
        let backend = lab.member(two, &network, "backend-1");
        let server = Server::echo(&backend.app, PORT);
        wait_until("web reaches backend", || web.pings(backend.address()));
        let stream = Stream::start(&web.app, (backend.address(), PORT), PACE);
        let cluster = Self { stream: RefCell::new(Some(stream)), _server: server, web, backend, network, hosts, etcd };
        cluster.wait_until_settled();
        cluster
    }

    #[track_caller]
    pub fn wait_until_settled(&self) {
        self.wait_until_settled_with(1);
    }

    /// Waits until each agent has no problem, and so many members that are ready.
    #[track_caller]
    pub fn wait_until_settled_with(&self, members: usize) {
        for host in &self.hosts {
            wait_within(format!("{} has settled: {:?}", host.name, host.status()), LATER, || {
                host.status().is_ok_and(|status| status.problems.is_empty() && status.members_ready == members)
            });
        }
    }

    /// As [`records_of`] its store.
    #[must_use]
    pub fn records(&self) -> BTreeMap<String, String> {
        records_of(&self.etcd)
    }

    /// As [`ready_records_of`] its store.
    #[track_caller]
    pub fn ready_records(&self) -> BTreeMap<String, String> {
        ready_records_of(&self.etcd)
    }

    /// Waits until the store has these records again, and says how long that took.
    #[track_caller]
    pub fn wait_until_back(&self, records: &BTreeMap<String, String>, what: &str) -> Duration {
        let start = Instant::now();
        wait_until(format!("{what} is back"), || self.records() == *records);
        let took = start.elapsed();
        say(&format!("{what}: back after {} ms", took.as_millis()));
        took
    }

    #[track_caller]
    pub fn flows(&self) {
        self.stream.borrow().as_ref().expect("it runs").flows();
    }

    /// Ends the stream, of which no datagram was lost.
    #[track_caller]
    pub fn end_stream(&self) {
        self.stream.borrow_mut().take().expect("it runs").finish_whole();
    }
}

/// Without what passes. A host tells anew how far it has come: of its record the key is compared.
#[must_use]
pub fn records_of(etcd: &Etcd) -> BTreeMap<String, String> {
    let text = |key: &str, text: String| if key.starts_with("hosts/") { String::new() } else { text };
    etcd.records(&PASSING).into_iter().map(|(key, value)| (key.clone(), text(&key, value))).collect()
}

/// The records that are put back byte for byte, once each member's says that it is ready.
#[track_caller]
pub fn ready_records_of(etcd: &Etcd) -> BTreeMap<String, String> {
    let mut records = BTreeMap::new();
    wait_until("each member is ready in the store", || {
        records = records_of(etcd);
        !records.values().any(|record| record.contains(r#""attaching""#))
    });
    records
}
