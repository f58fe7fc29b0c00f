//! A real etcd, and what only a cluster can do to a store: restart, pause, forget, expire.

mod members;
mod outages;
mod server;
mod tls;
mod unanswered;
mod volume;
mod watches;

use std::time::Duration;

pub(in crate::store) use self::server::Server;
use super::options::Timing;
use super::{Etcd, EtcdOptions};
use crate::store::{Event, Key, Prefix, Revision, Store as _, Transaction, Watch};

/// A store at these members that outlasts whatever a busy machine makes of a restart or an election.
pub(in crate::store) fn etcd_at(urls: &[&str]) -> Etcd {
    Etcd::new(&options_for(urls)).expect("options")
}

/// A store at these members that gives up as soon as a test wants to see it.
fn impatient_etcd_at(urls: &[&str]) -> Etcd {
    let mut options = options_for(urls);
    options.timing.patience = Duration::from_secs(4);
    options.timing.bridge = Duration::from_secs(4);
    Etcd::new(&options).expect("options")
}

fn options_for(urls: &[&str]) -> EtcdOptions {
    let mut options = EtcdOptions::new(urls.iter().map(ToString::to_string).collect());
    options.timing = Timing {
        call: Duration::from_secs(5),
        patience: Duration::from_secs(20),
        retry: Duration::from_millis(100),
        probe: Duration::from_secs(1),
        silence: Duration::from_secs(4),
        bridge: Duration::from_secs(60),
    };
    options
}

/// A server, and a store at it.
async fn served() -> (Server, Etcd) {
    served_with(etcd_at).await
}

/// A server, and a store at it that `open` makes.
async fn served_with(open: fn(&[&str]) -> Etcd) -> (Server, Etcd) {
    let server = Server::start();
    let store = open(&[server.url()]);
    server.wait_until_ready(&store).await;
    (server, store)
}

async fn put(store: &Etcd, name: &str) -> Revision {
    store.commit(Transaction::new().put(key(name), [0])).await.expect("committed")
}

/// The next event, within what a watch may take to notice and to try again, and some more on a busy machine.
async fn next(watch: &mut Watch) -> Event {
    let event = tokio::time::timeout(Duration::from_secs(90), watch.next()).await;
    event.expect("an event within 90 seconds").expect("an event before the end")
}

fn put_of(name: &str, revision: Revision) -> Event {
    Event::Put { key: key(name), value: [0].into(), revision }
}

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}
