//! The private key of a membership, written again from its WireGuard device where the file of it was damaged.

use anyhow::{Context as _, Result};

use crate::agent::host::journal::Record;
use crate::agent::shared::Memberships;
use crate::model::{PrivateKey, PublicKey};
use crate::netns::Netns;
use crate::wireguard::{Backend, Device};

/// Compares the private keys in the journal with the public keys of the members, and writes those again that are missing or
/// damaged. A key that its WireGuard does not pass is named: its member goes on until its device is made anew.
pub async fn mend(memberships: &Memberships) {
    let of_members: Vec<(Record, PublicKey)> = {
        let journal = memberships.journal();
        let staying = journal.records().values().filter(|record| !record.leaving);
        let known = staying.filter_map(|record| {
            let key = memberships.world(|world| world.membership(record.id).map(|member| member.public_key))?;
            let is_it = journal.private_key(record.id).is_ok_and(|private| private.public_key() == key);
            (!is_it).then(|| (record.clone(), key))
        });
        known.collect()
    };
    for (record, key) in of_members {
        let names = record.names_text();
        match mend_one(memberships, &record, key).await {
            Ok(true) => {
                tracing::warn!("the private key of {names} was damaged: it is written again from its WireGuard")
            }
            Ok(false) => tracing::warn!(
                "the private key of {names} is missing or damaged, and its WireGuard does not pass it: when its device goes, \
                 detach the container and attach it again"
            ),
            Err(error) => tracing::warn!("the private key of {names} is missing or damaged: {error:#}"),
        }
    }
}

async fn mend_one(memberships: &Memberships, record: &Record, key: PublicKey) -> Result<bool> {
    let device = match memberships.host.facts.wireguard {
        Backend::Kernel => {
            let Some(path) = record.living_path(&memberships.host.facts.boot_id) else { return Ok(false) };
            Device::kernel(Netns::open(path)?, record.interface())
        }
        Backend::Userspace => Device::userspace(&memberships.host.config.wireguard_dir(record.network, record.address)),
    };
    let private: Option<PrivateKey> = device.private_key().await.context("asking its WireGuard")?;
    match private.filter(|private| private.public_key() == key) {
        Some(private) => memberships.journal().make_again(record.clone(), Some(&private)).map(|()| true),
        None => Ok(false),
    }
}
