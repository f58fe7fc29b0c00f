//! Namespaces of ours: made under their name, and kept from doing what a namespace does by default.

use std::path::Path;

use anyhow::Result;

use crate::netns::{self, Netns};

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

/// Turns off what a namespace of ours must not do: forward, speak IPv6.
///
/// # Errors
/// When a setting cannot be written.
pub async fn harden(netns: &Netns) -> Result<()> {
    // A new namespace takes these from the host's first one, where Docker, for one, turns forwarding on.
    let settings = [
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv6/conf/all/disable_ipv6", "1"),
        ("net/ipv6/conf/default/disable_ipv6", "1"),
    ];
    for (key, value) in settings {
        match netns.set_sysctl(key, value).await {
            // A kernel without IPv6 has nothing to turn off.
            Err(netns::Error::NotFound { .. }) if key.contains("ipv6") => {}
            result => drop(result?),
        }
    }
    Ok(())
}
