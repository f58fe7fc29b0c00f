//! Namespaces of ours: made under their name, and kept from doing what a namespace does by default.

use std::path::Path;

use anyhow::Result;

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

/// Turns off what a namespace of ours, and one of its links, must not do.
///
/// # Errors
/// When a setting cannot be read or written.
pub async fn harden(netns: &Netns, link: Option<&str>) -> Result<()> {
    for (key, value) in netns.differing_sysctls(settings(link)).await? {
        netns.set_sysctl(&key, value).await?;
    }
    Ok(())
}

/// What a namespace of ours, or one of its links, does and must not: the settings, for a person; nothing when all is well.
///
/// # Errors
/// When a setting cannot be read.
pub async fn not_hardened(netns: &Netns, link: Option<&str>) -> Result<Option<String>> {
    let differing = netns.differing_sysctls(settings(link)).await?;
    let shown: Vec<String> = differing.iter().map(|(key, value)| format!("{key} is not {value}")).collect();
    Ok(Some(shown.join(", ")).filter(|shown| !shown.is_empty()))
}

/// A link's own settings decide once it exists: between two networks of a container, `forwarding` of the one that received.
fn settings(link: Option<&str>) -> Vec<(String, &'static str)> {
    let own = link.into_iter().flat_map(|link| {
        [(format!("net/ipv4/conf/{link}/forwarding"), "0"), (format!("net/ipv6/conf/{link}/disable_ipv6"), "1")]
    });
    SETTINGS.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(own).collect()
}
