//! Marks: an operator's word that a network ended with its members. A mark beats each record of the network, whichever came
//! first, and is never taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::model::NetworkId;
use crate::store::{Key, Revision};

/// The marks that are believed, and what the store has against them.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    networks: BTreeSet<NetworkId>,
    /// Records of these networks that the store has.
    pub(super) beaten: BTreeMap<Key, Beaten>,
    /// Whether what is believed has not been compared with the newest mark.
    pub(super) is_new: bool,
}

/// A record that a mark beats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beaten {
    pub(super) revision: Revision,
    pub(super) since: Instant,
}

impl Marks {
    pub(super) const fn none() -> Self {
        Self { networks: BTreeSet::new(), beaten: BTreeMap::new(), is_new: false }
    }

    pub(super) fn note_network(&mut self, network: NetworkId) {
        self.is_new |= self.networks.insert(network);
    }

    pub(super) fn has_network(&self, network: NetworkId) -> bool {
        self.networks.contains(&network)
    }
}
