//! How much is believed.

use super::held::Belief;
use crate::store::keys;

/// How much is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Networks.
    pub networks: usize,
    /// Memberships.
    pub members: usize,
    /// Hosts.
    pub hosts: usize,
}

impl Belief {
    /// How many networks, memberships and hosts are believed.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let below = |prefix| self.held.keys().filter(|key| key.below(&prefix).is_some()).count();
        Counts { networks: below(keys::networks()), members: self.members.len(), hosts: below(keys::hosts()) }
    }

    /// Whether any membership is believed.
    #[must_use]
    pub fn believes_in_members(&self) -> bool {
        !self.members.is_empty()
    }
}
