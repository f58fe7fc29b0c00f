//! The hosts of the store as this one sees them: which are there, and since when another is not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::door::error::{ControlError, ErrorCode};
use super::world::{SharedWorld, World};
use crate::model::HostName;

/// How often the hosts are looked at where nothing changes: a host may go by the time that passes alone.
const LOOK: Duration = Duration::from_secs(1);
/// How long changes are gathered before the hosts are looked at.
const GATHER: Duration = Duration::from_millis(100);

/// Since when hosts are not heard, in seconds since 1970-01-01 UTC.
#[derive(Debug, Default)]
pub struct GoneHosts(Mutex<BTreeMap<HostName, u64>>);

impl GoneHosts {
    /// Since when a host is not heard: when this agent saw its lease end, or found it gone; nothing while it is there.
    #[must_use]
    pub fn since(&self, host: &HostName) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied()
    }

    /// Notes which hosts are there, and returns what a person is to be told: nothing of those of the first look.
    fn note(&self, known: Option<&Look>, now: &Look, unix_seconds: u64) -> Vec<String> {
        let mut gone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gone.retain(|host, _| now.get(host).is_some_and(|host| !host.is_there));
        let mut said = Vec::new();
        for (name, SeenHost { is_there, at }) in now {
            let before = known.map(|known| known.get(name).map(|host| host.is_there));
            match (before, is_there) {
                (Some(None), true) => said.push(format!("host {name} came, at {at}")),
                (Some(Some(false)), true) => said.push(format!("host {name} is heard again, at {at}")),
                (Some(Some(true)), false) => {
                    said.push(format!("host {name} is not heard any more: its members are unreachable by name"));
                }
                (_, true | false) => {}
            }
            if !is_there {
                gone.entry(name.clone()).or_insert(unix_seconds);
            }
        }
        let left = known.into_iter().flat_map(Look::keys).filter(|host| !now.contains_key(*host));
        said.extend(left.map(|host| format!("host {host} is not in the store any more")));
        said
    }
}

/// The hosts at one time.
type Look = BTreeMap<HostName, SeenHost>;

/// One host at one time.
struct SeenHost {
    is_there: bool,
    at: std::net::Ipv4Addr,
}

fn look(world: &World) -> Look {
    let seen =
        |host: &crate::store::records::HostRecord| SeenHost { is_there: !world.is_gone(&host.name), at: host.vtep };
    world.hosts().map(|host| (host.name.clone(), seen(host))).collect()
}

/// Follows which hosts are there, and logs each that comes or goes. Never ends.
pub async fn follow_hosts(gone: Arc<GoneHosts>, world: Arc<SharedWorld>) {
    let mut changes = world.changes();
    let mut known = None;
    loop {
        changes.borrow_and_update();
        let now = world.read(look);
        for line in gone.note(known.as_ref(), &now, super::now_unix_seconds()) {
            tracing::info!("{line}");
        }
        known = Some(now);
        // The image lives as long as the agent; the time alone may end a host as well.
        let _ = tokio::time::timeout(LOOK, changes.changed()).await;
        tokio::time::sleep(GATHER).await;
    }
}

/// Refuses an attach on a host that an operator empties.
///
/// # Errors
/// That.
pub fn refuse_drained(world: &World, host: &HostName) -> Result<(), ControlError> {
    if !world.is_draining(host) {
        return Ok(());
    }
    Err(ControlError::new(
        ErrorCode::HostDraining,
        format!("host {host} is drained: nothing is attached here"),
        format!("attach it on another host; `privnet host drain {host} --cancel` takes members again"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(all: &[(&str, bool)]) -> Look {
        let host = |(name, is_there): &(&str, bool)| {
            (name.parse().expect("a name"), SeenHost { is_there: *is_there, at: [192, 0, 2, 1].into() })
        };
        all.iter().map(host).collect()
    }

    #[test]
    fn each_host_that_comes_or_goes_is_said_once_and_how_long_one_is_gone_is_known() {
        let gone = GoneHosts::default();
        let (h1, h2): (HostName, HostName) = ("h1".parse().expect("a name"), "h2".parse().expect("a name"));
        let looks = [
            hosts(&[("h1", true), ("h2", false)]),
            hosts(&[("h1", false), ("h2", false)]),
            hosts(&[("h1", false), ("h2", true)]),
            hosts(&[("h2", true), ("h3", true)]),
        ];
        let mut said = vec![gone.note(None, &looks[0], 100)];
        assert_eq!((gone.since(&h1), gone.since(&h2)), (None, Some(100)), "found so");
        for (pair, now) in looks.windows(2).zip([200, 300, 400]) {
            said.push(gone.note(Some(&pair[0]), &pair[1], now));
        }
        assert_eq!(
            said,
            [
                vec![],
                vec!["host h1 is not heard any more: its members are unreachable by name"],
                vec!["host h2 is heard again, at 192.0.2.1"],
                vec!["host h3 came, at 192.0.2.1", "host h1 is not in the store any more"],
            ]
        );
        assert_eq!((gone.since(&h1), gone.since(&h2)), (None, None));
        assert_eq!(gone.note(Some(&looks[3]), &looks[3], 500), Vec::<String>::new());
    }
}
