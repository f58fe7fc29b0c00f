//! Carrying out the operations of a pass: those of one kind at once, none without its ground.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;

use futures::StreamExt;

use super::local::LocalNetwork;
use super::objects;
use crate::agent::door::error::ControlError;
use crate::model::MemberId;
use crate::topology::{Key, Op};

/// How many operations of one kind run at once.
const CONCURRENCY: usize = 16;

/// What went wrong in a pass: with one member, or with the network.
#[derive(Default)]
pub struct Failures {
    /// The objects that failed, and those whose ground did.
    pub keys: BTreeSet<Key>,
    /// Why a member failed.
    pub members: BTreeMap<MemberId, ControlError>,
    /// With a row that belongs to no member of this host.
    pub rows: Vec<ControlError>,
    /// With the network's own.
    pub network: Option<ControlError>,
}

/// What operations led to.
#[derive(Default)]
pub struct Applied {
    /// What was carried out.
    pub done: Vec<Op>,
    /// What failed, and how.
    pub failed: Vec<(Key, anyhow::Error)>,
    /// What was not tried, since its ground failed.
    pub hopeless: Vec<Key>,
}

/// Applies operations in order, those of one kind at once, beside those that failed before.
///
/// An operation whose ground failed is left out; everything else is done.
pub async fn apply(net: &LocalNetwork, ops: &[&Op], failed: &BTreeSet<Key>) -> Applied {
    let mut failed = failed.clone();
    let mut applied = Applied::default();
    let same_kind =
        |a: &&Op, b: &&Op| discriminant(*a) == discriminant(*b) && discriminant(&a.key()) == discriminant(&b.key());
    for group in ops.chunk_by(same_kind) {
        let ready = |op: &&Op| {
            let key = op.key();
            match op {
                // What keeps private traffic in is not taken off a tunnel that could not be, nor the network's programs
                // while a guard stays: it is known and removed by them alone.
                Op::Remove(..) => !failed.iter().any(|failed| failed.keeps(key)),
                Op::Create(..) | Op::Replace(..) => {
                    !key.parents().iter().chain(&key.safeguards()).any(|ground| failed.contains(ground))
                }
            }
        };
        let (doable, hopeless): (Vec<&Op>, Vec<&Op>) = group.iter().copied().partition(ready);
        failed.extend(hopeless.iter().map(|op| op.key()));
        applied.hopeless.extend(hopeless.iter().map(|op| op.key()));
        let steps: Vec<_> = doable.into_iter().map(|op| async move { (op, objects::apply(net, op).await) }).collect();
        let results: Vec<_> = futures::stream::iter(steps).buffer_unordered(CONCURRENCY).collect().await;
        for (op, result) in results {
            match result {
                Ok(()) => {
                    tracing::debug!(network = %net.network, kind = op.key().kind(), "{op}");
                    applied.done.push(op.clone());
                }
                Err(error) => {
                    failed.insert(op.key());
                    applied.failed.push((op.key(), error));
                }
            }
        }
    }
    applied
}

/// What the members that were here before are told, when another one comes or goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// Which peers they have.
    Peers,
    /// Also which addresses have been left: first that, then which peers they have.
    PeersAndDeparted,
}

/// Parts what members that were here before are told from all else. Of one whose device is made or removed nothing is parted.
pub fn parted(ops: &[Op], telling: Telling) -> (Vec<&Op>, Vec<&Op>) {
    let of_device = |op: &Op| matches!(op.key(), Key::Device(_)).then(|| op.key().member()).flatten();
    let own: BTreeSet<MemberId> = ops.iter().filter_map(of_device).collect();
    let is_told = |key| {
        let is_departed = matches!(key, Key::Departed(_)) && telling == Telling::PeersAndDeparted;
        is_departed || matches!(key, Key::Peers(_))
    };
    let is_a_neighbours = |op: &&Op| is_told(op.key()) && op.key().member().is_some_and(|id| !own.contains(&id));
    let (neighbours, own) = ops.iter().partition(is_a_neighbours);
    (own, neighbours)
}

impl Failures {
    /// Why a member failed.
    pub fn of(&self, member: MemberId) -> Option<&ControlError> {
        self.network.as_ref().or_else(|| self.members.get(&member))
    }

    /// Adds what went wrong with an object.
    pub fn add(&mut self, key: Key, error: ControlError) {
        self.keys.insert(key);
        match key.member() {
            // The first error is the cause; the later ones follow from it.
            Some(member) => drop(self.members.entry(member).or_insert(error)),
            None if key.is_the_networks() => drop(self.network.get_or_insert(error)),
            None => self.rows.push(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Object, PeerTable, Seen, spec};

    #[test]
    fn the_neighbours_are_parted_from_a_member_whose_device_comes_or_goes() {
        let [new, neighbour] = [1, 2].map(MemberId::new);
        let peers = |id| Object::Peers(id, spec::Peers { table: PeerTable::of(BTreeMap::new()) });
        let departed = |id| Object::Departed(id, spec::Departed { addresses: std::sync::Arc::default() });
        let ops = [
            Op::Remove(Seen::Broken(Key::Device(new), "for the test".to_owned())),
            Op::Create(departed(new)),
            Op::Create(departed(neighbour)),
            Op::Create(peers(new)),
            Op::Create(peers(neighbour)),
        ];
        let keys = |ops: Vec<&Op>| ops.into_iter().map(Op::key).collect::<Vec<_>>();
        let told = |telling| {
            let (own, neighbours) = parted(&ops, telling);
            assert_eq!(own.len() + neighbours.len(), ops.len());
            keys(neighbours)
        };
        assert_eq!(told(Telling::Peers), [Key::Peers(neighbour)]);
        assert_eq!(told(Telling::PeersAndDeparted), [Key::Departed(neighbour), Key::Peers(neighbour)], "in this order");
        assert_eq!(keys(parted(&ops[2..], Telling::Peers).1), [Key::Peers(new), Key::Peers(neighbour)]);
    }
}
