//! The places of members that ended on this host while the store was away. What the store has of one is this host's still, until
//! the store answers: a container that comes back before has its place again, without the store.
//!
//! They are in memory alone, with the private keys that the other hosts know the members by. The next agent has none.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::host::journal::Record;
use crate::model::{MemberId, PrivateKey};

/// What is known of a member that ended.
#[derive(Clone)]
pub struct Place {
    /// Its record, as it was.
    pub record: Record,
    /// Its key.
    pub key: PrivateKey,
}

/// The places of members that ended while the store was away, in the order of their ends.
#[derive(Default)]
pub struct Kept(Mutex<Vec<Place>>);

impl Kept {
    /// Keeps one.
    pub fn keep(&self, place: Place) {
        let mut places = self.lock();
        places.retain(|known| known.record.id != place.record.id);
        places.push(place);
    }

    /// All, the one first that ended first.
    pub fn all(&self) -> Vec<Place> {
        self.lock().clone()
    }

    /// Forgets one, which has a member again, or has been released.
    pub fn forget(&self, id: MemberId) {
        self.lock().retain(|place| place.record.id != id);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::journal::tests::record;
    use super::*;

    fn place(id: u64) -> Place {
        let id = MemberId::new(id);
        Place { record: Record { id, ..record() }, key: PrivateKey::from_random([7; 32]) }
    }

    #[test]
    fn a_place_is_there_until_it_is_forgotten_and_one_that_is_kept_again_comes_last() {
        let kept = Kept::default();
        kept.keep(place(1));
        kept.keep(place(2));
        let all = || kept.all().iter().map(|place| place.record.id.get()).collect::<Vec<_>>();
        assert_eq!(all(), [1, 2]);
        kept.keep(place(1));
        assert_eq!(all(), [2, 1], "another container's turn");
        kept.forget(MemberId::new(2));
        assert_eq!(all(), [1]);
    }
}
