//! What the store has again as it is believed.
//!
//! It gives no belief a reason to end, so nothing is looked at but the records themselves. While a store is rebuilt an agent
//! follows such a transaction for each membership of the fleet, with the records of all the others still lost.

use super::fact::About;
use super::held::{Belief, Stored};
use crate::store::Event;

impl Belief {
    /// Whether a transaction puts nothing but records as they are believed, and nothing that is not believed depends on them.
    pub(super) fn comes_back(&self, changes: &[Event]) -> bool {
        let has_unbelieved = !self.ghosts.is_empty() || !self.refused.is_empty() || !self.marks.beaten.is_empty();
        self.was_read && !has_unbelieved && changes.iter().all(|change| self.is_as_believed(change))
    }

    fn is_as_believed(&self, change: &Event) -> bool {
        let Event::Put { key, value, .. } = change else { return false };
        let Some(held) = self.held.get(key).filter(|held| held.value == *value && !held.is_over()) else {
            return false;
        };
        if self.is_beaten(&held.fact.about) {
            return false;
        }
        match &held.fact.about {
            About::Member { member, .. } => {
                self.marks.of(member).is_none() && self.is_ghost(key, member, held.fact.serial).is_none()
            }
            // With it, the ends that were seen in it are believed again.
            About::Network(network) => !self.ends.facts().any(|end| end.about.network() == Some(*network)),
            About::NetworkMark(_)
            | About::InstanceMark(_)
            | About::NetworkPointer(_)
            | About::MemberPointer { .. }
            | About::Address { .. }
            | About::Host { .. }
            | About::Drain(_)
            | About::Presence { .. } => true,
        }
    }

    /// Follows such a transaction. What is believed stays, and is told for the revisions.
    pub(super) fn take_back(&mut self, changes: &[Event]) -> Vec<Event> {
        for change in changes {
            if let Event::Put { key, revision, .. } = change
                && let Some(held) = self.held.get_mut(key)
            {
                held.stored = Stored::Same(*revision);
                self.lost.remove(key);
                self.revision = self.revision.max(*revision);
                self.version += 1;
            }
        }
        changes.to_vec()
    }
}
