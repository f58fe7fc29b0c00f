//! Counters and status as Prometheus text.
//!
//! Pure: it is handed values and gives back text. Names follow the Prometheus rules (prefix, base units, `_total`),
//! and `promtool check metrics` agrees. The text is of format 0.0.4, which every Prometheus reads: the OpenMetrics that
//! prometheus-client writes of its own accord names a counter without its `_total` in the `# TYPE` line, and promtool
//! refuses that. So the names here are whole, and counters are written through the gauge encoder.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

mod names;

use crate::agent::views::{CounterRow, NetworkCounters, StatusView, TunnelView};

/// The prefix of every name.
const PREFIX: &str = "privnet";

/// Writes one scrape: `Content-Type: text/plain; version=0.0.4`.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn render(status: &StatusView, counters: &[NetworkCounters], tunnels: &[TunnelView]) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Scrape { families: families(status, counters, tunnels) }));
    let mut text = String::new();
    text::encode_registry(&mut text, &registry)?;
    Ok(text)
}

/// Label names and values, in the order they are written.
type Labels = Vec<(&'static str, String)>;

/// One metric with all its samples. Samples with the same labels are added up: a scrape with duplicates is refused whole.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: BTreeMap<Labels, u64>,
}

impl Family {
    fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::Counter, samples: BTreeMap::new() }
    }

    fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::Gauge, samples: BTreeMap::new() }
    }

    fn single(name: &'static str, help: &'static str, value: u64) -> Self {
        let mut family = Self::gauge(name, help);
        family.add(Labels::new(), value);
        family
    }

    fn add(&mut self, labels: Labels, value: u64) {
        let sum = self.samples.entry(labels).or_default();
        *sum = sum.saturating_add(value);
    }
}

/// The values of one scrape.
#[derive(Debug)]
struct Scrape {
    families: Vec<Family>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A family without samples would be a TYPE line with nothing behind it.
        for family in self.families.iter().filter(|family| !family.samples.is_empty()) {
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, family.kind)?;
            for (labels, value) in &family.samples {
                if labels.is_empty() {
                    metric.encode_gauge(value)?;
                } else {
                    metric.encode_family(labels)?.encode_gauge(value)?;
                }
            }
        }
        Ok(())
    }
}

fn families(status: &StatusView, counters: &[NetworkCounters], tunnels: &[TunnelView]) -> Vec<Family> {
    let mut families = status_families(status);
    families.extend(status.names.iter().flat_map(names::families));
    families.extend(packet_families(counters));
    families.extend(tunnel_families(tunnels));
    families
}

fn status_families(status: &StatusView) -> Vec<Family> {
    let mut build = Family::gauge("build_info", "What the agent is and what it runs on, in its labels.");
    build.add(
        vec![
            ("version", status.version.clone()),
            ("datapath", status.datapath.clone()),
            ("wireguard", status.wireguard.clone()),
            ("store", status.store.clone()),
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
    if let Some(seconds) = status.last_pass_unix_seconds {
        let help = "When the last complete pass of the agent ended, in seconds since 1970.";
        families.push(Family::single("last_pass_timestamp_seconds", help, seconds));
    }
    families
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
            let (packets, bytes) = if row.dropped {
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
        ("direction", row.direction.clone()),
        ("reason", row.reason.clone()),
    ]
}

fn tunnel_families(tunnels: &[TunnelView]) -> [Family; 3] {
    let mut peers = Family::gauge("wireguard_peers", "WireGuard peers of a member.");
    let mut received =
        Family::counter("wireguard_received_bytes_total", "Encrypted bytes a member received from all its peers.");
    let mut sent = Family::counter("wireguard_sent_bytes_total", "Encrypted bytes a member sent to all its peers.");
    for tunnel in tunnels {
        let labels = vec![
            ("network", tunnel.network.to_string()),
            ("network_name", tunnel.network_name.to_string()),
            ("member", tunnel.member.clone()),
        ];
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
