//! The namespaces in which devices are made that are handed over: each stands for a container until that is there.

use crate::agent::host::journal::{Record, Stage};
use crate::agent::membership;
use crate::agent::netns_links::NetnsLinks;
use crate::agent::shared::Memberships;
use crate::link;
use crate::netns::{self, Netns};
use crate::topology::ownership::{self, NetnsName};

/// Ends the members whose devices were made and never given, or given back and not ended, and removes the namespaces that no
/// record leads to: their agent died in between, and the program that asked for them was told so.
///
/// # Errors
/// When the namespaces cannot be listed, or a record not be changed.
pub fn end_abandoned(memberships: &Memberships) -> anyhow::Result<()> {
    let records: Vec<Record> = memberships.journal().records().values().cloned().collect();
    let of = |record: &Record| record.handover.as_ref().map(|handover| (handover.digits, handover.stage));
    for record in records.iter().filter(|record| !record.leaving) {
        if of(record).is_some_and(|(_, stage)| matches!(stage, Stage::Made | Stage::Returned)) {
            // What the store has of it is released as that of any member without a record.
            drop(membership::leave(memberships, record)?);
        }
    }
    let config = &memberships.host.config;
    for pin in Netns::list(&config.netns_dir)? {
        let Some(NetnsName::Handover(digits)) = ownership::parse_netns(&config.netns_prefix, &pin.name) else {
            continue;
        };
        if !records.iter().any(|record| of(record).is_some_and(|(known, _)| known == digits)) {
            Netns::remove(&config.netns_dir, &pin.name)?;
        }
    }
    Ok(())
}

/// Makes the namespace that stands for a container until that is there.
///
/// # Errors
/// When the kernel refuses.
pub async fn make(shared: &Memberships, digits: u64) -> anyhow::Result<Netns> {
    let config = &shared.host.config;
    let name = ownership::handover_netns(&config.netns_prefix, digits);
    let netns = match Netns::create(&config.netns_dir, &name) {
        Err(netns::Error::AlreadyExists { .. }) => Netns::open(&config.netns_path(&name))?,
        created => created?,
    };
    let there = NetnsLinks::enter(netns.clone()).await?;
    link::ensure_loopback_up(&there.links).await?;
    Ok(netns)
}

/// Removes it; what cannot be removed is in the log, and the next agent's.
pub fn remove(shared: &Memberships, digits: u64) {
    let config = &shared.host.config;
    let name = ownership::handover_netns(&config.netns_prefix, digits);
    if let Err(error) = Netns::remove(&config.netns_dir, &name) {
        tracing::warn!("{error}");
    }
}
