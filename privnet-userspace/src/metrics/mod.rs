//! Counters and status as Prometheus text, and the text read back.
//!
//! Pure: it is handed values and gives back text. Names follow the Prometheus rules (prefix, base units, `_total`),
//! and `promtool check metrics` agrees. `docs/metrics.md` describes every family and every label.
//!
//! | file | what it owns |
//! |---|---|
//! | `mod.rs` | the families of the agent, the datapath and WireGuard |
//! | `names.rs` | the families of the DNS process |
//! | [`text`] | the text format: writing |
//! | [`exposition`] | the text format: reading, for `privnet metrics -o json` |

pub mod exposition;
mod names;
mod text;

use crate::agent::views::{CounterRow, MemberProblems, NetworkCounters, Scrape, StatusView, TunnelView};
use crate::datapath::Outcome;
use crate::model::{NetworkId, NetworkName};
use text::{Family, Labels};

/// The value of `Content-Type` for what [`render`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes one scrape.
#[must_use]
pub fn render(scrape: &Scrape) -> String {
    text::write(&families(scrape))
}

fn families(scrape: &Scrape) -> Vec<Family> {
    let Scrape { status, counters, tunnels, problems, errors } = scrape;
    let mut families = status_families(status);
    families.push(member_problems(problems));
    families.extend(status.names.iter().flat_map(names::families));
    families.extend(packet_families(counters));
    families.extend(tunnel_families(tunnels));
    let help = "Reads for a scrape that failed, and whose samples are missing from it, by what was read.";
    let mut failed = Family::counter("scrape_errors_total", help);
    for (kind, count) in errors {
        failed.add(vec![("kind", kind.to_string())], *count);
    }
    families.push(failed);
    families
}

fn status_families(status: &StatusView) -> Vec<Family> {
    let mut build = Family::gauge("build_info", "What the agent is and what it runs on, in its labels.");
    build.add(
        vec![
            ("version", status.version.clone()),
            ("datapath", status.datapath.to_string()),
            ("wireguard", status.wireguard.to_string()),
            ("store", status.store.to_string()),
        ],
        1,
    );
    let mut members = Family::gauge("members", "Members on this host, by how far the agent has come with them.");
    members.add(vec![("state", "ready".to_owned())], count(status.members_ready));
    members.add(vec![("state", "attaching".to_owned())], count(status.members.saturating_sub(status.members_ready)));
    let mut families = vec![
        build,
        members,
        Family::single("networks", "Networks that have members on this host.", count(status.networks)),
        Family::single("problems", "What the last pass of the agent could not do.", count(status.problems.len())),
    ];
    let mut steps = Family::counter("clock_steps_total", "How often the clock of this host was seen to step back.");
    steps.add(Labels::new(), status.clock_steps);
    families.push(steps);
    let mut hosts = Family::gauge("hosts", "Hosts that share the store, by whether their agents are heard.");
    let unreachable = count(status.hosts_unreachable.len());
    hosts.add(vec![("state", "present".to_owned())], count(status.hosts).saturating_sub(unreachable));
    hosts.add(vec![("state", "unreachable".to_owned())], unreachable);
    families.push(hosts);
    let help = "Members of hosts whose agents are not heard: their names are withdrawn.";
    families.push(Family::single("members_unreachable", help, count(status.members_unreachable)));
    let help = "How old what is known of the store is; 0 while it is current.";
    families.push(Family::single("store_age_seconds", help, status.store_age_seconds.unwrap_or(0)));
    if let Some(seconds) = status.last_pass_unix_seconds {
        let help = "When the last complete pass of the agent ended, in seconds since 1970.";
        families.push(Family::single("last_pass_timestamp_seconds", help, seconds));
    }
    families
}

fn member_problems(members: &[MemberProblems]) -> Family {
    let mut problems = Family::gauge("member_problems", "What does not work for a member of this host.");
    for MemberProblems { network_name, network, member, count } in members {
        problems.add(member_labels(*network, network_name, member), *count);
    }
    problems
}

fn member_labels(network: NetworkId, name: &NetworkName, member: &str) -> Labels {
    vec![("network", network.to_string()), ("network_name", name.to_string()), ("member", member.to_owned())]
}

fn packet_families(counters: &[NetworkCounters]) -> [Family; 4] {
    let mut forwarded_packets =
        Family::counter("forwarded_packets_total", "Carrier packets that were forwarded or answered.");
    let mut forwarded_bytes = Family::counter(
        "forwarded_bytes_total",
        "Carrier bytes that were forwarded or answered, with Ethernet headers.",
    );
    let mut dropped_packets = Family::counter("dropped_packets_total", "Carrier packets that were dropped.");
    let mut dropped_bytes =
        Family::counter("dropped_bytes_total", "Carrier bytes that were dropped, with Ethernet headers.");
    for network in counters {
        for row in &network.rows {
            let (packets, bytes) = if matches!(row.outcome, Outcome::Dropped(_)) {
                (&mut dropped_packets, &mut dropped_bytes)
            } else {
                (&mut forwarded_packets, &mut forwarded_bytes)
            };
            packets.add(row_labels(network, row), row.packets);
            bytes.add(row_labels(network, row), row.bytes);
        }
    }
    [forwarded_packets, forwarded_bytes, dropped_packets, dropped_bytes]
}

fn row_labels(network: &NetworkCounters, row: &CounterRow) -> Labels {
    vec![
        ("network", network.network.to_string()),
        ("network_name", network.network_name.to_string()),
        ("member", row.member.clone()),
        ("direction", row.direction.name().to_owned()),
        ("reason", row.outcome.name().to_owned()),
    ]
}

fn tunnel_families(tunnels: &[TunnelView]) -> [Family; 3] {
    let mut peers = Family::gauge("wireguard_peers", "WireGuard peers of a member.");
    let mut received =
        Family::counter("wireguard_received_bytes_total", "Encrypted bytes a member received from all its peers.");
    let mut sent = Family::counter("wireguard_sent_bytes_total", "Encrypted bytes a member sent to all its peers.");
    for tunnel in tunnels {
        let labels = member_labels(tunnel.network, &tunnel.network_name, &tunnel.member);
        peers.add(labels.clone(), tunnel.peers);
        received.add(labels.clone(), tunnel.received_bytes);
        sent.add(labels, tunnel.sent_bytes);
    }
    [peers, received, sent]
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
