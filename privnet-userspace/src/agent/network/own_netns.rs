//! Namespaces of ours: made under their name, and kept from doing what a namespace does by default or a stranger asks of it.

use std::path::Path;

use anyhow::Result;

use crate::agent::netns_links::NetnsLinks;
use crate::netns::{self, Netns};

/// What a namespace of ours must not do: forward, speak IPv6. A new namespace takes these from the host's first one, where
/// Docker, for one, turns forwarding on. Nothing here relies on `rp_filter` or on how ARP is answered: the programs, or the
/// bridge's neighbour entries, answer on the carrier.
const SETTINGS: [(&str, &str); 4] = [
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv4/conf/default/forwarding", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
];

/// Makes a namespace under `name`, or opens the one that is there.
///
/// # Errors
/// When it can neither be made nor opened.
pub fn create_or_open(dir: &Path, name: &str) -> Result<Netns> {
    match Netns::create(dir, name) {
        Err(netns::Error::AlreadyExists { .. }) => Ok(Netns::open(&dir.join(name))?),
        created => Ok(created?),
    }
}

/// Turns off what a namespace of ours, and its links of these names, must not do, and removes strangers' rules: they would
/// send the carrier's packets elsewhere.
///
/// # Errors
/// When a setting or a rule cannot be read or written.
pub async fn harden(there: &NetnsLinks, links: &[&str]) -> Result<()> {
    for (key, value) in there.netns.differing_sysctls(settings(links)).await? {
        match there.netns.set_sysctl(&key, value).await {
            // The link went meanwhile.
            Ok(_) | Err(netns::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let changes = there.links.rule_changes().await?;
    Ok(there.links.undo_rule_changes(&changes).await?)
}

/// What a namespace of ours, or one of its links, does and must not: settings and rules, for a person; nothing when all is
/// well.
///
/// # Errors
/// When a setting or a rule cannot be read.
pub async fn not_hardened(there: &NetnsLinks, links: &[&str]) -> Result<Option<String>> {
    let differing = there.netns.differing_sysctls(settings(links)).await?;
    let mut shown: Vec<String> = differing.iter().map(|(key, value)| format!("{key} is not {value}")).collect();
    let changes = there.links.rule_changes().await?;
    if !changes.is_empty() {
        shown.push(changes.to_string());
    }
    Ok(Some(shown.join(", ")).filter(|shown| !shown.is_empty()))
}

/// A link's own settings decide once it exists: between two networks of a container, `forwarding` of the one that received.
fn settings(links: &[&str]) -> Vec<(String, &'static str)> {
    let own = links.iter().flat_map(|link| {
        [(format!("net/ipv4/conf/{link}/forwarding"), "0"), (format!("net/ipv6/conf/{link}/disable_ipv6"), "1")]
    });
    SETTINGS.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(own).collect()
}
