//! What this host must have for a network, from the store's image and the host's own records.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use crate::agent::host::facts::Host;
use crate::agent::host::journal::{Record, SharedJournal};
use crate::agent::world::SharedWorld;
use crate::model::{Member, MemberId, NetworkId};
use crate::topology::{Intent, LocalMember};

/// What this host must have for a network, and its records of it; no intent when the network does not exist.
pub fn intent(
    host: &Host,
    vxlan_port: NonZeroU16,
    world: &SharedWorld,
    journal: &SharedJournal,
    network: NetworkId,
) -> (Option<Intent>, Vec<Record>) {
    let records: Vec<Record> = {
        let journal = journal.lock();
        journal.records().values().filter(|record| record.network == network).cloned().collect()
    };
    let own = &host.config.host;
    let now = Instant::now();
    let (found, mut members, mut departed, vteps, clock_steps) = world.read(|world| {
        let found = world.networks().get(&network).cloned();
        let mut departed = world.departed(network);
        let mut members = BTreeMap::new();
        for member in world.members(network) {
            if world.is_held_off(member, own, now) {
                departed.insert(member.address);
            } else {
                members.insert(member.address, Arc::clone(member));
            }
        }
        (found, members, departed, world.vteps(network), world.clock_steps())
    });
    let Some(found) = found else { return (None, records) };
    let is_local = |record: &&Record| {
        let is_of = |member: &Arc<Member>| member.id == record.id && member.host == *own;
        !record.leaving && members.get(&record.address).is_some_and(is_of)
    };
    let local: BTreeMap<MemberId, LocalMember> = records
        .iter()
        .filter(is_local)
        .map(|record| {
            let device = record.device();
            let (link, binding) = (record.link(), record.binding());
            (record.id, LocalMember { link, index: record.index, binding, device })
        })
        .collect();
    // A member that this host is detaching counts as departed before the store's event arrives.
    let leaving = records.iter().filter(|record| record.leaving).map(|record| record.address);
    departed.extend(leaving);
    // A member of ours without a record is being claimed, or was left by a crash: it has no device.
    members.retain(|_, member| member.host != *own || local.contains_key(&member.id));
    let intent = Intent {
        network: found,
        host: own.clone(),
        vtep: host.facts.vtep,
        vxlan_port,
        mtu: host.facts.mtu,
        datapath: host.facts.datapath,
        members,
        departed,
        local,
        vteps,
        clock_steps,
    };
    (Some(intent), records)
}
