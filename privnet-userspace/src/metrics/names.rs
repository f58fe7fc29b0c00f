//! What the DNS process counted.

use super::count;
use super::text::{Family, Labels};
use crate::agent::views::NamesView;

/// The families of a host that answers names.
pub fn families(names: &NamesView) -> Vec<Family> {
    let counted = &names.counted;
    let mut queries =
        Family::counter("dns_queries_total", "Queries of containers that were answered, by what they were told.");
    for replies in counted.replies.iter().filter(|replies| replies.count > 0) {
        let labels = vec![("transport", replies.transport.to_string()), ("rcode", replies.rcode.to_string())];
        queries.add(labels, replies.count);
    }
    let mut forwarded = Family::counter("dns_forwarded_total", "Queries for names of others, by what became of them.");
    for (result, count) in
        [("answered", counted.forwarded), ("unanswered", counted.unanswered), ("over_budget", counted.over_budget)]
    {
        forwarded.add(vec![("result", result.to_owned())], count);
    }
    let total = |name, help, value| {
        let mut family = Family::counter(name, help);
        family.add(Labels::new(), value);
        family
    };
    let mut families = vec![
        Family::single("dns_containers", "Containers that can ask for names.", count(names.containers)),
        Family::single("dns_members", "Members whose names are known.", count(names.members)),
        Family::single(
            "dns_zone_stale",
            "1 when the names are too old to be answered from, else 0.",
            u64::from(names.is_stale),
        ),
        queries,
        forwarded,
        total("dns_silent_total", "Packets that were no queries and met with silence.", counted.silence),
        total("dns_truncated_total", "Replies by UDP that left something out.", counted.truncated),
        total("dns_stale_total", "Queries that were not answered because the names were too old.", counted.stale),
        total("dns_send_failures_total", "Replies that could not be sent.", counted.send_failures),
        total(
            "dns_connections_refused_total",
            "Connections that were refused because there were too many.",
            counted.connections_refused,
        ),
    ];
    if let Some(seconds) = names.age_seconds {
        let help = "How long ago the names were last known to be current.";
        families.push(Family::single("dns_zone_age_seconds", help, seconds));
    }
    families
}
