//! What `privnet hosts` shows on each host, of each.

use std::time::{SystemTime, UNIX_EPOCH};

use privnet::agent::views::{HostState, HostView};
use privnet_tests::lab::{say, underlay_address, wait_until};

use super::{ALL, Fleet, HOSTS, Membership, number_of};

/// The time, in seconds since 1970-01-01 UTC.
pub fn now_unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs()
}

impl Fleet {
    /// Asserts that each host shows all hosts as they are, once each has told how far it is.
    pub(super) fn hosts_are_shown(&self) {
        let shown = |number: usize| -> Vec<HostView> { self.hosts[number].cli().json(&["hosts"]).expect("the hosts") };
        for number in 0..HOSTS {
            wait_until(format!("h{} knows how far all are: {:?}", number + 1, shown(number)), || {
                shown(number).iter().all(|host| host.applied_revision.is_some())
            });
            let views = shown(number);
            let known: Vec<_> = views.iter().map(|host| (host.name.to_string(), host.vtep, host.members)).collect();
            let expected = (0..HOSTS).map(|host| {
                let of_host = (0..ALL).filter(|container| number_of(*container) == number_of(host));
                let members = of_host.filter(|it| matches!(self.memberships[*it], Membership::Member(_))).count();
                (format!("h{}", number_of(host)), underlay_address(number_of(host)), members)
            });
            assert_eq!(known, expected.collect::<Vec<_>>());
            let own = views[number].applied_revision.expect("it is known");
            for (host, view) in views.iter().enumerate() {
                assert_eq!(view.state, HostState::Present, "{view:?}");
                assert_eq!(view.version, self.hosts[host].status().expect("status").version, "{view:?}");
                let applied = view.applied_revision.expect("it is known");
                assert!(applied > 0 && view.lag == Some(own.saturating_sub(applied)), "{own}: {view:?}");
                let since = view.lease_since_unix_seconds.expect("it holds its lease");
                assert!((self.begun_unix_seconds..=now_unix_seconds()).contains(&since), "{view:?}");
            }
            let text = self.hosts[number].cli().text(&["hosts"]);
            say(&text);
            let head: Vec<&str> = text.lines().next().expect("a head").split_whitespace().collect();
            let columns = ["NAME", "VTEP", "VERSION", "MEMBERS", "STATE", "LEASE", "AGE", "APPLIED", "LAG"];
            assert_eq!(head, columns);
            assert_eq!(text.lines().count(), 1 + HOSTS);
            for (line, view) in text.lines().skip(1).zip(&views) {
                let words: Vec<&str> = line.split_whitespace().collect();
                let first = [&*view.name.to_string(), &*view.vtep.to_string(), &*view.version];
                assert!(words.starts_with(&first) && line.contains("present") && !words.contains(&"-"), "{line}");
            }
        }
    }
}
