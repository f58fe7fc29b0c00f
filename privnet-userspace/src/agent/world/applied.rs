//! How far the image has come.

use super::World;
use crate::store::{Event, Key, Listing, Revision, keys};

impl World {
    /// The revision of the newest change of a network, a member or an address that is in this image.
    #[must_use]
    pub const fn applied(&self) -> Revision {
        self.applied
    }

    pub(super) fn note_applied(&mut self, key: &Key, revision: Revision) {
        let counts = [keys::networks(), keys::all_members(), keys::all_addresses()];
        if counts.iter().any(|prefix| key.below(prefix).is_some()) {
            self.applied = self.applied.max(revision);
        }
    }

    /// Follows what a reading of the whole store changes in what is believed.
    pub(super) fn read_again(&mut self, believed: &[Event], listing: &Listing) {
        self.follow_all(believed);
        // A record that could not be read may be gone, and the store may be an older one.
        self.problems.retain(|key, _| listing.entries.iter().any(|entry| entry.key.as_str() == key));
        self.applied = self.applied.min(listing.revision);
    }
}
