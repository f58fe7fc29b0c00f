//! The resolvers that other people's names are asked of: which there are, and which of them answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::PORT;

/// How many resolvers are used, as libc does (resolv.conf(5), MAXNS).
const MOST_SERVERS: usize = 3;
/// How often the host's file is looked at, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// After how many failures in a row a resolver is left alone.
const FAILURES: u32 = 2;
/// For how long; then one query tries it again.
const PAUSE: Duration = Duration::from_secs(5);
/// How many resolvers are remembered; networks may name their own.
const MOST_REMEMBERED: usize = 1024;

/// The host's own resolvers, from its `resolv.conf`, which is read again when it changes.
#[derive(Debug)]
pub struct HostResolvers {
    path: PathBuf,
    servers: Vec<SocketAddr>,
    modified: Option<SystemTime>,
    looked: Option<Instant>,
}

impl HostResolvers {
    /// Those that `path` names.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path, servers: Vec::new(), modified: None, looked: None }
    }

    /// The resolvers, at most three. A file that cannot be read names none.
    pub fn servers(&mut self, now: Instant) -> &[SocketAddr] {
        if self.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK_INTERVAL) {
            self.looked = Some(now);
            let modified = modified(&self.path);
            if modified.is_none() || modified != self.modified {
                self.modified = modified;
                self.servers =
                    std::fs::read_to_string(&self.path).map_or_else(|_| Vec::new(), |text| servers_of(&text));
            }
        }
        &self.servers
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

/// The name servers of a `resolv.conf`, at most three.
#[must_use]
pub fn servers_of(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    });
    servers.map(|address| SocketAddr::new(address, PORT)).take(MOST_SERVERS).collect()
}

/// Which resolvers answer.
#[derive(Debug, Default)]
pub struct Health {
    failing: BTreeMap<SocketAddr, Failing>,
}

#[derive(Debug)]
struct Failing {
    failures: u32,
    retry_at: Instant,
}

impl Health {
    /// Those of `servers` to ask, in their order. One that is failing is left out; when its pause is over it is asked
    /// again, by one query, after those that answer.
    pub fn choose(&mut self, servers: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
        let mut chosen = Vec::new();
        let mut tried_again = Vec::new();
        for server in servers.iter().take(MOST_SERVERS) {
            match self.failing.get_mut(server) {
                Some(failing) if failing.failures >= FAILURES && now < failing.retry_at => {}
                Some(failing) if failing.failures >= FAILURES => {
                    failing.retry_at = now + PAUSE;
                    tried_again.push(*server);
                }
                Some(_) | None => chosen.push(*server),
            }
        }
        chosen.extend(tried_again);
        chosen
    }

    /// Notes that a resolver answered, whatever it said.
    pub fn answered(&mut self, server: SocketAddr) {
        self.failing.remove(&server);
    }

    /// Notes that a resolver did not answer in time, or cannot be reached.
    pub fn failed(&mut self, server: SocketAddr, now: Instant) {
        if self.failing.len() >= MOST_REMEMBERED {
            self.failing.retain(|_, failing| now < failing.retry_at);
        }
        let failing = self.failing.entry(server).or_insert(Failing { failures: 0, retry_at: now });
        failing.failures = failing.failures.saturating_add(1);
        failing.retry_at = now + PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_is_read_as_libc_reads_it() {
        let text = "# nameserver 192.0.2.9\nsearch x\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 \nnameserver\n\
                    nameserver nonsense\nnameserver 127.0.0.53 # stub\nnameserver 192.0.2.4\noptions ndots:1\n";
        let expected = ["192.0.2.1:53", "[2001:db8::1]:53", "127.0.0.53:53"];
        assert_eq!(servers_of(text), expected.map(|server| server.parse::<SocketAddr>().expect("an address")));
    }

    #[test]
    fn a_change_of_the_hosts_file_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("resolv.conf");
        let mut resolvers = HostResolvers::new(path.clone());
        let start = Instant::now();
        assert_eq!(resolvers.servers(start), []);
        std::fs::write(&path, "nameserver 192.0.2.1\n").expect("written");
        assert_eq!(resolvers.servers(start + Duration::from_secs(1)), [], "not looked at yet");
        assert_eq!(resolvers.servers(start + LOOK_INTERVAL).len(), 1);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(resolvers.servers(start + 2 * LOOK_INTERVAL), []);
    }

    #[test]
    fn a_dead_resolver_is_left_alone_and_tried_again_by_one_query() {
        let servers: [SocketAddr; 2] = ["192.0.2.1:53", "192.0.2.2:53"].map(|text| text.parse().expect("an address"));
        let [dead, alive] = servers;
        let mut health = Health::default();
        let start = Instant::now();
        assert_eq!(health.choose(&servers, start), servers);
        health.failed(dead, start);
        assert_eq!(health.choose(&servers, start), servers, "once is nothing");
        health.failed(dead, start);
        assert_eq!(health.choose(&servers, start), [alive]);
        assert_eq!(health.choose(&[dead], start), [], "none is left: the client hears it at once");
        let later = start + PAUSE;
        assert_eq!(health.choose(&servers, later), [alive, dead]);
        assert_eq!(health.choose(&servers, later), [alive], "one query tries it");
        health.answered(dead);
        assert_eq!(health.choose(&servers, later), servers);
    }
}
